-- What is stored. Secrets are never here: the service shows proofs, the database keeps verifiers = SHA-256(proof).

create table auth.users (
  id uuid primary key default gen_random_uuid(),
  email text not null,
  name text not null,
  user_type text not null default 'INDIVIDUAL',
  email_verified_at timestamptz,
  disabled_at timestamptz,
  password_salt bytea,
  password_params text,
  pepper_id int,
  password_verifier bytea,
  verifier_version int not null default 1,
  verifier_renewed_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  constraint users_email_check check (email ~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' and octet_length(email) <= 254),
  constraint users_name_check check (char_length(name) between 1 and 200 and name !~ '[[:cntrl:]]'),
  constraint users_user_type_check check (user_type in ('INDIVIDUAL', 'BUSINESS', 'ADMIN')),
  -- All of a password or none of it: a federated account has none.
  constraint users_password_check check (
    num_nulls(password_salt, password_params, pepper_id, password_verifier) in (0, 4)
    and octet_length(password_salt) between 16 and 64 and char_length(password_params) between 1 and 100
    and octet_length(password_verifier) = 32)
);
-- One account per address, whatever its letters' case: people do not know which case they signed up with.
create unique index users_email_key on auth.users (lower(email collate "C"));
create index users_pepper_id_idx on auth.users (pepper_id) where pepper_id is not null;
comment on table auth.users is 'Who can log in. Setting disabled_at, or changing password_verifier, ends the user''s sessions in the same transaction, by any SQL.';
comment on column auth.users.email is 'As typed at sign-up; unique without regard to the case of ASCII letters.';
comment on column auth.users.password_verifier is 'SHA-256 of the password proof; the proof is HMAC-SHA-256(pepper, argon2id(password)), made by the service. Without the pepper a stolen dump cannot be cracked.';
comment on column auth.users.pepper_id is 'Which key of PASSWORD_PEPPERS the verifier was made with.';
comment on column auth.users.verifier_version is 'Counts every change of the verifier, so that a login begun before a change is told to start again.';
comment on column auth.users.verifier_renewed_at is 'When a login last renewed the verifier of the same password (new pepper, stronger parameters). Renewal ends no session; an update that leaves this column alone is a change of password and does.';

create table auth.organizations (
  id uuid primary key default gen_random_uuid(),
  slug text not null constraint organizations_slug_key unique,
  name text not null,
  description text,
  website text,
  created_at timestamptz not null default clock_timestamp(),
  constraint organizations_slug_check check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and char_length(slug) between 3 and 50),
  constraint organizations_name_check check (char_length(name) between 1 and 200 and name !~ '[[:cntrl:]]'),
  constraint organizations_description_check check (char_length(description) <= 2000),
  constraint organizations_website_check check (char_length(website) <= 500)
);
comment on table auth.organizations is 'Tenants.';

create table auth.organization_members (
  organization_id uuid not null references auth.organizations (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role text not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint organization_members_pkey primary key (organization_id, user_id),
  constraint organization_members_role_check
    check (role in ('ORGANIZATION_OWNER', 'ORGANIZATION_ADMIN', 'ORGANIZATION_MEMBER'))
);
create index organization_members_user_id_idx on auth.organization_members (user_id, created_at);
create index organization_members_organization_id_idx on auth.organization_members (organization_id, created_at, user_id);
comment on table auth.organization_members is 'Who belongs to which tenant, and as what. Removing a membership ends the sessions that act for that organization.';

-- Who watches over all organizations, beside the DBAs.
create table auth.operators (
  user_id uuid primary key references auth.users (id) on delete cascade,
  appointed_at timestamptz not null default clock_timestamp(),
  appointed_by text not null
);
comment on table auth.operators is 'Users of the application who see and end the sessions of all organizations. Made and ended by auth.appoint_operator and auth.dismiss_operator alone; it goes with the user.';
comment on column auth.operators.appointed_by is 'The database role that did it.';

-- Who somebody is at an OpenID provider. One identity per provider and user: a second account of the same provider with
-- the same address is another person, to whom a recycled address was given.
create table auth.identities (
  provider text not null,
  subject text not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  email text not null,
  created_at timestamptz not null default clock_timestamp(),
  last_used_at timestamptz not null default clock_timestamp(),
  constraint identities_pkey primary key (provider, subject),
  constraint identities_user_id_provider_key unique (user_id, provider),
  -- OpenID Connect Core 1.0, section 2: a sub has at most 255 ASCII characters.
  constraint identities_check check (
    octet_length(provider) between 1 and 500 and octet_length(subject) between 1 and 255
    and provider !~ '[[:cntrl:]]' and subject !~ '[[:cntrl:]]' and octet_length(email) <= 254)
);
comment on table auth.identities is 'Accounts at OpenID providers that log in users. Removing a row unlinks; sessions that it opened go on.';
comment on column auth.identities.provider is 'The issuer: the iss of its ID tokens.';
comment on column auth.identities.subject is 'The sub of its ID tokens: the only name that the provider never gives to somebody else.';
comment on column auth.identities.email is 'The address that the provider had verified when the identity was linked; a record, not a key.';

-- Logged, unlike the throttles: a token that was accepted before a crash must not be accepted after it.
create table auth.accepted_id_tokens (
  digest bytea primary key,
  expires_at timestamptz not null,
  accepted_at timestamptz not null default clock_timestamp(),
  constraint accepted_id_tokens_digest_check check (octet_length(digest) = 32)
);
create index accepted_id_tokens_expires_at_idx on auth.accepted_id_tokens (expires_at);
comment on table auth.accepted_id_tokens is 'ID tokens that were shown, until they expire: each is decided upon once.';
comment on column auth.accepted_id_tokens.digest is 'SHA-256 of what the provider signed (header and payload): the signature itself can be spelled in more than one way. Not a verifier: it proves nothing and opens nothing.';
create table auth.organization_invitations (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references auth.organizations (id) on delete cascade,
  email text not null,
  role text not null,
  token_verifier bytea not null constraint organization_invitations_token_verifier_key unique,
  -- Without its sender an invitation is void.
  invited_by uuid references auth.users (id) on delete set null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  accepted_at timestamptz,
  revoked_at timestamptz,
  constraint organization_invitations_role_check
    check (role in ('ORGANIZATION_OWNER', 'ORGANIZATION_ADMIN', 'ORGANIZATION_MEMBER')),
  constraint organization_invitations_check check (
    octet_length(email) <= 254 and octet_length(token_verifier) = 32 and expires_at > created_at
    and num_nulls(accepted_at, revoked_at) >= 1)
);
-- At most one that is open, of an address in an organization.
create unique index organization_invitations_open_key on auth.organization_invitations (organization_id, lower(email collate "C"))
  where accepted_at is null and revoked_at is null;
create index organization_invitations_organization_id_idx on auth.organization_invitations (organization_id, created_at, id);
create index organization_invitations_email_idx on auth.organization_invitations (lower(email collate "C"), created_at);
create index organization_invitations_invited_by_idx on auth.organization_invitations (invited_by);
comment on table auth.organization_invitations is 'Who was invited into which tenant, by mail. Kept for thirty days beyond their end.';
comment on column auth.organization_invitations.token_verifier is 'SHA-256 of the proof; the proof is SHA-256 of the token in the mail, which is not kept.';
comment on column auth.organization_invitations.invited_by is 'An invitation is worth what its sender may give: see auth.invitation_is_open.';

-- One session is one login on one device: one row, rotated in place, however often it is refreshed.
--
-- A refresh must be a HOT update (no index on a column it changes) and must log little: the columns that it changes
-- stand together at the end of the row, so that the logged difference is one short stretch.
create table auth.sessions (
  id uuid primary key default gen_random_uuid(),
  family_id uuid not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  -- No foreign key: it would lock the organization after the user, and deleting one locks them the other way round.
  -- The session ends with the membership anyway, by trigger.
  organization_id uuid,
  created_at timestamptz not null,
  auth_time timestamptz not null,
  expires_at timestamptz not null,
  idle_ttl interval not null,
  retry_window interval,
  is_shared boolean not null default false,
  revoked_at timestamptz,
  revoked_reason text,
  reused_jti_of uuid,
  amr text[] not null,
  lineage_key bytea not null,
  device_hash bytea,
  device_name text,
  user_agent text,
  -- What a refresh changes, from here on:
  last_ip_cidr cidr,
  cleanup_week date not null generated always as
    (((date_trunc('week', least(idle_expires_at, expires_at) at time zone 'UTC'))::date)) stored,
  generation int not null default 0,
  last_used_at timestamptz not null,
  rotated_at timestamptz,
  idle_expires_at timestamptz not null,
  refreshes_full_at timestamptz not null default clock_timestamp(),
  token_verifier bytea not null,
  previous_token_verifier bytea,
  rotation_nonce bytea,
  constraint sessions_check check (
    generation >= 0
    and octet_length(lineage_key) = 32
    and octet_length(token_verifier) = 32
    and octet_length(previous_token_verifier) = 32
    and octet_length(rotation_nonce) = 16
    and octet_length(user_agent) <= 512
    and octet_length(device_hash) = 32
    and (revoked_at is null) = (revoked_reason is null))
) with (
  fillfactor = 80,
  -- A refresh changes nothing that the planner asks about, and while ANALYZE runs no dead row version can be pruned, so
  -- that busy pages fill up and updates stop being HOT (53 % instead of 99.9 %, measured): not after every tenth refresh.
  autovacuum_analyze_scale_factor = 100
);
create index sessions_user_id_idx on auth.sessions (user_id);
create index sessions_family_id_idx on auth.sessions (family_id);
-- In the order of the pages of auth.list_organization_sessions. A switch to another organization changes it, a refresh never.
create index sessions_organization_id_idx on auth.sessions (organization_id, created_at, id) where organization_id is not null;
create index sessions_cleanup_week_idx on auth.sessions (cleanup_week) where revoked_at is null;
create index sessions_revoked_at_idx on auth.sessions (revoked_at) where revoked_at is not null;
comment on table auth.sessions is 'One row per login on one device. Each refresh rotates the row in place (HOT); old tokens are recognised by lineage_key, so no row of theirs is kept.';
comment on column auth.sessions.family_id is 'What is revoked together. A login begins one, whose id is that of its session; sessions taken over from another system may share one.';
comment on column auth.sessions.reused_jti_of is 'Set by a replay: a jti of the generation that was presented again (its first 32 bits are the generation; its time is zero when a refresh token was replayed, which carries none).';
comment on column auth.sessions.auth_time is 'When the user last proved who they are (OpenID Connect auth_time); not moved by a refresh.';
comment on column auth.sessions.amr is 'How (RFC 8176): pwd, …';
comment on column auth.sessions.idle_ttl is 'How long the session outlives its last refresh; never more than auth_sessions.refresh_idle_ttl.';
comment on column auth.sessions.retry_window is 'A client''s own retry window; null: auth_sessions.retry_window.';
comment on column auth.sessions.is_shared is 'Whether several tabs share the refresh token, as a browser''s cookie is shared: then it is rotated no more often than once a retry window, so that a tab that is slow to show the token before is answered, not taken for a thief.';
comment on column auth.sessions.expires_at is 'Absolute end, fixed at login.';
comment on column auth.sessions.lineage_key is 'Random key of this session, never leaves the database. It proves every ticket and jti that this session ever issued.';
comment on column auth.sessions.device_hash is 'SHA-256 of what the service knows of the device.';
comment on column auth.sessions.last_ip_cidr is 'Network of the last client: /24 (IPv4) or /64 (IPv6). The full address is never stored.';
comment on column auth.sessions.cleanup_week is 'The week (its Monday) in which the session would expire. Cleaning finds rows by it; so coarse that a refresh seldom changes the index.';
comment on column auth.sessions.generation is 'How often the session was rotated; the login''s own token is generation 0.';
comment on column auth.sessions.refreshes_full_at is 'When all of auth_sessions.refresh_burst is there again (GCRA).';
comment on column auth.sessions.token_verifier is 'SHA-256 of the proof of the current refresh token.';
comment on column auth.sessions.previous_token_verifier is 'The verifier before; a retry is recognised by it.';
comment on column auth.sessions.rotation_nonce is 'With the old token''s secret it derives the successor; handed out again to a retry.';

-- The tokens of a system that was taken over, of which people still hold some: see adoption.sql.
create table auth.adopted_tokens (
  token_verifier bytea primary key,
  session_id uuid not null references auth.sessions (id) on delete cascade,
  is_current boolean not null,
  adopted_at timestamptz not null default clock_timestamp(),
  constraint adopted_tokens_check check (octet_length(token_verifier) = 32)
);
create index adopted_tokens_session_id_idx on auth.adopted_tokens (session_id);
comment on table auth.adopted_tokens is 'Refresh tokens of the system that was taken over, current ones and consumed ones. They go with their session, so that none is left after auth_sessions.session_max_age and .session_retention.';
comment on column auth.adopted_tokens.token_verifier is 'SHA-256 of the proof; the proof is the hash that the old system kept: SHA-256(token), or HMAC-SHA-256(its key, token).';
comment on column auth.adopted_tokens.is_current is 'Whether it was its session''s current token when it was adopted. One that was not is a replay whenever it is shown.';

-- What a mail's link proves: that whoever shows it reads the mailbox. The database makes the token and keeps its
-- verifier; the token itself is only in the mail. One row per user and purpose, so that asking again replaces, and so
-- ends, the link before.
create table auth.one_time_tokens (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  purpose text not null,
  token_verifier bytea not null constraint one_time_tokens_token_verifier_key unique,
  email text,
  details jsonb,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  used_at timestamptz,
  constraint one_time_tokens_check check (
    purpose ~ '^[a-z_]{1,50}$' and octet_length(token_verifier) = 32 and expires_at > created_at),
  constraint one_time_tokens_user_id_purpose_key unique (user_id, purpose)
);
create index one_time_tokens_expires_at_idx on auth.one_time_tokens (expires_at);
comment on table auth.one_time_tokens is 'Links that were mailed: for verifying an e-mail, resetting a password, changing an e-mail. Each works once, until it expires or is asked for again.';
comment on column auth.one_time_tokens.token_verifier is 'SHA-256(SHA-256(token)); the token itself is kept nowhere.';
comment on column auth.one_time_tokens.email is 'The address it was mailed to, and so the one that it proves.';
comment on column auth.one_time_tokens.details is 'What the purpose needs to know again when the token is used.';

-- Mail is written here in the transaction of its cause, and sent by the mailer after the commit. Not dumped: a
-- restored database must not send yesterday's mail again, and no dump may hold a link.
create table auth.mail_outbox (
  id uuid primary key default gen_random_uuid(),
  kind text not null,
  user_id uuid,
  recipient text,
  variables jsonb,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  attempts int not null default 0,
  next_attempt_at timestamptz not null,
  leased_until timestamptz,
  sent_at timestamptz,
  failed_at timestamptz,
  last_error text,
  constraint mail_outbox_check check (
    kind ~ '^[a-z_]{1,50}$' and attempts >= 0
    and recipient ~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' and octet_length(recipient) <= 254
    and char_length(last_error) <= 500
    -- What waits has both; what was sent, or given up, is erased in the same statement.
    and num_nonnulls(sent_at, failed_at) <= 1
    and (variables is null) = (num_nonnulls(sent_at, failed_at) = 1)
    and (recipient is null) = (sent_at is not null))
);
create index mail_outbox_next_attempt_at_idx on auth.mail_outbox (next_attempt_at) where sent_at is null and failed_at is null;
create index mail_outbox_created_at_idx on auth.mail_outbox (created_at) where sent_at is not null or failed_at is not null;
comment on table auth.mail_outbox is 'Mail to be sent. Only auth_mailer gets at recipient and variables, through auth.claim_mail; see auth.mail_queue for how it goes.';
comment on column auth.mail_outbox.id is 'Also the mail''s Message-ID, the same at every attempt: who gets it twice can tell.';
comment on column auth.mail_outbox.kind is 'Which template of the mailer.';
comment on column auth.mail_outbox.variables is 'What the template needs, the link''s token among it. Erased when the mail is sent or given up.';
comment on column auth.mail_outbox.expires_at is 'After this nobody could use it: given up instead of sent.';
comment on column auth.mail_outbox.leased_until is 'A mailer is at it until then; if it dies, another one takes it over.';
comment on column auth.mail_outbox.failed_at is 'Given up (dead letter): refused for good, tried too often, or expired.';
-- What a program shows instead of a login. It has no generations: it lives until its end, and is shown once.
create table auth.personal_access_tokens (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  -- No foreign key, as in auth.sessions; it ends with the membership.
  organization_id uuid,
  name text not null,
  lookup_id bytea not null constraint personal_access_tokens_lookup_id_key unique,
  token_verifier bytea not null,
  scopes text[] not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  last_used_at timestamptz,
  revoked_at timestamptz,
  revoked_reason text,
  constraint personal_access_tokens_check check (
    char_length(name) between 1 and 100 and name !~ '[[:cntrl:]]'
    and octet_length(lookup_id) = 16 and octet_length(token_verifier) = 32
    and cardinality(scopes) between 1 and 50 and array_position(scopes, '*') is null
    and expires_at > created_at and (revoked_at is null) = (revoked_reason is null))
);
create index personal_access_tokens_user_id_idx on auth.personal_access_tokens (user_id);
comment on table auth.personal_access_tokens is 'Long-lived tokens that a user makes for a program, limited to scopes. Disabling the user or changing the password ends them.';
comment on column auth.personal_access_tokens.organization_id is 'The organization that the token acts for: the active one of the session that made it.';
comment on column auth.personal_access_tokens.lookup_id is 'The first 16 bytes of the token: finds the row, proves nothing.';
comment on column auth.personal_access_tokens.token_verifier is 'SHA-256 of the proof; the proof is SHA-256 of the token''s 32 secret bytes.';
comment on column auth.personal_access_tokens.scopes is 'What auth.current_scopes() says while the token is used.';
comment on column auth.personal_access_tokens.last_used_at is 'To the minute: a use within a minute of the last is not written.';

-- An operator opens one after a failover or a restore: then tokens newer than the database are accepted.
create table auth.recovery_windows (
  opened_at timestamptz primary key,
  closes_at timestamptz not null,
  max_gap int not null constraint recovery_windows_max_gap_check check (max_gap > 0),
  opened_by text not null,
  stopped_at timestamptz
);
comment on column auth.recovery_windows.stopped_at is 'When the database had stopped answering: until the window closes, who could retry then can.';
comment on table auth.recovery_windows is 'When tokens newer than the database were, or are, accepted. Opened by auth.open_recovery_window.';

-- A secret of this database, made at first use, not by this script: a dump must be able to bring its own.
create table auth.instance (
  only_row boolean primary key default true constraint instance_only_row_check check (only_row),
  secret bytea not null constraint instance_secret_check check (octet_length(secret) = 32)
);
comment on table auth.instance is 'One row: the key behind the steady fake salts of unknown e-mails and the keys of auth.attempts.';

-- Throttles, keyed by HMAC of what they count. Unlogged: empty after a crash, which is right for them. Every attempt
-- writes its row, so that must be a HOT update: cleaning finds rows by the hour, which seldom changes.
create unlogged table auth.attempts (
  key bytea constraint attempts_pkey primary key,
  count int not null default 0,
  updated_at timestamptz not null,
  locked_until timestamptz,
  full_at timestamptz,
  refused boolean not null default false,
  updated_hour timestamp not null generated always as (date_trunc('hour', updated_at at time zone 'UTC')) stored
) with (fillfactor = 70);
create index attempts_updated_hour_idx on auth.attempts (updated_hour);
comment on table auth.attempts is 'Failure counters, lock-outs and rate limits, keyed by HMAC, forgotten after a day without an attempt.';
comment on column auth.attempts.count is 'Failures; of a rate limit: refusals since it was last untouched.';
comment on column auth.attempts.full_at is 'Of a rate limit: when all of its burst is there again.';
comment on column auth.attempts.refused is 'Of a rate limit: whether the last attempt was refused.';
comment on column auth.attempts.updated_hour is 'The hour of updated_at: cleaning finds rows by it.';

-- Programs of others that may ask about tokens, and end them.
create table auth.clients (
  client_id text primary key,
  name text not null,
  secret_verifier bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  created_by text not null,
  secret_changed_at timestamptz,
  disabled_at timestamptz,
  last_used_at timestamptz,
  constraint clients_check check (
    client_id ~ '^[A-Za-z0-9._-]{1,100}$' and char_length(name) between 1 and 200 and name !~ '[[:cntrl:]]'
    and octet_length(secret_verifier) = 32)
);
comment on table auth.clients is 'Confidential clients (RFC 6749 section 2.1) for introspection and revocation. Made by auth-api clients create, or auth.register_client.';
comment on column auth.clients.secret_verifier is 'SHA-256(SHA-256(secret)); the secret is 256 random bits, shown once.';
comment on column auth.clients.created_by is 'The database role that made it.';
comment on column auth.clients.secret_changed_at is 'When the secret was last replaced; null: it is the first.';
comment on column auth.clients.disabled_at is 'From then on it is refused. There is no way back: make another.';
comment on column auth.clients.last_used_at is 'When it last proved itself, to the minute.';

-- Append-only. No primary key, unique constraint or index on the parent: pg_restore attaches the monthly partitions
-- before it loads data, and a parent's index would collide with theirs. No foreign keys: the log outlives its subjects.
create sequence auth.audit_log_id_seq cache 32;
create table auth.audit_log (
  id bigint not null default nextval('auth.audit_log_id_seq'),
  created_at timestamptz not null default clock_timestamp(),
  action text not null,
  severity text not null,
  success boolean not null,
  user_id uuid,
  organization_id uuid,
  session_id uuid,
  family_id uuid,
  actor text,
  actor_user_id uuid,
  correlation_id text,
  ip_cidr cidr,
  user_agent text,
  details jsonb
) partition by range (created_at);
create table auth.audit_log_default partition of auth.audit_log default;
comment on table auth.audit_log is 'Every security decision, written in its own transaction; append-only, partitioned by month, without foreign keys.';
comment on table auth.audit_log_default is 'Takes the rows of a month that has no partition, so that no event is lost.';
comment on column auth.audit_log.actor is 'The database role that called.';
comment on column auth.audit_log.actor_user_id is 'The user who acted, where the call proved one.';
comment on column auth.audit_log.correlation_id is 'The x-request-id of the HTTP request; where it was traced, details has its trace_id.';
comment on sequence auth.audit_log_id_seq is 'Ids of audit rows: unique, ascending per connection.';

-- What maintenance saw, for charts: see samples.sql.
create table auth.samples (
  taken_at timestamptz primary key,
  live_sessions bigint not null,
  live_families bigint not null,
  used_in_last_hour bigint not null,
  kept_sessions bigint not null,
  session_bytes bigint not null,
  audit_bytes bigint not null,
  opened bigint not null,
  ended bigint not null,
  failed_logins bigint not null,
  lockouts bigint not null,
  replays bigint not null,
  stats_reset timestamptz,
  rotated bigint,
  retried bigint,
  refused bigint
);
comment on table auth.samples is 'What auth.run_maintenance() saw every quarter of an hour, kept for 100 days: for charts of how things grow.';
comment on column auth.samples.live_sessions is 'Sessions neither revoked nor expired; live_families: of how many families; kept_sessions: over, and not cleaned away yet.';
comment on column auth.samples.audit_bytes is 'All months of the audit log, indexes included.';
comment on column auth.samples.opened is 'Audit rows since the sample before (at most a day): auth_session_created. So ended, failed_logins, lockouts and replays.';
comment on column auth.samples.rotated is 'As auth.session_statistics counts it, since stats_reset; retried and refused: the sums of its other columns. Null: nobody counts.';

-- What an operation on a session answers. One row; everything but outcome is null unless the outcome grants something.
create type auth.session_outcome as (
  outcome text,
  session_id uuid,
  family_id uuid,
  user_id uuid,
  organization_id uuid,
  generation int,
  ticket bytea,
  rotation_nonce bytea,
  jti uuid,
  issued_at timestamptz,
  auth_time timestamptz,
  amr text[],
  idle_expires_at timestamptz,
  expires_at timestamptz,
  retry_after interval,
  access_expires_at timestamptz
);
comment on type auth.session_outcome is 'The answer of sign_up, complete_login and rotate_session_token. issued_at is the time inside the jti; access_expires_at, when the jti stops proving anything.';

-- One event of a story: auth.session_history, auth.user_history.
create type auth.history_event as (
  at timestamptz,
  action text,
  summary text,
  severity text,
  success boolean,
  session_id uuid,
  family_id uuid,
  actor_id uuid,
  network cidr,
  user_agent text,
  correlation_id text,
  details jsonb,
  actor text
);
comment on type auth.history_event is 'An event of the audit log, told: what happened, in a sentence too; who did it (the user actor_id, where one was proved; the database role actor), from which network.';

-- pg_dump leaves an extension's tables out unless they are registered. attempts is unlogged and stays out, and so does
-- mail_outbox, which holds links. one_time_tokens holds verifiers only: links that people have work after a restore.
select pg_catalog.pg_extension_config_dump('auth.users', '');
select pg_catalog.pg_extension_config_dump('auth.organizations', '');
select pg_catalog.pg_extension_config_dump('auth.organization_members', '');
select pg_catalog.pg_extension_config_dump('auth.operators', '');
select pg_catalog.pg_extension_config_dump('auth.identities', '');
select pg_catalog.pg_extension_config_dump('auth.accepted_id_tokens', '');
select pg_catalog.pg_extension_config_dump('auth.organization_invitations', '');
select pg_catalog.pg_extension_config_dump('auth.sessions', '');
select pg_catalog.pg_extension_config_dump('auth.adopted_tokens', '');
select pg_catalog.pg_extension_config_dump('auth.one_time_tokens', '');
select pg_catalog.pg_extension_config_dump('auth.personal_access_tokens', '');
select pg_catalog.pg_extension_config_dump('auth.recovery_windows', '');
select pg_catalog.pg_extension_config_dump('auth.instance', '');
select pg_catalog.pg_extension_config_dump('auth.clients', '');
select pg_catalog.pg_extension_config_dump('auth.samples', '');
select pg_catalog.pg_extension_config_dump('auth.audit_log_default', '');
select pg_catalog.pg_extension_config_dump('auth.audit_log_id_seq', '');
