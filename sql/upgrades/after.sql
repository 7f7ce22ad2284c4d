-- The end of every upgrade.

-- PostgreSQL records what an extension's script grants, and with it whatever else the object's privileges held by then,
-- as the extension's own; and pg_dump leaves an extension's own privileges out. What you granted to roles of yours would
-- be missing after the next restore: so it is taken out of that record again. And months of the audit log are not the
-- extension's at all.
do $$
declare
  ours oid[] := array(select oid from pg_catalog.pg_roles
                       where rolname in ('auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation'));
  recorded record;
begin
  delete from pg_catalog.pg_init_privs p
   using pg_catalog.pg_inherits i
   where p.classoid = 'pg_catalog.pg_class'::regclass and p.objoid = i.inhrelid and i.inhparent = 'auth.audit_log'::regclass
     and i.inhrelid <> 'auth.audit_log_default'::regclass;
  for recorded in
    select p.classoid, p.objoid, p.objsubid, array_agg(entry) filter (where is_ours) as initprivs
      from pg_catalog.pg_init_privs p,
           unnest(p.initprivs) entry,
           -- Of PUBLIC, of our roles, of the owner.
           lateral (select bool_and(a.grantee = any (0 || ours) or a.grantee = a.grantor) as is_ours from aclexplode(array[entry]) a) a
     where (p.classoid = 'pg_catalog.pg_namespace'::regclass and p.objoid = 'auth'::regnamespace)
        or exists (select from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid
                    where d.classid = p.classoid and d.objid = p.objoid and d.deptype = 'e' and e.extname = 'auth_sessions')
     group by p.classoid, p.objoid, p.objsubid
    having not bool_and(is_ours)
  loop
    update pg_catalog.pg_init_privs p set initprivs = recorded.initprivs
     where (p.classoid, p.objoid, p.objsubid) = (recorded.classoid, recorded.objoid, recorded.objsubid);
    -- From PostgreSQL 17 on, the record also keeps a role from being dropped.
    delete from pg_catalog.pg_shdepend s
     where s.deptype = 'i' and s.dbid = (select oid from pg_catalog.pg_database where datname = current_database())
       and (s.classid, s.objid, s.objsubid) = (recorded.classoid, recorded.objoid, recorded.objsubid)
       and s.refclassid = 'pg_catalog.pg_authid'::regclass and s.refobjid <> all (ours);
  end loop;
end
$$;
