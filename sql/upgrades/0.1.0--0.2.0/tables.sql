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
create index audit_log_default_created_at_idx on auth.audit_log_default (created_at);
