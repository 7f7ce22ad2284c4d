-- What a DBA can get wrong, and a dump, a restore or an upgrade can leave behind: each function looks at one topic and
-- returns what it found and what to do about it: a statement where there is one. They run with the rights of
-- who asks (auth_monitor, auth_admin, a superuser) and read nothing but the catalogue, settings and a few rows. What was
-- shipped is known without a list of it: PostgreSQL keeps the privileges that the extension's script gave (pg_init_privs).

create function auth.check_versions() returns table (severity text, finding text, advice text)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  select 'error', format('PostgreSQL %s is not supported', current_setting('server_version')), 'Use PostgreSQL 15 to 18.'
   where current_setting('server_version_num')::int not between 150000 and 189999
  union all
  select 'error', format('the extension has version %s, the library that is loaded %s', e.extversion, auth.extension_version()),
         case when a.default_version = e.extversion
              then 'The files on disk are right: restart the server (where it preloads auth_sessions), or connect again.'
              else format('alter extension auth_sessions update;  -- to %s, which is on disk', a.default_version) end
    from pg_extension e left join pg_available_extensions a on a.name = e.extname
   where e.extname = 'auth_sessions' and e.extversion <> auth.extension_version()
  union all
  select 'warning', format('the files on disk have version %s, the extension in this database %s', a.default_version, e.extversion),
         'alter extension auth_sessions update;'
    from pg_extension e join pg_available_extensions a on a.name = e.extname
   where e.extname = 'auth_sessions' and a.default_version <> e.extversion and e.extversion = auth.extension_version()
  union all
  select 'warning', format('the database has the encoding %s', pg_encoding_to_char(d.encoding)),
         'Names and addresses that it cannot spell are refused. Dump it, and restore into: create database … encoding ''UTF8'' template template0;'
    from pg_database d where d.datname = current_database() and pg_encoding_to_char(d.encoding) <> 'UTF8'
  union all
  select 'note', 'this server is a standby: it verifies sessions, and refuses whatever writes', 'Connect the service to the primary.'
   where pg_is_in_recovery()
$$;
comment on function auth.check_versions is 'Part of auth.check_installation(): server, extension and library.';

-- Groups that a role is in, by whatever way; the groups are in themselves, through nothing.
create function auth.members_of_roles() returns table (group_name name, member oid, member_name name, through name)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  with recursive member (group_name, id, through) as (
    select r.rolname, r.oid, null::oid from pg_roles r
     where r.rolname in ('auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')
    union
    select m.group_name, a.member, a.roleid from member m join pg_auth_members a on a.roleid = m.id)
  select m.group_name, m.id, r.rolname, t.rolname
    from member m join pg_roles r on r.oid = m.id left join pg_roles t on t.oid = m.through
$$;
comment on function auth.members_of_roles is 'Who is in which group role of the extension, and which role must be revoked to end it: the group itself, or one that is in it. Each group is in itself.';

create function auth.check_roles() returns table (severity text, finding text, advice text)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  select 'error', format('the group role %I can log in, or has a right that row-level security does not bind', r.rolname),
         format('alter role %I nologin nosuperuser nobypassrls nocreaterole nocreatedb noreplication;', r.rolname)
    from auth.members_of_roles() m join pg_roles r on r.oid = m.member
   where m.through is null
     and (r.rolcanlogin or r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication)
  union all
  select 'error', format('the group role %I is itself a member of %I', m.member_name, g.rolname),
         format('revoke %I from %I;', g.rolname, m.member_name)
    from auth.members_of_roles() m join pg_auth_members a on a.member = m.member join pg_roles g on g.oid = a.roleid
   where m.through is null
  union all
  select 'error', format('%I is a member of auth_owner, whom no policy binds', m.member_name), format('revoke %I from %I;', m.through, m.member_name)
    from auth.members_of_roles() m where m.group_name = 'auth_owner' and m.through is not null
  union all
  select 'error', format('%I is in auth_api and a superuser, or has BYPASSRLS, CREATEROLE or REPLICATION: whoever breaks into the service has everything', r.rolname),
         format('alter role %I nosuperuser nobypassrls nocreaterole noreplication;', r.rolname)
    from auth.members_of_roles() m join pg_roles r on r.oid = m.member
   where m.group_name = 'auth_api' and m.through is not null
     and (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolreplication)
  union all
  select case o.group_name when 'auth_monitor' then 'warning' else 'error' end,
         format('%I is in auth_api and in %I too: whoever breaks into the service has both', m.member_name, o.group_name),
         format('revoke %I from %I;  -- and give that work a login of its own', o.through, m.member_name)
    from auth.members_of_roles() m join auth.members_of_roles() o on o.member = m.member
   where m.group_name = 'auth_api' and o.group_name in ('auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')
     and m.through is not null and o.through is not null
  union all
  select 'error', format('the login %I is in %I but does not inherit its rights', r.rolname, m.group_name),
         format('alter role %1$I inherit; revoke %2$I from %1$I; grant %2$I to %1$I;', r.rolname, m.through)
    from auth.members_of_roles() m join pg_roles r on r.oid = m.member
   where r.rolcanlogin and m.through is not null and not pg_has_role(r.oid, m.group_name, 'usage')
  union all
  select 'warning', 'no login is in auth_api: the service has nothing to log in as',
         'create role auth_service login in role auth_api password ''…'';'
   where not exists (select from auth.members_of_roles() m join pg_roles r on r.oid = m.member
                      where m.group_name = 'auth_api' and r.rolcanlogin)
$$;
comment on function auth.check_roles is 'Part of auth.check_installation(): group roles, and the logins in them.';

-- Owners, row-level security, policies, triggers, definer functions: what everything rests on.
create function auth.check_protection() returns table (severity text, finding text, advice text)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  with relation as (
    select c.*, c.oid::regclass::text as name, c.relkind in ('r', 'p') as is_table,
           case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind
      from pg_class c
     where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
       -- What belongs to the extension, and the months of its log; a table that somebody put beside them is theirs.
       and (c.relispartition or exists (select from pg_depend d join pg_extension e on e.oid = d.refobjid
              where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass
                and d.deptype = 'e' and e.extname = 'auth_sessions'))),
  function as (
    select p.*, p.oid::regprocedure::text as name
      from pg_proc p join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
      join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass and e.extname = 'auth_sessions'),
  policy as (
    select r.oid as relation, p.*, pg_get_expr(p.polqual, p.polrelid) as condition
      from relation r join pg_policy p on p.polrelid = r.oid where p.polpermissive)
  select 'error', format('schema auth belongs to %s, who is no superuser and can replace what is in it', n.nspowner::regrole),
         'alter schema auth owner to postgres;'
    from pg_namespace n join pg_roles o on o.oid = n.nspowner where n.nspname = 'auth' and not o.rolsuper
  union all
  select 'error', format('%s %s belongs to %s', r.kind, r.name, r.relowner::regrole), format('alter %s %s owner to auth_owner;', r.kind, r.name)
    from relation r where r.relowner <> 'auth_owner'::regrole
  union all
  select 'error', format('function %s belongs to %s', f.name, f.proowner::regrole), format('alter function %s owner to auth_owner;', f.name)
    from function f where f.proowner <> 'auth_owner'::regrole
  union all
  select 'error', format('row-level security of %s is not enabled and forced', r.name),
         format('alter table %s enable row level security, force row level security;', r.name)
    from relation r where r.is_table and not (r.relrowsecurity and r.relforcerowsecurity)
  union all
  select 'error', format('%s has no policy for its owner: the functions of the extension see nothing of it', r.name),
         format('create policy owner_writes on %s to auth_owner using (true) with check (true);', r.name)
    from relation r
   where r.is_table and not exists (select from policy p where p.relation = r.oid and 'auth_owner'::regrole = any (p.polroles)
                                       and p.polcmd = '*' and p.condition = 'true')
  union all
  select 'error', format('%s may read %s, and no policy lets it see a row', reader.name, r.name),
         format('Create the policy again as auth_sessions--%s.sql has it: the file is in $(pg_config --sharedir)/extension.', auth.extension_version())
    from relation r, (values ('auth_api'), ('auth_monitor'), ('auth_admin')) reader (name)
   -- A superuser may read everything, and needs no policy: auth.check_roles() has said so.
   where r.is_table and not (select o.rolsuper from pg_roles o where o.rolname = reader.name) and has_any_column_privilege(reader.name, r.oid, 'select')
     and not exists (select from policy p where p.relation = r.oid and p.polcmd in ('r', '*')
                        and (reader.name::regrole = any (p.polroles) or 0 = any (p.polroles)))
  union all
  select 'error', format('policy %I on %s opens it to %s without asking who the transaction is', p.polname, p.relation::regclass,
                         case when 0 = any (p.polroles) then 'everybody' else 'the service' end),
         format('drop policy %I on %s;', p.polname, p.relation::regclass)
    from policy p
   where ('auth_api'::regrole = any (p.polroles) or 0 = any (p.polroles))
     and coalesce(p.condition, '') !~ 'auth\.current_(user|organization|session)_id\(\)'
  union all
  select 'error', format('trigger %I of %s is disabled', t.tgname, r.name), format('alter table %s enable trigger %I;', r.name, t.tgname)
    from relation r join pg_trigger t on t.tgrelid = r.oid where t.tgenabled not in ('O', 'A')
  union all
  select 'error', format('no trigger calls %s any more', f.name),
         format('Create the trigger again as auth_sessions--%s.sql has it: the file is in $(pg_config --sharedir)/extension.', auth.extension_version())
    from function f
   -- Sealing makes the trigger that calls refuse_late_row.
   where f.prorettype = 'trigger'::regtype and f.proname <> 'refuse_late_row' and not exists (select from pg_trigger t where t.tgfoid = f.oid)
  union all
  select 'error', format('%s can be truncated', r.name),
         format('create trigger audit_log_no_truncate before truncate on %s for each statement execute function auth.refuse_change();', r.name)
    from relation r
   where (r.oid = 'auth.audit_log'::regclass or r.relispartition) and r.is_table
     and not exists (select from pg_trigger t where t.tgrelid = r.oid and t.tgfoid = 'auth.refuse_change()'::regprocedure and t.tgtype & 32 <> 0)
  union all
  select 'error', format('%s is sealed, and takes rows', r.name),
         format('create or replace trigger audit_log_sealed before insert on %s for each row execute function auth.refuse_late_row();', r.name)
    from relation r join auth.audit_seals s on s.partition = r.relname and s.dropped_at is null
   where r.relname <> 'audit_log_default'
     and not exists (select from pg_trigger t where t.tgrelid = r.oid and t.tgfoid = 'auth.refuse_late_row()'::regprocedure)
  union all
  select 'error', format('function %s runs with its owner''s rights in whoever''s search_path', f.name),
         format('alter function %s set search_path = pg_catalog, pg_temp;', f.name)
    from function f join pg_language l on l.oid = f.prolang
   -- What is in C and pins none names everything with its schema.
   where f.prosecdef and l.lanname <> 'c' and not coalesce(f.proconfig @> array['search_path=pg_catalog, pg_temp'], false)
  union all
  select 'warning', format('index %s is not valid', i.indexrelid::regclass), format('reindex index concurrently %s;', i.indexrelid::regclass)
    from relation r join pg_index i on i.indrelid = r.oid where not i.indisvalid
  union all
  select 'warning', format('constraint %I of %s has not been validated', c.conname, r.name),
         format('alter table %s validate constraint %I;', r.name, c.conname)
    from relation r join pg_constraint c on c.conrelid = r.oid where not c.convalidated
$$;
comment on function auth.check_protection is 'Part of auth.check_installation(): owners, row-level security, policies, triggers, definer functions, indexes.';

-- The privileges as they are against those that the extension's script gave.
create function auth.check_grants() returns table (severity text, finding text, advice text)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  with object as (
    select 'pg_class'::regclass as catalogue, c.oid, 0 as column_number, c.relowner as owner, c.relacl as acl,
           (case c.relkind when 'S' then 's' else 'r' end)::"char" as kind,
           format('%s%s', case c.relkind when 'S' then 'sequence ' else '' end, c.oid::regclass) as name, null as column_name
      from pg_class c where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
    union all
    select 'pg_class'::regclass, c.oid, a.attnum, c.relowner, a.attacl, 'c', c.oid::regclass::text, quote_ident(a.attname)
      from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v')
    union all
    select 'pg_proc'::regclass, p.oid, 0, p.proowner, p.proacl, 'f', format('function %s', p.oid::regprocedure), null
      from pg_proc p where p.pronamespace = 'auth'::regnamespace),
  privilege as (
    select o.catalogue, o.kind, o.name, o.column_name, o.oid, a.grantee, a.privilege_type, false as is_shipped
      from object o, aclexplode(coalesce(o.acl, acldefault(o.kind, o.owner))) a where a.grantee <> o.owner
    union all
    select o.catalogue, o.kind, o.name, o.column_name, o.oid, a.grantee, a.privilege_type, true
      from object o join pg_init_privs i on i.classoid = o.catalogue and i.objoid = o.oid and i.objsubid = o.column_number,
           aclexplode(i.initprivs) a where a.grantee <> o.owner),
  -- One line for all columns of a table.
  difference as (
    select p.kind, p.name, p.oid, p.grantee, bool_and(p.is_shipped) as is_missing,
           coalesce(r.rolname::text, 'PUBLIC') as who,
           lower(p.privilege_type) || coalesce(' (' || string_agg(p.column_name, ', ' order by p.column_name) || ')', '') as what
      from (select kind, name, column_name, oid, grantee, privilege_type, bool_and(is_shipped) as is_shipped from privilege
             group by 1, 2, 3, 4, 5, 6 having count(distinct is_shipped) = 1) p
      left join pg_roles r on r.oid = p.grantee
     where p.grantee = 0 or r.oid is not null
     group by p.kind, p.name, p.oid, p.grantee, r.rolname, p.privilege_type, p.is_shipped)
  select 'error', format('%s lacks %s on %s', d.who, d.what, d.name), format('grant %s on %s to %s;', d.what, d.name, quote_ident(d.who))
    from difference d where d.is_missing
  union all
  select case when d.grantee = 0 or d.who like 'auth\_%' and d.who in ('auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')
              then 'error' else 'warning' end,
         format('%s has %s on %s, which the extension does not give', d.who, d.what, d.name),
         format('revoke %s on %s from %s;', d.what, d.name, case when d.grantee = 0 then 'public' else quote_ident(d.who) end)
    from difference d
   where not d.is_missing
     -- Who am I, and is my login fresh: meant to be granted to the roles of your own policies.
     and not (d.grantee <> 0 and d.kind = 'f' and d.name ~ '^function auth\.(current_(user_id|organization_id|session_id|roles|scopes)|has_scope|session_is_live|require_auth_age)\(')
  union all
  select 'error', format('%s may create objects in schema auth', coalesce(r.rolname, 'PUBLIC')),
         format('revoke create on schema auth from %s;', coalesce(quote_ident(r.rolname), 'public'))
    from pg_namespace n, aclexplode(n.nspacl) a left join pg_roles r on r.oid = a.grantee
   where n.nspname = 'auth' and a.privilege_type = 'CREATE' and a.grantee <> n.nspowner and r.rolname is distinct from 'auth_owner'
  union all
  select 'error', format('%s may not enter schema auth', m.group_name), format('grant usage on schema auth to %I;', m.group_name)
    from auth.members_of_roles() m where m.through is null and not has_schema_privilege(m.member, 'auth', 'usage')
$$;
comment on function auth.check_grants is 'Part of auth.check_installation(): privileges against those that the extension gave.';

create function auth.setting_of_role(role oid, setting text) returns text
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  select coalesce(
    (select substr(c.value, length(setting) + 2)
       from pg_db_role_setting s, unnest(s.setconfig) c (value)
      where s.setrole in (role, 0) and s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
        and starts_with(c.value, setting || '=')
      order by s.setrole <> 0 desc, s.setdatabase <> 0 desc limit 1),
    current_setting(setting, true))
$$;
comment on function auth.setting_of_role is 'What a setting is for a login in this database: alter role … in database, alter role, alter database, or the server''s (as the caller has it).';

create function auth.check_settings() returns table (severity text, finding text, advice text)
  language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
begin
  -- The settings of the extension are there when its library is.
  perform auth.extension_version();
  return query
  with login as (
    select distinct m.member, m.member_name as name from auth.members_of_roles() m join pg_roles r on r.oid = m.member
     where r.rolcanlogin and m.group_name in ('auth_api', 'auth_mailer', 'auth_federation'))
  select 'error', format('%s is off: after a crash of the server, data is lost or broken', s.name), format('alter system set %s = on;  -- then reload: select pg_reload_conf();', s.name)
    from pg_settings s where s.name in ('fsync', 'full_page_writes') and s.setting = 'off'
  union all
  select 'warning', format('%s is off: tables grow without end, and plans are blind', s.name), format('alter system set %s = on;', s.name)
    from pg_settings s where s.name in ('autovacuum', 'track_counts') and s.setting = 'off'
  union all
  select 'warning', format('%s commits without waiting for the disk: after a crash, refreshes that were answered are gone, and so are revocations', l.name),
         format('alter role %I set synchronous_commit = on;', l.name)
    from login l where auth.setting_of_role(l.member, 'synchronous_commit') = 'off'
  union all
  select 'error', format('triggers do not fire for %s (session_replication_role): disabling a user ends no session', l.name),
         format('alter role %I set session_replication_role = origin;', l.name)
    from login l where auth.setting_of_role(l.member, 'session_replication_role') = 'replica'
  union all
  select 'error', format('%s may only read (default_transaction_read_only)', l.name), format('alter role %I set default_transaction_read_only = off;', l.name)
    from login l where auth.setting_of_role(l.member, 'default_transaction_read_only') = 'on'
  union all
  -- They carry proofs and addresses, never a password or a token in plain text; but a log is read by many.
  select 'warning', format('parameters of %s''s statements are written to the server''s log (%s)', l.name, p.name), format('alter role %I set %s = 0;', l.name, p.name)
    from login l, (values ('log_parameter_max_length'), ('log_parameter_max_length_on_error')) p (name)
   where auth.setting_of_role(l.member, p.name) !~ '^0[A-Za-z]*$'
  union all
  select 'error', format('there is no setting %s, and somebody set it (alter role or alter database)', split_part(c.value, '=', 1)),
         'select name, short_desc from pg_settings where name like ''auth_sessions.%'';  -- is it one of these?'
    from pg_db_role_setting s, unnest(s.setconfig) c (value)
   where starts_with(c.value, 'auth_sessions.') and not exists (select from pg_settings g where g.name = split_part(c.value, '=', 1))
  union all
  select 'warning', 'auth_sessions.retry_window is 0: a client whose answer was lost, and two tabs that refresh at once, are taken for thieves',
         'alter system reset auth_sessions.retry_window;  -- 60 s'
   where current_setting('auth_sessions.retry_window')::interval = interval '0'
  union all
  select 'error', 'auth_sessions.refresh_idle_ttl is not longer than auth_sessions.retry_window: sessions end before their client has asked again',
         'alter system reset auth_sessions.refresh_idle_ttl;  -- 7 days'
   where current_setting('auth_sessions.refresh_idle_ttl')::interval <= current_setting('auth_sessions.retry_window')::interval
  union all
  select 'warning', 'auth_sessions.session_max_age is shorter than auth_sessions.refresh_idle_ttl: sessions end while they are in use',
         'alter system reset auth_sessions.session_max_age;  -- 30 days; or shorten refresh_idle_ttl'
   where current_setting('auth_sessions.session_max_age')::interval < current_setting('auth_sessions.refresh_idle_ttl')::interval
  union all
  select 'warning', 'auth_sessions.retry_window_max is shorter than auth_sessions.retry_window: a client that asks for more gets less',
         'alter system reset auth_sessions.retry_window_max;  -- 10 min'
   where current_setting('auth_sessions.retry_window_max')::interval < current_setting('auth_sessions.retry_window')::interval;
end
$$;
comment on function auth.check_settings is 'Part of auth.check_installation(): settings of the server, of the extension, and of the logins.';

create function auth.check_upkeep() returns table (severity text, finding text, advice text)
  language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
declare
  -- The worker counts itself, where the library is preloaded; who else cleans shows by what is cleaned.
  counted constant auth.session_statistics := (select s from auth.session_statistics s);
  interval_of_worker constant interval := current_setting('auth_sessions.cleanup_interval')::interval;
  is_its_database constant boolean :=
    current_database() = any (regexp_split_to_array(current_setting('auth_sessions.cleanup_database'), '\s*,\s*'));
  last_turn timestamptz := greatest(counted.last_maintenance_at, counted.stats_reset, pg_postmaster_start_time());
begin
  return query
  select 'error', 'the background worker is to look after this database (auth_sessions.cleanup_database), and there is none: the library is not preloaded',
         'shared_preload_libraries = ''auth_sessions'' in postgresql.conf, and restart the server'
   where is_its_database and not counted.is_counting
  union all
  select 'note', 'the library is preloaded, and its worker does not look after this database',
         format('alter system set auth_sessions.cleanup_database = %L;  -- and select pg_reload_conf(); unless pg_cron or the service cleans', current_database())
   where not is_its_database and counted.is_counting
  union all
  select 'error', format('the background worker has not finished a turn since %s', to_char(last_turn at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')),
         'The server''s log says why: look for auth_sessions. Are two of max_worker_processes free?'
   where is_its_database and counted.is_counting and clock_timestamp() - last_turn > 3 * interval_of_worker and not pg_is_in_recovery()
  union all
  select 'warning', format('maintenance failed at %s with SQLSTATE %s', to_char(counted.last_failure_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), counted.last_failure),
         'select * from auth.run_maintenance();  -- as auth_admin; the server''s log has it too'
   where counted.last_failure_at > clock_timestamp() - interval '1 hour'
  union all
  select 'warning', format('sessions that ended before %s are still there: nobody cleans', to_char(l.time at time zone 'UTC', 'YYYY-MM-DD')),
         'select auth.cleanup_expired_sessions();  -- until it returns 0; for good: auth.run_maintenance() by the worker, pg_cron or the service'
    from (select clock_timestamp() - current_setting('auth_sessions.session_retention')::interval - interval '1 day' as time) l
   where exists (select from auth.sessions s where s.revoked_at < l.time)
      or exists (select from auth.sessions s where s.revoked_at is null and s.cleanup_week <= (l.time at time zone 'UTC')::date
                    and least(s.idle_expires_at, s.expires_at) < l.time)
  union all
  select case month.ahead when 0 then 'warning' else 'note' end,
         format('the audit log has no partition for %s: its rows go to auth.audit_log_default', month.name),
         'select auth.maintain_audit_partitions();  -- and daily: the worker or the service does'
    from (select m as ahead, to_char(date_trunc('month', now() at time zone 'UTC') + make_interval(months => m), 'YYYY_MM') as name
            from generate_series(0, 1) m) month
   where to_regclass('auth.audit_log_' || month.name) is null
  union all
  select 'warning', format('%s months of the audit log have ended and are not sealed', count(*)), 'select auth.seal_audit_log();  -- and daily: the worker does'
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
   where i.inhparent = 'auth.audit_log'::regclass and c.relname ~ '^audit_log_\d{4}_\d\d$'
     and c.relname < 'audit_log_' || to_char((clock_timestamp() - interval '8 days') at time zone 'UTC', 'YYYY_MM')
     and not exists (select from auth.audit_seals s where s.partition = c.relname)
  having count(*) > 0
  union all
  select 'warning', format('mails have been waiting for up to %s: no mailer works, or the mail server refuses', justify_interval(date_trunc('minute', max(q.oldest_age)))),
         'select * from auth.mail_queue;  -- what the mail server said; a service with MAILER_DATABASE_URL sends'
    from auth.mail_queue q where q.state in ('waiting', 'retrying') and q.oldest_age > interval '15 minutes' having count(*) > 0
  union all
  select 'warning', format('alerts do not arrive: %s', coalesce(max(q.last_error), 'nobody says why')),
         'select * from auth.alert_queue;  -- what the receiver answered; auth-api alerts test tries it'
    from auth.alert_queue q
   where q.state = 'retrying' and q.oldest_age > interval '15 minutes'
      or q.state = 'given_up' and q.most_attempts > 0
         and exists (select from auth.alert_outbox o where o.kind = q.kind and o.failed_at > clock_timestamp() - interval '1 day')
  having count(*) > 0
  union all
  select 'note', format('alerts have been waiting for up to %s, and nobody sends them', justify_interval(date_trunc('minute', max(clock_timestamp() - o.released_at)))),
         'Give a service ALERT_WEBHOOK_URLS; or, where nobody wants them: alter system set auth_sessions.alert_interval = 0;'
    from auth.alert_outbox o where o.attempts = 0 and o.sent_at is null and o.failed_at is null and o.released_at < clock_timestamp() - interval '15 minutes'
  having count(*) > 0
  union all
  select 'note', format('a recovery window is open until %s', to_char(w.until at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')), 'It ends by itself.'
    from (select max(closes_at) as until from auth.recovery_windows) w where w.until > clock_timestamp();
end
$$;
comment on function auth.check_upkeep is 'Part of auth.check_installation(): the worker, cleaning, partitions, seals, mail, alerts, recovery windows.';

create function auth.check_installation() returns table (topic text, severity text, finding text, advice text)
  language sql stable parallel restricted set search_path = pg_catalog, pg_temp
  as $$
  with found as (
    select 1 as place, 'versions' as topic, f.* from auth.check_versions() f
    union all select 2, 'roles', f.* from auth.check_roles() f
    union all select 3, 'protection', f.* from auth.check_protection() f
    union all select 4, 'grants', f.* from auth.check_grants() f
    union all select 5, 'settings', f.* from auth.check_settings() f
    union all select 6, 'upkeep', f.* from auth.check_upkeep() f)
  select t.name, coalesce(f.severity, 'ok'), coalesce(f.finding, 'as it should be'), coalesce(f.advice, '')
    from (values (1, 'versions'), (2, 'roles'), (3, 'protection'), (4, 'grants'), (5, 'settings'), (6, 'upkeep')) t (place, name)
    left join found f on f.place = t.place
   order by t.place, array_position(array['error', 'warning', 'note'], f.severity), f.finding
$$;
comment on function auth.check_installation is 'Checks this installation. A row for each finding, with what to do: severity error (sessions break, or are open to who should not), warning (they will, or something is lost), note; and a row with ok for each topic without one. Changes nothing. auth-api doctor asks this, and the service''s side.';
