-- The audit log: one door in, no way to change, one partition a month.

create function auth.network_of(ip inet) returns cidr
  language sql immutable parallel safe
  return pg_catalog.network(pg_catalog.set_masklen(ip, case pg_catalog.family(ip) when 4 then 24 else 64 end));
comment on function auth.network_of is 'The /24 (IPv4) or /64 (IPv6) network of an address: as much of it as is ever stored.';

-- The one door into the audit log for everything but a logged refresh (rotation.rs writes that in its own statement).
-- A user agent is cut to its limit, never refused: a strange header must not undo a decision. A correlation id may bring
-- the id of a trace (W3C) along, "…;4bf92f3577b34da6a3ce929d0e0e4736": that goes into the details.
create function auth.record_event(
  action text, severity text, success boolean,
  user_id uuid default null, organization_id uuid default null, session_id uuid default null, family_id uuid default null,
  correlation_id text default null, ip inet default null, user_agent text default null, details jsonb default null
) returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  trace_id text := substring(correlation_id from ';([0-9a-f]{32})$');
begin
  if trace_id is not null then
    correlation_id := left(correlation_id, -33);
    details := coalesce(details, '{}') || jsonb_build_object('trace_id', trace_id);
  end if;
  insert into auth.audit_log (action, severity, success, user_id, organization_id, session_id, family_id,
                              actor, actor_user_id, correlation_id, ip_cidr, user_agent, details)
  values (action, severity, success, user_id, organization_id, session_id, family_id,
          auth.calling_role(), auth.current_user_id(), left(correlation_id, 64), auth.network_of(ip),
          auth.cut_user_agent(user_agent), details);
  if auth.alert_of(action) is not null then
    perform auth.queue_alert(auth.alert_of(action), jsonb_build_object(
      'userId', user_id, 'organizationId', organization_id, 'sessionId', session_id, 'familyId', family_id));
  end if;
end
$$;
comment on function auth.record_event is 'Internal. Writes one audit row in the current transaction, and queues the alert that goes with it.';

-- Refusals that anybody can cause again and again are logged at the 1st, 2nd, 4th, 8th … time, so that an attacker
-- cannot fill the disk. The row says how often it happened so far; who calls has counted (auth.count_attempt).
create function auth.record_refusal(
  times int, action text, severity text, user_id uuid, organization_id uuid, session_id uuid, family_id uuid,
  correlation_id text, ip inet, user_agent text, details jsonb
) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  if times & (times - 1) = 0 then
    perform auth.record_event(action, severity, false, user_id, organization_id, session_id, family_id,
                              correlation_id, ip, user_agent, details || jsonb_build_object('times', times));
  end if;
end
$$;
comment on function auth.record_refusal is 'Internal. Writes an audit row when this is the 1st, 2nd, 4th, 8th … refusal of its kind.';

create function auth.instance_secret() returns bytea
  language plpgsql volatile parallel unsafe
  as $$
declare
  found_secret bytea;
begin
  select i.secret into found_secret from auth.instance i;
  if found_secret is null then
    -- Two first users at once: the second one waits here and then reads what the first one made.
    insert into auth.instance (secret) values (auth.random_bytes(32)) on conflict do nothing;
    select i.secret into found_secret from auth.instance i;
  end if;
  return found_secret;
end
$$;
comment on function auth.instance_secret is 'Internal. The secret of this database, made at first use.';

-- Stable, although the very first call makes the secret: of a volatile key no index is used.
create function auth.attempt_key(subject text) returns bytea
  language sql stable parallel unsafe
  return auth.hmac_sha256(auth.instance_secret(), pg_catalog.convert_to('attempt:' || subject, 'UTF8'));
comment on function auth.attempt_key is 'Internal. The key of a subject in auth.attempts: an HMAC, so that the table names nobody.';

create function auth.count_attempt(subject text) returns int
  language plpgsql volatile parallel unsafe
  as $$
declare
  times int;
begin
  perform auth.require_primary();
  insert into auth.attempts as a (key, count, updated_at)
  values (auth.attempt_key(subject), 1, clock_timestamp())
  on conflict (key) do update
    set count = case when a.updated_at < clock_timestamp() - interval '1 day' then 1 else a.count + 1 end,
        updated_at = clock_timestamp()
  returning a.count into times;
  return times;
end
$$;
comment on function auth.count_attempt is 'Internal. Counts one more attempt of a subject and says which it was; starts again after a day without one.';

create function auth.refuse_change() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  raise exception '% on %.% is not allowed: the audit log is append-only', tg_op, tg_table_schema, tg_table_name
    using errcode = 'insufficient_privilege',
          hint = 'Old months are dropped as whole partitions.';
end
$$;
comment on function auth.refuse_change is 'Trigger: refuses UPDATE, DELETE and TRUNCATE of the audit log, whoever asks.';

create trigger audit_log_append_only before update or delete on auth.audit_log
  for each row execute function auth.refuse_change();
create trigger audit_log_no_truncate before truncate on auth.audit_log
  for each statement execute function auth.refuse_change();

-- A partition that is queried by its own name has its own owner, row-level security, grants and TRUNCATE trigger.
-- Without this, "select from auth.audit_log_2026_11" would go round the policies of the parent. An upgrade calls it again
-- for the partitions that there are.
create function auth.protect_audit_partition(partition regclass) returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  name text := (select c.relname from pg_class c where c.oid = partition);
begin
  execute format('alter table %s enable row level security, force row level security', partition);
  if exists (select from pg_policy p where p.polrelid = partition and p.polname = 'owner_writes') then
    execute format('drop policy owner_writes on %s', partition);
  end if;
  execute format('create policy owner_writes on %s to auth_owner using (true) with check (true)', partition);
  execute format('revoke all on %s from public', partition);
  execute format('create or replace trigger audit_log_no_truncate before truncate on %s
                    for each statement execute function auth.refuse_change()', partition);
  execute format('create index if not exists %I on %s (user_id, created_at) where user_id is not null and action not in (''token_refreshed'', ''token_retry_served'')', name || '_user_id_created_at_idx', partition);
  execute format('create index if not exists %I on %s (organization_id, created_at) where organization_id is not null and action not in (''token_refreshed'', ''token_retry_served'')', name || '_organization_id_created_at_idx', partition);
  execute format('create index if not exists %I on %s (session_id, created_at) where session_id is not null', name || '_session_id_created_at_idx', partition);
  -- Small and cheap, as rows come in the order of their time: for what asks about the last minutes.
  execute format('create index if not exists %I on %s using brin (created_at) with (autosummarize = on)', name || '_created_at_idx', partition);
  -- What is rare, and looked for among all that is not.
  execute format('create index if not exists %I on %s (family_id) where action = ''token_replay_detected''', name || '_family_id_idx', partition);
  execute format('create index if not exists %I on %s (created_at) where action = ''user_account_locked''', name || '_user_account_locked_idx', partition);
end
$$;
comment on function auth.protect_audit_partition is 'Internal. Gives a partition of the audit log its own protection and indexes; again, what it lacks of them.';

create function auth.month_of(point timestamptz) returns timestamptz
  language sql immutable parallel safe
  return date_trunc('month', month_of.point at time zone 'UTC') at time zone 'UTC';
comment on function auth.month_of is 'Internal. The beginning of the month (UTC) in which a time lies.';

create function auth.next_month(point timestamptz) returns timestamptz
  language sql immutable parallel safe
  return (date_trunc('month', next_month.point at time zone 'UTC') + interval '1 month') at time zone 'UTC';
comment on function auth.next_month is 'Internal. The beginning of the month (UTC) after that in which a time lies.';

create function auth.audit_partition_name(point timestamptz) returns text
  language sql stable parallel safe
  return 'audit_log_' || to_char(audit_partition_name.point at time zone 'UTC', 'YYYY_MM');
comment on function auth.audit_partition_name is 'Internal. What the partition of the month is called in which a time lies, if it has one.';

-- Months are ordinary tables, made after the installation and not by it, so that a dump carries them. A month that the
-- DEFAULT partition already holds rows of stays there: moving rows would mean deleting from a log that refuses deletion.
create function auth.make_audit_partition(month timestamptz) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
declare
  first_day timestamptz := auth.month_of(month);
  next_month timestamptz := auth.next_month(month);
  partition text := auth.audit_partition_name(month);
begin
  if exists (select from pg_class c where c.relnamespace = 'auth'::regnamespace and c.relname = partition)
     or exists (select from auth.audit_log_default d where d.created_at >= first_day and d.created_at < next_month) then
    return false;
  end if;
  -- A writer that has chosen the DEFAULT partition for a row must not find, when it gets there, that the month has one
  -- of its own meanwhile. So writers wait here for a moment; and we do not make them wait behind a long transaction:
  -- there are months of time to try again (lock_timeout, 55P03).
  lock table auth.audit_log in share row exclusive mode;
  -- Looked at again, now that nobody writes: a row may have come in while this waited.
  if exists (select from auth.audit_log_default d where d.created_at >= first_day and d.created_at < next_month) then
    return false;
  end if;
  execute format('create table auth.%I (like auth.audit_log including defaults including constraints)', partition);
  perform auth.protect_audit_partition(format('auth.%I', partition)::regclass);
  execute format('alter table auth.audit_log attach partition auth.%I for values from (%L) to (%L)',
                 partition, first_day, next_month);
  execute format('comment on table auth.%I is %L', partition, 'One month of auth.audit_log (UTC).');
  return true;
end
$$;
comment on function auth.make_audit_partition is 'Internal. Makes the partition of the month in which a time lies; false when there is one, or DEFAULT holds rows of it. The caller is its owner, auth_owner.';

create function auth.maintain_audit_partitions() returns int
  language plpgsql volatile parallel unsafe security definer
  set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
  as $$
declare
  made int := 0;
begin
  -- One maker at a time; the others find everything made.
  perform pg_advisory_xact_lock(hashtextextended('auth_sessions.maintain_audit_partitions', 0));
  for month in 0 .. 3 loop
    if auth.make_audit_partition((date_trunc('month', now() at time zone 'UTC') + make_interval(months => month)) at time zone 'UTC') then
      made := made + 1;
    end if;
  end loop;
  return made;
end
$$;
comment on function auth.maintain_audit_partitions is 'Makes the audit log''s partitions of this month and the next three, where missing; returns how many it made. Call it daily: the service does.';
