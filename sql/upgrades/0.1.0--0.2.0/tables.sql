-- From 0.1.0 to 0.2.0: what holds data, and what goes. Functions, views, triggers, policies and grants follow by
-- themselves, from sql/; a function whose arguments or result changed, or a view that lost a column, is dropped here.

-- Seals of the audit log.
create table auth.audit_seals (
  number int primary key,
  partition text not null,
  from_time timestamptz not null,
  to_time timestamptz not null,
  row_count bigint not null,
  format int not null default 1,
  previous_digest bytea,
  digest bytea not null,
  sealed_at timestamptz not null default clock_timestamp(),
  dropped_at timestamptz,
  constraint audit_seals_check check (
    number > 0 and from_time < to_time and row_count >= 0 and format = 1
    and octet_length(digest) = 32 and octet_length(previous_digest) = 32
    and (number = 1) = (previous_digest is null))
);

-- Tokens of a system that was taken over.
create table auth.adopted_tokens (
  token_verifier bytea primary key,
  session_id uuid not null references auth.sessions (id) on delete cascade,
  is_current boolean not null,
  adopted_at timestamptz not null default clock_timestamp(),
  constraint adopted_tokens_check check (octet_length(token_verifier) = 32)
);
create index adopted_tokens_session_id_idx on auth.adopted_tokens (session_id);

-- Maintenance: these say how many rows they deleted.
drop function auth.forget_mail(int);
drop function auth.forget_id_tokens(int);

-- Rotation: these are told when the token was shown.
drop function auth.rotate_session_token(uuid, int, bytea, bytea, bytea, bytea, inet, text, bytea, text);
drop function auth.settle_rotation(uuid, int, bytea, bytea, inet, text, bytea, text);
drop function auth.decide_rotation(
  int, bytea, bytea, boolean, timestamptz, timestamptz, timestamptz, interval, int, bytea, boolean, timestamptz, int,
  boolean, boolean, timestamptz, int, interval);

-- Recovery windows say since when nobody was answered.
alter table auth.recovery_windows add column stopped_at timestamptz;
drop function auth.open_recovery_window(interval, int);

-- Operators.
create table auth.operators (
  user_id uuid primary key references auth.users (id) on delete cascade,
  appointed_at timestamptz not null default clock_timestamp(),
  appointed_by text not null
);

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

-- Samples, for charts.
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

-- Alerts.
create table auth.alert_events (
  id uuid primary key default gen_random_uuid(),
  kind text not null,
  at timestamptz not null default clock_timestamp(),
  data jsonb not null,
  constraint alert_events_check check (jsonb_typeof(data) = 'object' and octet_length(data::text) <= 1000)
);
create index alert_events_kind_at_idx on auth.alert_events (kind, at);
create table auth.alert_outbox (
  id uuid primary key,
  kind text not null,
  times bigint not null,
  first_at timestamptz not null,
  last_at timestamptz not null,
  events jsonb not null,
  composed_at timestamptz not null,
  released_at timestamptz not null,
  hold interval not null,
  expires_at timestamptz not null,
  attempts int not null default 0,
  next_attempt_at timestamptz not null,
  leased_until timestamptz,
  delivered_to text[] not null default '{}',
  sent_at timestamptz,
  failed_at timestamptz,
  last_error text,
  constraint alert_outbox_check check (
    times > 0 and attempts >= 0 and jsonb_array_length(events) between 1 and 20
    and num_nonnulls(sent_at, failed_at) <= 1 and char_length(last_error) <= 500 and cardinality(delivered_to) <= 100)
);
create index alert_outbox_next_attempt_at_idx on auth.alert_outbox (next_attempt_at) where sent_at is null and failed_at is null;
create index alert_outbox_kind_released_at_idx on auth.alert_outbox (kind, released_at);
