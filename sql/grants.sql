-- Who owns and who may do what: the privilege model on one page. Everything not granted here is refused.

-- Owners first: a grant made before a change of owner would be recorded as the old owner's.
do $$
declare
  object record;
begin
  for object in
    select case when c.relkind = 'S' then 'sequence' when c.relkind = 'v' then 'view' else 'table' end as kind,
           c.oid::regclass::text as name
      from pg_catalog.pg_class c
     where c.relnamespace = 'auth'::pg_catalog.regnamespace and c.relkind in ('r', 'p', 'S', 'v')
    union all
    select 'function', p.oid::regprocedure::text
      from pg_catalog.pg_proc p where p.pronamespace = 'auth'::pg_catalog.regnamespace
    union all
    select 'type', t.oid::regtype::text
      from pg_catalog.pg_type t join pg_catalog.pg_class c on c.oid = t.typrelid
     where t.typnamespace = 'auth'::pg_catalog.regnamespace and c.relkind = 'c'
  loop
    execute format('alter %s %s owner to auth_owner', object.kind, object.name);
  end loop;
end
$$;

-- From nothing on: an upgrade leaves our roles no grant that is not here. (What you granted to roles of yours stays.)
revoke all on all tables in schema auth from public, auth_api, auth_monitor, auth_admin, auth_mailer, auth_federation;
revoke all on all sequences in schema auth from public, auth_api, auth_monitor, auth_admin, auth_mailer, auth_federation;
revoke all on all functions in schema auth from public, auth_api, auth_monitor, auth_admin, auth_mailer, auth_federation;

-- The service. It holds no password hash, no key and no verifier, opens no session without a proof, and reads by
-- column, under policies, only what the assumed identity owns.
grant execute on function
  auth.sign_up, auth.begin_login, auth.complete_login, auth.rotate_session_token, auth.end_session,
  auth.assume_session, auth.session_profile, auth.revoke_session, auth.revoke_user_sessions, auth.check_slug,
  auth.create_organization, auth.list_organizations, auth.switch_organization, auth.leave_organization,
  auth.list_members, auth.change_member_role, auth.remove_member, auth.list_organization_sessions, auth.end_organization_session,
  auth.invite_member, auth.list_invitations, auth.revoke_invitation, auth.accept_invitation,
  auth.begin_step_up, auth.complete_step_up, auth.step_up_max_age, auth.report_invalid_csrf_token,
  auth.assume_personal_access_token, auth.create_personal_access_token, auth.revoke_personal_access_token,
  auth.peppers_in_use, auth.maintain_audit_partitions, auth.introspect_token, auth.revoke_token,
  auth.take_rate_limit, auth.take_rate_limits
  to auth_api;

-- Does what is due, a bounded part of it, and nothing else: harmless whoever calls it, and as often as they like.
grant execute on function auth.run_maintenance to auth_api, auth_admin;
grant execute on function auth.report_failed_maintenance to auth_api;

-- The dashboard. Each shows, and ends, what the proved session's user oversees (sql/oversight.sql); nobody else anything.
grant execute on function
  auth.oversight, auth.oversee_figures, auth.oversee_activity, auth.oversee_incidents, auth.oversee_lockouts, auth.oversee_sessions,
  auth.oversee_upkeep, auth.oversee_news, auth.end_overseen_family, auth.end_overseen_sessions
  to auth_api;

-- Operators end sessions and configure; they never become somebody: no assume_session.
grant execute on function
  auth.revoke_session_family, auth.handle_token_replay, auth.cleanup_expired_sessions(),
  auth.cleanup_expired_sessions(int, interval), auth.open_recovery_window, auth.close_recovery_window, auth.maintain_audit_partitions,
  auth.register_client, auth.list_clients, auth.rotate_client_secret, auth.disable_client, auth.unlock_account
  to auth_admin;

-- Who watches over all organizations is a DBA's decision; whether somebody does is asked like who they are.
grant execute on function auth.appoint_operator, auth.dismiss_operator to auth_admin;

-- The audit log is closed month by month, and old months go. Verifying is for whoever watches too; so is what an auditor
-- needs to make a digest by other means.
grant execute on function auth.seal_audit_log, auth.drop_audit_partitions to auth_admin;
grant execute on function auth.verify_audit_log, auth.seal_header, auth.audit_line to auth_monitor, auth_admin;

-- Logs in whom a provider vouches for, on the word of the service, which verified the provider's signature: the one
-- exception to "a session needs a proof", and so a login of its own that can do nothing else.
grant execute on function auth.open_federated_session, auth.step_up_federated to auth_federation;

-- The story of a session or a user: to whom it is told, the functions decide.
grant execute on function auth.session_history, auth.user_history to auth_api, auth_monitor, auth_admin;
grant select on auth.audit_event_types to auth_api, auth_monitor, auth_admin;
-- Compliance takes it all along, with the reader's own rights.
grant execute on function auth.export_audit_log, auth.require_span to auth_monitor, auth_admin;

-- Who am I, which everybody may ask who meets a policy; give them to your own roles likewise.
grant execute on function
  auth.current_user_id, auth.current_organization_id, auth.current_session_id, auth.current_roles, auth.current_scopes,
  auth.has_scope, auth.session_is_live, auth.require_auth_age, auth.session_jti,
  auth.current_user_is_operator, auth.extension_version
  to auth_api, auth_monitor, auth_admin;

-- E-mail and passwords. What they mail goes to its address alone: the service gets no token back.
grant execute on function
  auth.verify_email, auth.resend_verification, auth.request_email_change, auth.confirm_email_change,
  auth.request_password_reset, auth.check_password_reset, auth.reset_password, auth.change_password
  to auth_api;

-- After another system was taken over: what its refresh tokens are still good for.
grant execute on function auth.exchange_adopted_token, auth.end_adopted_session to auth_api;

-- The mailer works the outbox by these, and reads nothing beside it. Nobody else is shown a link.
grant execute on function auth.claim_mail, auth.finish_mail, auth.fail_mail to auth_mailer;
grant execute on function auth.claim_alerts, auth.finish_alert, auth.fail_alert to auth_mailer;
grant execute on function auth.queue_test_alert to auth_admin;

grant select on auth.active_sessions, auth.session_families, auth.security_events, auth.replay_incidents
  to auth_api, auth_monitor, auth_admin;
grant select on auth.mail_queue, auth.alert_queue, auth.alert_events, auth.alert_outbox, auth.session_statistics to auth_monitor, auth_admin;
grant execute on function auth.read_session_statistics to auth_monitor, auth_admin;
grant execute on function auth.reset_session_statistics to auth_admin;
-- For /metrics: figures, and nothing of anybody.
grant execute on function auth.service_figures to auth_api, auth_monitor, auth_admin;
-- Is all well? It runs with its caller's rights, and so do its parts.
grant execute on function
  auth.check_installation, auth.check_versions, auth.check_roles, auth.check_protection, auth.check_grants, auth.check_settings,
  auth.check_upkeep, auth.members_of_roles, auth.setting_of_role
  to auth_monitor, auth_admin;
grant select (cleanup_week) on auth.sessions to auth_monitor, auth_admin;
-- The views run with their reader's rights (security_invoker), so the reader needs these columns, and only these.
grant select (id, email, name, user_type, email_verified_at, disabled_at, created_at)
  on auth.users to auth_api, auth_monitor, auth_admin;
grant select on auth.organizations, auth.organization_members to auth_api, auth_monitor, auth_admin;
grant select (id, organization_id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at)
  on auth.organization_invitations to auth_monitor, auth_admin;
grant select (id, family_id, user_id, organization_id, created_at, auth_time, expires_at, idle_ttl, retry_window, revoked_at,
              revoked_reason, reused_jti_of, amr, device_hash, device_name, user_agent, last_ip_cidr, generation,
              last_used_at, rotated_at, idle_expires_at)
  on auth.sessions to auth_api, auth_monitor, auth_admin;
grant select (session_id, is_current, adopted_at) on auth.adopted_tokens to auth_monitor, auth_admin;
grant select (id, kind, user_id, created_at, expires_at, attempts, next_attempt_at, leased_until, sent_at, failed_at, last_error)
  on auth.mail_outbox to auth_monitor, auth_admin;
grant select (id, user_id, organization_id, name, scopes, created_at, expires_at, last_used_at, revoked_at, revoked_reason)
  on auth.personal_access_tokens to auth_api, auth_monitor, auth_admin;
grant select on auth.audit_log to auth_api, auth_monitor, auth_admin;
grant select on auth.audit_seals to auth_monitor, auth_admin;
grant select on auth.recovery_windows, auth.identities, auth.operators, auth.samples to auth_monitor, auth_admin;
