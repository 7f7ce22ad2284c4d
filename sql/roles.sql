\echo Use "create extension auth_sessions" to load this file. \quit

-- The roles are cluster-wide and may have been made by another database's copy of this extension, so each is
-- created only if absent. An existing one is accepted only if it is harmless: row-level security, on which
-- everything here rests, does not bind a superuser or a role with BYPASSRLS.
do $$
declare
  wanted text;
  found record;
begin
  foreach wanted in array array['auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation'] loop
    begin
      execute format('create role %I nologin noinherit', wanted);
    exception when duplicate_object or unique_violation then
      -- unique_violation: another session is creating the same role at this moment.
      null;
    end;
    select rolsuper, rolbypassrls into found from pg_catalog.pg_roles where rolname = wanted;
    if found.rolsuper or found.rolbypassrls then
      raise exception 'role "%" exists and is a superuser or has BYPASSRLS', wanted
        using errcode = 'invalid_grant_operation',
              hint = format('Run: alter role %I nosuperuser nobypassrls; then create the extension again.', wanted);
    end if;
  end loop;
end
$$;

-- Whoever owns schema auth can replace what is in it. So the schema is the installer's (or another superuser's) and
-- was empty: the extension made it a moment ago, or pg_restore did. (In an upgrade it is the extension's that fills it.)
do $$
declare
  schema_oid oid := 'auth'::pg_catalog.regnamespace;
begin
  if not exists (select from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
                  where n.oid = schema_oid and (r.rolname = current_user or r.rolsuper))
     or not exists (select from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid
                     where d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.deptype = 'e'
                       and e.extname = 'auth_sessions')
        and (exists (select from pg_catalog.pg_class where relnamespace = schema_oid)
             or exists (select from pg_catalog.pg_proc where pronamespace = schema_oid)
             or exists (select from pg_catalog.pg_type where typnamespace = schema_oid))
  then
    raise exception 'schema "auth" already exists and belongs to something else'
      using errcode = 'duplicate_schema',
            hint = 'auth_sessions needs the name for itself. Rename the other: alter schema auth rename to …;';
  end if;
end
$$;

revoke all on schema auth from public;
grant usage, create on schema auth to auth_owner;
grant usage on schema auth to auth_api, auth_monitor, auth_admin, auth_mailer, auth_federation;
