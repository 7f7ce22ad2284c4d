-- Row-level security. The definer functions run as auth_owner and carry their own predicates; these policies guard
-- whoever reads the tables and views directly. The identity is asked for once a statement, not once a row.

do $$
declare
  guarded regclass;
begin
  -- By the catalogue, so that no table can be forgotten. FORCE binds the owner too.
  for guarded in
    select c.oid::regclass from pg_catalog.pg_class c
     where c.relnamespace = 'auth'::pg_catalog.regnamespace and c.relkind in ('r', 'p') and not c.relispartition
  loop
    execute format('alter table %s enable row level security, force row level security', guarded);
    execute format('drop policy if exists owner_writes on %s', guarded);
    execute format('create policy owner_writes on %s to auth_owner using (true) with check (true)', guarded);
  end loop;
end
$$;
-- The DEFAULT partition; when the extension is upgraded, the months that there are, too.
select auth.protect_audit_partition(i.inhrelid) from pg_catalog.pg_inherits i where i.inhparent = 'auth.audit_log'::pg_catalog.regclass;

create policy operators_read on auth.users for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.organizations for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.organization_members for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.samples for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.operators for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.identities for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.organization_invitations for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.personal_access_tokens for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.sessions for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.adopted_tokens for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.mail_outbox for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.alert_events for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.alert_outbox for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.recovery_windows for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.audit_log for select to auth_monitor, auth_admin using (true);
create policy operators_read on auth.audit_seals for select to auth_monitor, auth_admin using (true);

-- What a personal access token may read hangs on its scopes; a session has them all.
create policy own_rows on auth.users for select to auth_api
  using (id = (select auth.current_user_id())
         and ((select auth.has_scope('profile:read')) or (select auth.has_scope('sessions:read'))));
-- Of organizations, the active one and no other, with its members' rows (not their accounts: auth.list_members tells
-- name and address). The roles are read anew at each statement, so who was just removed sees neither. The user's
-- own rows in other organizations are for sessions: a personal access token acts for one organization.
create policy own_rows on auth.organizations for select to auth_api
  using (id = (select auth.current_organization_id()) and (select auth.has_scope('organization:read'))
         and (select auth.current_roles()) <> '{}');
create policy own_rows on auth.organization_members for select to auth_api
  using (user_id = (select auth.current_user_id()) and (select auth.current_session_id()) is not null);
create policy rows_of_active_organization on auth.organization_members for select to auth_api
  using (organization_id = (select auth.current_organization_id()) and (select auth.has_scope('organization:read'))
         and (select auth.current_roles()) <> '{}');
create policy own_rows on auth.sessions for select to auth_api
  using (user_id = (select auth.current_user_id()) and (select auth.has_scope('sessions:read')));
create policy own_rows on auth.audit_log for select to auth_api
  using (user_id = (select auth.current_user_id()) and (select auth.has_scope('security_events:read')));
-- Never by a personal access token: it shall not learn of others.
create policy own_rows on auth.personal_access_tokens for select to auth_api
  using (user_id = (select auth.current_user_id()) and (select auth.current_session_id()) is not null);
-- What happened in the name of the organization that the session acts for: for its owners.
create policy rows_of_owned_organization on auth.audit_log for select to auth_api
  using (organization_id = (select auth.current_organization_id() where 'ORGANIZATION_OWNER' = any (auth.current_roles()))
         and (select auth.has_scope('security_events:read')));
