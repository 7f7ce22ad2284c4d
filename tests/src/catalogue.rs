//! What the catalogue and the tables say, in lines that can be compared: between a database and its dump, or between one
//! that was upgraded and one that was installed afresh.

use tokio_postgres::Client;

use crate::sql::{value, values};

/// What there is in schema `auth`, how it is defined and who may do what with it: one line a fact, by names only.
pub async fn facts(admin: &Client) -> Vec<String> {
    let facts = "
      with relation as (select * from pg_class where relnamespace = 'auth'::regnamespace),
      our_function as (select * from pg_proc where pronamespace = 'auth'::regnamespace),
      extension as (select * from pg_extension where extname = 'auth_sessions'),
      -- With a trailing id for each kind, so that members, comments and recorded privileges are found in one way.
      object (classid, objid) as (
        select 'pg_class'::regclass, oid from relation
        union all select 'pg_proc'::regclass, oid from our_function
        union all select 'pg_type'::regclass, oid from pg_type where typnamespace = 'auth'::regnamespace
        union all select 'pg_constraint'::regclass, oid from pg_constraint where connamespace = 'auth'::regnamespace
        union all select 'pg_trigger'::regclass, t.oid from pg_trigger t join relation on tgrelid = relation.oid
        union all select 'pg_policy'::regclass, p.oid from pg_policy p join relation on polrelid = relation.oid
        union all select 'pg_namespace'::regclass, 'auth'::regnamespace::oid
        union all select 'pg_extension'::regclass, oid from extension)
      select format('extension %s', extversion) from extension
      union all select format('dumped %s %s', config::regclass, condition)
        from extension, unnest(extconfig, extcondition) dumped (config, condition)
      union all select format('%s %s owner %s persistence %s rls %s %s options %s', relkind, relname, relowner::regrole,
                              relpersistence, relrowsecurity, relforcerowsecurity, reloptions) from relation
      union all select format('column %s.%s %s not null %s generated %s default %s collation %s', relname, attname,
                              format_type(atttypid, atttypmod), attnotnull, attgenerated, pg_get_expr(adbin, adrelid),
                              attcollation::regcollation)
        from relation join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
      union all select format('sequence %s %s', seqrelid::regclass, to_jsonb(s) - 'seqrelid') from pg_sequence s join relation on seqrelid = relation.oid
      union all select format('acl %s %s %s', relname, grantee::regrole, privilege_type) from relation, aclexplode(coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::\"char\", relowner)))
        where relkind not in ('i', 'I')
      union all select format('acl %s.%s %s %s', relname, attname, grantee::regrole, privilege_type)
        from relation join pg_attribute on attrelid = relation.oid, aclexplode(attacl)
      union all select format('policy %s %s %s %s to %s using %s check %s', relname, polname, polcmd, polpermissive,
                              array(select r::regrole::text from unnest(polroles) r order by 1),
                              pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
        from relation join pg_policy on polrelid = relation.oid
      union all select format('partition %s %s', relname, pg_get_expr(relpartbound, relation.oid)) from relation where relispartition
      union all select format('view %s %s', relname, pg_get_viewdef(relation.oid)) from relation where relkind = 'v'
      union all select format('trigger %s %s enabled %s', relname, pg_get_triggerdef(pg_trigger.oid), tgenabled)
        from relation join pg_trigger on tgrelid = relation.oid and not tgisinternal
      union all select format('constraint %s %s validated %s', conname, pg_get_constraintdef(pg_constraint.oid), convalidated)
        -- From PostgreSQL 18 on, not null is a constraint with a name, which a dump makes anew; the column says it, too.
        from pg_constraint where connamespace = 'auth'::regnamespace and conrelid <> 0 and contype <> 'n'
      union all select format('index %s', pg_get_indexdef(indexrelid)) from relation join pg_index on indrelid = relation.oid
      union all select format('function %s owner %s %s', p.oid::regprocedure, proowner::regrole, pg_get_functiondef(p.oid))
        from our_function p where prokind in ('f', 'p')
      union all select format('acl %s %s', p.oid::regprocedure, grantee::regrole)
        from our_function p, aclexplode(coalesce(proacl, acldefault('f', proowner)))
      union all select format('schema %s %s', grantee::regrole, privilege_type)
        from pg_namespace, aclexplode(nspacl) where nspname = 'auth'
      union all select format('role %s %s %s %s', rolname, rolsuper, rolbypassrls, rolcanlogin) from pg_roles
        where rolname in ('auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')
      union all select format('member %s', pg_describe_object(classid, objid, 0)) from pg_depend
        where deptype = 'e' and refobjid = (select oid from extension)
      union all select format('comment %s: %s', pg_describe_object(classoid, objoid, objsubid), description)
        from object join pg_description on (classoid, objoid) = (classid, objid)
      union all select format('recorded %s %s %s', pg_describe_object(classoid, objoid, objsubid), grantee::regrole, privilege_type)
        from object join pg_init_privs on (classoid, objoid) = (classid, objid), aclexplode(initprivs)
        where grantee <> grantor
      order by 1";
    values(admin, facts, &[]).await
}

/// What only one of two lists has.
pub fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let lost = before.iter().filter(|fact| !after.contains(fact)).map(|fact| format!("lost: {fact}"));
    let new = after.iter().filter(|fact| !before.contains(fact)).map(|fact| format!("new: {fact}"));
    lost.chain(new).collect()
}

/// Each table that a dump carries (the throttles and the outboxes stay out), with its columns in their order.
pub async fn columns(admin: &Client) -> Vec<(String, String)> {
    let columns = "select attrelid::regclass::text, string_agg(quote_ident(attname), ', ' order by attnum)
                     from pg_attribute join pg_class c on c.oid = attrelid
                    where relnamespace = 'auth'::regnamespace and relkind = 'r' and relname not in ('attempts', 'mail_outbox', 'alert_events', 'alert_outbox')
                      and attnum > 0 and not attisdropped
                    group by attrelid order by 1";
    let rows = admin.query(columns, &[]).await.expect("columns");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How many rows each of these tables has, and a digest of what they say in these columns.
pub async fn contents(admin: &Client, columns: &[(String, String)]) -> Vec<String> {
    let mut contents = Vec::new();
    for (table, columns) in columns {
        let digest = format!(
            "select count(*) || ' rows in {table}, ' || md5(coalesce(string_agg(said, '|' order by said), ''))
               from (select row({columns})::text as said from {table}) t"
        );
        contents.push(value(admin, &digest, &[]).await);
    }
    contents
}
