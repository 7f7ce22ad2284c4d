-- Taking over the users and sessions of another system: what is remembered of it. `auth-api adopt` makes this schema in
-- its first transaction and works by it, so that it can be interrupted anywhere and go on; `auth-api rollback` drops it.
-- It is no part of the extension: an ordinary schema of the superuser's, closed to everybody else, and in every dump.
--
-- The old table itself is never written to. It is moved, as it is, into schema auth_kept; that is the backup, and moving
-- it back is the rollback. Every name in the mapping file becomes an identifier by format('%I') here, nowhere else.

create schema auth_adoption;
revoke all on schema auth_adoption from public;
comment on schema auth_adoption is 'What auth-api adopt remembers: who became whom (users), what became of each old row (old_rows), what was wrong (problems). Drop it when no old read query and no rollback needs it any more.';

create table auth_adoption.adoption (
  only_row boolean primary key default true constraint adoption_only_row_check check (only_row),
  mapping jsonb not null,
  -- What "now" is for all batches: a row cannot be live for one and expired for another.
  clock timestamptz not null default clock_timestamp(),
  sessions_schema name not null,
  sessions_table name not null,
  taken_over_at timestamptz,
  kept_rows bigint,
  kept_digest text,
  completed_at timestamptz,
  kept_dropped_at timestamptz,
  given_back_at timestamptz
);
comment on table auth_adoption.adoption is 'The one adoption: its mapping file as JSON, where the old table was, and how far it came.';

create table auth_adoption.steps (
  position int generated always as identity,
  step text primary key,
  done bigint not null default 0,
  total bigint,
  last_key text,
  finished_at timestamptz
);
comment on table auth_adoption.steps is 'How far each step came; changed in the transaction of each batch, so that what is said here is what is there.';

create table auth_adoption.users (
  old_id text primary key,
  user_id uuid not null constraint users_user_id_key unique,
  made boolean not null
);
comment on table auth_adoption.users is 'Which user of auth.users an old user became.';
comment on column auth_adoption.users.made is 'Whether the adoption made the user; else the same one (id and e-mail) was there before, and stays at a rollback.';

create table auth_adoption.old_rows (
  n bigint generated always as identity primary key,
  old_id text not null constraint old_rows_old_id_key unique,
  old_user_id text,
  user_id uuid,
  outcome text not null
    constraint old_rows_outcome_check check (outcome in ('current', 'consumed', 'ended', 'refused')),
  session_id uuid,
  family_id uuid,
  auth_time timestamptz not null,
  expires_at timestamptz,
  token_verifier bytea
);
create index old_rows_session_id_idx on auth_adoption.old_rows (session_id) where outcome = 'current';
create index old_rows_old_user_id_idx on auth_adoption.old_rows (old_user_id) where outcome = 'current';
comment on table auth_adoption.old_rows is 'What became of each row of the old sessions table.';
comment on column auth_adoption.old_rows.outcome is 'current: its token goes on as a session''s; consumed: its token burns the family of session_id; ended: it was revoked, expired or superseded; refused: see auth_adoption.problems.';

create table auth_adoption.devices (
  user_agent text primary key,
  device_hash bytea,
  device_name text
);
comment on table auth_adoption.devices is 'What the service calls each user agent; the hash is the one that it will compute of the same browser.';

create table auth_adoption.problems (
  source text not null constraint problems_source_check check (source in ('users', 'sessions', 'adoption')),
  old_id text,
  problem text not null,
  detail text,
  outcome text not null constraint problems_outcome_check check (outcome in ('refused', 'mended', 'note'))
);
create index problems_source_idx on auth_adoption.problems (source, problem);
comment on table auth_adoption.problems is 'Rows that were not taken over (refused) or only with a change (mended), and what else a DBA should know (note). The old rows themselves are in the old tables, as they were.';

-- Rows of the old table, as the steps see them; emptied when the families are known.
create table auth_adoption.tokens (
  old_id text not null,
  old_user_id text,
  user_id uuid,
  family text,
  link text,
  token_verifier bytea,
  created_at timestamptz not null,
  expires_at timestamptz,
  revoked boolean not null,
  ended boolean not null,
  problem text
);
comment on table auth_adoption.tokens is 'Scratch.';

create function auth_adoption.advance(of_step text, more bigint, new_last_key text, is_finished boolean)
  returns auth_adoption.steps
  language sql
  begin atomic
    update auth_adoption.steps s
       set done = s.done + more, last_key = coalesce(new_last_key, s.last_key),
           finished_at = case when is_finished then clock_timestamp() end
     where s.step = of_step
    returning s.*;
  end;
comment on function auth_adoption.advance is 'Notes, in the transaction of a batch, that it was done.';

-- Steps whose batches need nothing that only the service knows.
create function auth_adoption.run_batch(of_step text, batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
begin
  return case of_step
    when 'take over' then auth_adoption.take_over_batch(batch_size)
    when 'tokens' then auth_adoption.tokens_batch(batch_size)
    when 'families' then auth_adoption.families_batch(batch_size)
    when 'sessions' then auth_adoption.sessions_batch(batch_size)
    when 'old tokens' then auth_adoption.old_tokens_batch(batch_size)
    when 'take out sessions' then auth_adoption.take_out_sessions_batch(batch_size)
    when 'take out users' then auth_adoption.take_out_users_batch(batch_size) end;
end
$$;
