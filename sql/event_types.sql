-- What the audit log can say: every action, when it is written, and what its details hold. Whoever adds an action, or a
-- member to the details of one, adds it here; tests/e2e/event_types.rs compares with what the code writes.

-- A payload only grows: a new member that may be missing is no new version. Whatever would break a reader of the former
-- one (a member goes, or means something else) is a new version: its rows say so in details.version, and what is here says
-- which is written now. Rows without details.version are version 1.
-- Beside what is listed, the details of any row may hold trace_id (text): the W3C trace that its request was in
-- (auth.record_event).
create view auth.audit_event_types with (security_invoker = true) as
  select t.action, t.version, t.meaning, t.summary, t.details::jsonb as details
    from (values
      -- Sessions.
      ('auth_session_created', 1, 'A session was opened: by a login or a sign-up.',
       'Session opened[ on {device_name}] (proved by: {amr})', '{"device_name": "text?", "amr": "text[]"}'),
      ('new_device_login', 1, 'A session was opened with a device that no known session of the user has.',
       'Login from a new device[: {device_name}]', '{"device_name": "text?"}'),
      ('session_organization_switched', 1, 'A session acts for another organization from now on.',
       'Session acts[ for organization {to}][, no more for {from}]', '{"from": "uuid?", "to": "uuid?"}'),
      ('user_logged_out', 1, 'A user ended their sessions by logging out.',
       'Logged out[ (sessions ended: {sessions})]', '{"reason": "text", "sessions": "uuid[]"}'),
      ('session_revoked', 1, 'Sessions were ended: by their user, an administrator, a changed password, a full number of sessions.',
       'Session ended: {reason}[ (sessions ended: {sessions})][, by client {client_id}]',
       '{"reason": "text", "sessions": "uuid[]", "client_id": "text?", "note": "text?"}'),
      ('refresh_token_revoked', 1, 'A confidential client revoked a refresh token (RFC 7009), and so its session.',
       'Refresh token revoked[ by client {client_id}]: {reason}',
       '{"reason": "text", "sessions": "uuid[]", "client_id": "text?"}'),
      ('session_family_revoked', 1, 'Everything of a family was ended: after a replay, or by whoever is on call.',
       'Family revoked: {reason}[ (sessions ended: {sessions})]', '{"reason": "text", "sessions": "uuid[]", "note": "text?"}'),
      ('session_expired', 1, 'A refresh token was shown whose session had timed out. No attack.',
       'Refused: the session had expired (time {times})', '{"times": "int"}'),
      ('session_cleanup', 1, 'Sessions that were over longer ago than the retention were deleted.',
       'Sessions deleted: {removed}', '{"removed": "int", "retention": "interval"}'),
      -- Refresh tokens.
      ('token_refreshed', 1, 'A plain refresh; only with auth_sessions.audit_level = all.', 'Refreshed', '{}'),
      ('token_retry_served', 1, 'A refresh was asked for again and answered as before; only with auth_sessions.audit_level = all.',
       'Answered a retry as before, generation {generation}', '{"generation": "int"}'),
      ('token_replay_detected', 1, 'A refresh token was shown that had been used: stolen, or copied. Its family ends in the same transaction.',
       'Replay: a token of generation {presented_generation} was shown while the session was at {current_generation} ({generation_distance} behind)',
       '{"presented_generation": "int", "current_generation": "int", "generation_distance": "int", "reused_jti": "uuid"}'),
      ('token_overtaken', 1, 'A refresh came so late that another one of the same token had been answered meanwhile. No attack.',
       'Overtaken: a token of generation {presented_generation} came late, the session was at {current_generation} (time {times})',
       '{"presented_generation": "int", "current_generation": "int", "shown_at": "timestamptz", "times": "int"}'),
      ('token_ahead_of_database', 1, 'A refresh token was shown that is newer than the database: it has lost commits.',
       'Token ahead of the database: generation {presented_generation} was shown, the database is at {current_generation} (time {times})',
       '{"presented_generation": "int", "current_generation": "int", "times": "int"}'),
      ('session_fast_forwarded', 1, 'In a recovery window a session was moved to where its client is.',
       'Moved from generation {from_generation} to {to_generation}, in a recovery window',
       '{"from_generation": "int", "to_generation": "int"}'),
      ('recovery_window_opened', 1, 'After a failover or a restore: tokens newer than the database are accepted for a while.',
       'Recovery window until {closes_at}, up to {max_gap} generations[; nothing was answered since {stopped_at}]',
       '{"closes_at": "timestamptz", "max_gap": "int", "stopped_at": "timestamptz?"}'),
      ('recovery_window_closed', 1, 'A recovery window was closed before its time.', 'Recovery window closed', '{}'),
      ('device_fingerprint_mismatch', 1, 'A genuine token came from another device than the one that logged in.',
       'Another device than the session''s own[, {device_name}] (policy: {policy}, time {times})',
       '{"policy": "text", "device_name": "text?", "times": "int"}'),
      ('invalid_csrf_token', 1, 'A request with a session''s cookie came with a CSRF token that is not its own: another page may be at work.',
       'A CSRF token that is not the session''s (time {times})', '{"times": "int"}'),
      -- Logins.
      ('user_logged_in', 1, 'A login worked.', 'Logged in by {method}[, {provider}]', '{"method": "text", "provider": "text?"}'),
      ('user_login_failed', 1, 'A login was refused. By password: failures in a row, and whether logins were locked. Federated: method, provider, reason.',
       'Login refused[: {reason}][ ({provider})][, failure {failures} in a row][, locked: {locked}]',
       '{"failures": "int?", "locked": "boolean?", "method": "text?", "provider": "text?", "reason": "text?", "times": "int?"}'),
      ('user_account_locked', 1, 'Password logins of an address are locked for a while. Open sessions go on.',
       'Password logins locked for {locked_for}, after {failures} failures', '{"failures": "int", "locked_for": "interval"}'),
      ('user_account_unlocked', 1, 'Whoever is on call ended a lock-out.', 'Password logins unlocked', '{}'),
      ('suspicious_activity_detected', 1, 'Guessing: many accounts from one network, or one account from many networks.',
       'Suspicious: {pattern}[, accounts: {accounts}][, networks: {networks}]',
       '{"pattern": "text", "accounts": "int?", "networks": "int?"}'),
      ('rate_limit_exceeded', 1, 'Something was asked for more often than is allowed.',
       'Rate limit reached: {scope} (time {times})',
       '{"scope": "text", "times": "int", "burst": "int?", "period": "interval?"}'),
      ('step_up_completed', 1, 'The user of a session proved again who they are.', 'Authenticated again (by: {method})', '{"method": "text"}'),
      ('step_up_failed', 1, 'A proof asked for in a session was refused: to step up, or for a change of password. Details as of user_login_failed.',
       'Authentication in a session refused[: {reason}][ ({provider})][, failure {failures} in a row]',
       '{"failures": "int?", "locked": "boolean?", "method": "text?", "provider": "text?", "reason": "text?", "times": "int?"}'),
      -- Accounts.
      ('user_created', 1, 'An account was made; with a provider, by a first federated login.', 'Account created[ through {provider}]', '{"provider": "text?"}'),
      ('identity_linked', 1, 'An account at an OpenID provider logs in this user from now on.', 'Identity linked: {provider}', '{"provider": "text"}'),
      ('email_verified', 1, 'The user reads the mail of their address.', 'E-mail address verified', '{}'),
      ('email_change_requested', 1, 'A mail to confirm another address was asked for.', 'Change of e-mail address requested', '{}'),
      ('user_email_changed', 1, 'The account has another address.', 'E-mail address changed', '{}'),
      ('password_reset_requested', 1, 'A mail to reset a password was asked for; without a user, for an address that nobody has.', 'Password reset requested', '{}'),
      ('password_reset_completed', 1, 'A password was reset by the link of such a mail.', 'Password reset', '{}'),
      ('user_password_changed', 1, 'The password changed, by whatever SQL.', 'Password changed', '{}'),
      ('user_disabled', 1, 'The account was disabled: its sessions and tokens end.', 'Account disabled', '{}'),
      ('user_enabled', 1, 'The account was enabled again.', 'Account enabled', '{}'),
      ('operator_appointed', 1, 'A user was made an operator: one who watches over all organizations.', 'Made an operator', '{}'),
      ('operator_dismissed', 1, 'A user is an operator no more.', 'No longer an operator', '{}'),
      ('user_deleted', 1, 'The account was deleted.', 'Account deleted', '{}'),
      ('personal_access_token_created', 1, 'A personal access token was made.',
       'Personal access token created: {name}[, scopes {scopes}][, until {expires_at}]',
       '{"token_id": "uuid", "name": "text", "scopes": "text[]", "expires_at": "timestamptz?"}'),
      ('personal_access_token_used', 1, 'A personal access token was used; written once a day and token.',
       'Personal access token {token_id} used', '{"token_id": "uuid"}'),
      ('personal_access_token_revoked', 1, 'Personal access tokens were ended.',
       'Personal access tokens ended: {token_ids} ({reason})[, by client {client_id}]',
       '{"reason": "text", "token_ids": "uuid[]", "client_id": "text?"}'),
      -- Organizations.
      ('organization_created', 1, 'An organization was founded.', 'Organization {slug} founded', '{"slug": "text"}'),
      ('organization_signup_completed', 1, 'A sign-up founded an organization together with the account.', 'Sign-up with an organization completed', '{}'),
      ('organization_deleted', 1, 'An organization was deleted.', 'Organization {slug} deleted', '{"slug": "text"}'),
      ('organization_without_owner', 1, 'SQL by hand left an organization without an owner.', 'Organization lost its last owner', '{}'),
      ('user_role_created', 1, 'A user became a member.', 'Became {role}[, invited by {invited_by}]', '{"role": "text", "invited_by": "uuid?"}'),
      ('user_role_changed', 1, 'A member has another role.', 'Role changed from {from} to {to}', '{"from": "text", "to": "text"}'),
      ('user_role_removed', 1, 'A membership ended.', 'No longer {role}[: {reason}]', '{"role": "text", "reason": "text?"}'),
      ('organization_member_invited', 1, 'Somebody was invited.', 'Invited somebody as {role}', '{"invitation_id": "uuid", "role": "text"}'),
      ('organization_invitation_revoked', 1, 'An invitation was taken back.', 'Took back an invitation as {role}', '{"invitation_id": "uuid", "role": "text"}'),
      ('organization_invitation_accepted', 1, 'An invitation was accepted.', 'Accepted an invitation', '{"invitation_id": "uuid"}'),
      -- Clients, and the database itself.
      ('client_registered', 1, 'A confidential client was registered.', 'Client {name} registered', '{"client_id": "text", "name": "text"}'),
      ('client_secret_rotated', 1, 'A confidential client has another secret.', 'Secret of client {client_id} replaced', '{"client_id": "text"}'),
      ('client_disabled', 1, 'A confidential client was ended for good.', 'Client {client_id} disabled', '{"client_id": "text"}'),
      ('client_authentication_failed', 1, 'A wrong client secret, or a client that is not or no more known.',
       'Client authentication refused[: {client_id}] (time {times})', '{"client_id": "text?", "disabled": "boolean?", "times": "int"}'),
      ('audit_log_sealed', 1, 'A month of the audit log was closed, with a digest of its rows.',
       'Seal {seal}: {rows} rows of {partition}', '{"seal": "int", "partition": "text", "rows": "int", "digest": "text"}'),
      ('audit_partition_dropped', 1, 'A sealed month of the audit log was dropped, after auth_sessions.audit_retention.',
       'Dropped {partition} ({rows} rows, seal {seal})', '{"seal": "int", "partition": "text", "rows": "int", "digest": "text"}'),
      ('adoption_completed', 1, 'Another system was taken over.', 'Took over {table}: {users} users',
       '{"table": "text", "users": "int", "outcomes": "object"}'),
      ('adoption_rolled_back', 1, 'A take-over was undone.', 'Gave back {table}', '{"table": "text", "users": "int", "outcomes": "object"}')
    ) t (action, version, meaning, summary, details);
comment on view auth.audit_event_types is 'Every action of the audit log: when it is written, a summary ({member} stands for a member of details, [] around what may be missing), what its details hold (type by member; with ? it may be missing or null) and the version of that. Any event may also have trace_id (text).';

-- What is put in is cut, and loses what could pass for a part of the template or steer a terminal.
create function auth.event_summary(template text, details jsonb) returns text
  language plpgsql immutable parallel safe
  as $$
declare
  summary text := template;
  member record;
  said text;
begin
  for member in
    select d.key, d.value from jsonb_each(case jsonb_typeof(details) when 'object' then details else '{}' end) d
     where jsonb_typeof(d.value) <> 'null'
  loop
    said := case
      when member.key in ('sessions', 'token_ids') and jsonb_typeof(member.value) = 'array' then jsonb_array_length(member.value)::text
      when jsonb_typeof(member.value) = 'array' then (select coalesce(string_agg(e, ', '), '') from jsonb_array_elements_text(member.value) e)
      else member.value #>> '{}' end;
    said := translate(regexp_replace(left(said, 200), '[[:cntrl:]]', ' ', 'g'), '[]{}', '()()');
    summary := replace(summary, '{' || member.key || '}', said);
  end loop;
  summary := regexp_replace(summary, '\[[^][]*\{[a-z_]+\}[^][]*\]', '', 'g');
  return translate(regexp_replace(summary, '\{[a-z_]+\}', '?', 'g'), '[]', '');
end
$$;
comment on function auth.event_summary is 'Internal. The summary of an event: the template of auth.audit_event_types with the members of its details put in.';
