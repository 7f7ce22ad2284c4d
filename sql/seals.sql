-- Tamper evidence. When a month of the audit log is over, a digest over all its rows and over the seal before is kept
-- here, written to the server's log and notified. Nothing in a database can keep its superuser from changing the past;
-- but whoever has kept one digest elsewhere can tell whether anything before it is as it was.
--
-- Each seal reaches from the end of the one before to the end of its month, the first one from the beginning of time:
-- so every row is under exactly one seal, also one that somebody dates back, and one that DEFAULT took.

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
comment on table auth.audit_seals is 'One row per closed month of auth.audit_log, chained: auth.seal_audit_log makes them, auth.verify_audit_log compares. Keep the newest digest outside of the database.';
comment on column auth.audit_seals.number is 'The place in the chain, from 1 without gaps.';
comment on column auth.audit_seals.partition is 'Where the rows are: a month''s own partition, or audit_log_default.';
comment on column auth.audit_seals.from_time is 'The end of the seal before; -infinity for the first.';
comment on column auth.audit_seals.to_time is 'The end of the month (UTC); a row of that very moment belongs to the next.';
comment on column auth.audit_seals.format is 'How the digest was made: 1 is auth.seal_header and auth.audit_line as they are.';
comment on column auth.audit_seals.previous_digest is 'The digest of the seal before, which this one''s digest covers.';
comment on column auth.audit_seals.digest is 'SHA-256 of auth.seal_header and the auth.audit_line of each row by created_at and id, each followed by a line feed.';
comment on column auth.audit_seals.dropped_at is 'When retention dropped the partition; from then on only the chain can be verified.';

select pg_catalog.pg_extension_config_dump('auth.audit_seals', '');

create function auth.refuse_changed_seal() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  raise exception '% on auth.audit_seals is not allowed: seals stay as they are', tg_op
    using errcode = 'insufficient_privilege',
          hint = 'auth.verify_audit_log() says which month no longer matches its seal.';
end
$$;
comment on function auth.refuse_changed_seal is 'Trigger: refuses to change or remove a seal, but for the note that its partition was dropped.';

create trigger audit_seals_append_only before delete on auth.audit_seals
  for each row execute function auth.refuse_changed_seal();
create trigger audit_seals_no_truncate before truncate on auth.audit_seals
  for each statement execute function auth.refuse_changed_seal();
create trigger audit_seals_no_change before update on auth.audit_seals
  for each row when (
    (new.number, new.partition, new.from_time, new.to_time, new.row_count, new.format, new.previous_digest, new.digest, new.sealed_at)
      is distinct from
    (old.number, old.partition, old.from_time, old.to_time, old.row_count, old.format, old.previous_digest, old.digest, old.sealed_at)
    or old.dropped_at is not null)
  execute function auth.refuse_changed_seal();

-- What is digested must be the same text in every version of PostgreSQL, under every setting and every encoding: so no
-- type's own output but that of uuid, cidr and jsonb, times spelled out in UTC, and JSON's escapes instead of line feeds.
create function auth.audit_line(a auth.audit_log) returns text
  language sql stable parallel safe
  return jsonb_build_array(
    a.id, to_char(a.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.action, a.severity, a.success,
    a.user_id::text, a.organization_id::text, a.session_id::text, a.family_id::text, a.actor, a.actor_user_id::text,
    a.correlation_id, a.ip_cidr::text, a.user_agent, a.details)::text;
comment on function auth.audit_line is 'A row of the audit log as one line of text (a JSON array), the same in every version and under every setting: what a seal digests.';

create function auth.seal_header(number int, from_time timestamptz, to_time timestamptz, previous_digest bytea) returns text
  language sql stable parallel safe
  return jsonb_build_array(
    'auth_sessions audit seal', 1, seal_header.number,
    case when isfinite(from_time) then to_char(from_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') else '-infinity' end,
    to_char(to_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), encode(previous_digest, 'hex'))::text;
comment on function auth.seal_header is 'The first line of what a seal digests: its place in the chain, and the digest before.';

create function auth.digest_audit_log(header bytea, from_time timestamptz, to_time timestamptz, out row_count bigint, out digest bytea)
  returns setof record
  language c volatile parallel unsafe rows 1 as 'MODULE_PATHNAME', 'digest_audit_log_wrapper';
comment on function auth.digest_audit_log is 'Internal. Counts and digests the rows of that time under a header.';

create function auth.refuse_late_row() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  raise exception 'an event of % cannot be written: %.% is sealed', new.created_at, tg_table_schema, tg_table_name
    using errcode = 'object_not_in_prerequisite_state',
          hint = 'Is the server''s clock right? A month is sealed a day after its end, and takes no event from then on.';
end
$$;
comment on function auth.refuse_late_row is 'Trigger: a sealed month takes no more rows.';

create function auth.wait_for_audit_writers(partition regclass) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  execute format('lock table %s in share mode', partition);
  -- Undoing this block lets the lock go: DEFAULT may be taking the events of this moment.
  raise exception using errcode = 'AS000';
exception
  when sqlstate 'AS000' then
    null;
end
$$;
comment on function auth.wait_for_audit_writers is 'Internal. Waits until all who are writing into a partition have ended: nobody can commit an older row after it.';

-- The first seal ends where the first month with a partition begins: under it is what was before, mostly nothing.
create function auth.next_audit_seal(closed_until timestamptz) returns auth.audit_seals
  language plpgsql volatile parallel unsafe
  as $$
declare
  seal auth.audit_seals;
begin
  select s.number + 1, s.to_time, auth.next_month(s.to_time), s.digest
    into seal.number, seal.from_time, seal.to_time, seal.previous_digest
    from auth.audit_seals s order by s.number desc limit 1;
  if not found then
    seal.number := 1;
    seal.from_time := '-infinity';
    seal.to_time := least(closed_until, (
      select min(to_date(right(c.relname, 7), 'YYYY_MM')::timestamp at time zone 'UTC')
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = 'auth.audit_log'::regclass and c.relname ~ '^audit_log_\d{4}_\d\d$'));
  end if;
  seal.partition := auth.audit_partition_name(seal.from_time);
  if to_regclass('auth.' || seal.partition) is null then
    seal.partition := 'audit_log_default';
  end if;
  return seal;
end
$$;
comment on function auth.next_audit_seal is 'Internal. The seal that is due next, without its digest.';

create function auth.digest_of_seal(seal auth.audit_seals, out row_count bigint, out digest bytea)
  language plpgsql volatile parallel unsafe
  as $$
begin
  select d.row_count, d.digest into row_count, digest
    from auth.digest_audit_log(
           convert_to(auth.seal_header(seal.number, seal.from_time, seal.to_time, seal.previous_digest), 'UTF8'),
           seal.from_time, seal.to_time) d;
end
$$;
comment on function auth.digest_of_seal is 'Internal. How many rows there are under a seal now, and what their digest is.';

create function auth.seal_details(seal auth.audit_seals) returns jsonb
  language sql stable parallel safe
  return jsonb_build_object('seal', seal.number, 'partition', seal.partition, 'rows', seal.row_count,
                            'digest', encode(seal.digest, 'hex'));
comment on function auth.seal_details is 'Internal. What the audit log and a listener are told of a seal.';

create function auth.require_months(max_months int) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if max_months < 1 then
    raise exception 'max_months must be positive' using errcode = 'invalid_parameter_value',
      hint = 'Leave it out for all months.';
  end if;
end
$$;
comment on function auth.require_months is 'Internal. Refuses what is no number of months.';

create function auth.seal_audit_log(max_months int default null) returns int
  language plpgsql volatile parallel unsafe security definer
  set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
  as $$
declare
  -- A month is sealed a day after its end, so that a clock that is set back a little does not run into it.
  closed_until constant timestamptz := auth.month_of(clock_timestamp() - interval '1 day');
  seal auth.audit_seals;
  sealed int := 0;
begin
  perform auth.require_months(max_months);
  -- An older snapshot would not see all that was committed before the lock was had.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'the audit log is sealed in a READ COMMITTED transaction only'
      using errcode = 'feature_not_supported', hint = 'begin isolation level read committed;';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('auth_sessions.seal_audit_log', 0));
  loop
    seal := auth.next_audit_seal(closed_until);
    exit when seal.to_time > closed_until or sealed = max_months;
    if seal.partition = 'audit_log_default' then
      perform auth.wait_for_audit_writers('auth.audit_log_default');
    else
      -- Waits for those who are writing into it, and after them nobody does. Readers go on.
      execute format('create or replace trigger audit_log_sealed before insert on auth.%I
                        for each row execute function auth.refuse_late_row()', seal.partition);
    end if;
    select d.row_count, d.digest into seal.row_count, seal.digest from auth.digest_of_seal(seal) d;
    insert into auth.audit_seals (number, partition, from_time, to_time, row_count, previous_digest, digest)
    values (seal.number, seal.partition, seal.from_time, seal.to_time, seal.row_count, seal.previous_digest, seal.digest);
    raise log 'auth_sessions: seal % of the audit log: %, % rows, digest %',
      seal.number, seal.partition, seal.row_count, encode(seal.digest, 'hex');
    perform auth.record_event('audit_log_sealed', 'info', true, details => auth.seal_details(seal));
    perform pg_notify('auth_events', (auth.seal_details(seal) || '{"action": "audit_log_sealed"}')::text);
    sealed := sealed + 1;
  end loop;
  return sealed;
end
$$;
comment on function auth.seal_audit_log is 'Seals the months of the audit log that ended at least a day ago, oldest first; returns how many (at most max_months). Each digest goes into auth.audit_seals, the audit log, the server''s log and a notification on auth_events. A sealed partition takes no more rows. Call it daily: the worker does.';

create function auth.verify_audit_log(from_time timestamptz default '-infinity', to_time timestamptz default 'infinity')
  returns table (number int, partition text, outcome text, intact boolean, covers_from timestamptz, covers_to timestamptz,
                 sealed_rows bigint, found_rows bigint, sealed_at timestamptz)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  seal auth.audit_seals;
  former auth.audit_seals;
  found_digest bytea;
begin
  if from_time is null or to_time is null then
    raise exception 'from_time and to_time must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Leave them out to verify everything.';
  end if;
  for seal in
    select s.* from auth.audit_seals s
     where s.to_time > verify_audit_log.from_time and s.from_time < verify_audit_log.to_time
     order by s.number
  loop
    select s.* into former from auth.audit_seals s where s.number = seal.number - 1;
    select d.row_count, d.digest into found_rows, found_digest from auth.digest_of_seal(seal) d;
    outcome := case
      when (seal.previous_digest, seal.from_time) is distinct from (former.digest, coalesce(former.to_time, '-infinity')) then 'chain_broken'
      when found_digest = seal.digest then 'intact'
      when found_rows > 0 or seal.row_count = 0 then 'changed'
      when seal.dropped_at is not null then 'dropped'
      else 'missing' end;
    intact := outcome in ('intact', 'dropped');
    number := seal.number;
    partition := seal.partition;
    covers_from := seal.from_time;
    covers_to := seal.to_time;
    sealed_rows := seal.row_count;
    sealed_at := seal.sealed_at;
    return next;
  end loop;
end
$$;
comment on function auth.verify_audit_log is 'Compares the sealed months that touch the given time with their seals, oldest first. Outcome intact; dropped (by retention, and the chain goes on); changed (rows are not those that were sealed); missing (all rows are gone, and not by retention); chain_broken (the seal before it is not the one it was made on). The first row that is not intact names the first partition that differs. Compare the newest digest in auth.audit_seals with the one that you keep outside: who can change everything in a database can change its seals too.';

create function auth.drop_audit_partitions(retention interval, max_months int default null) returns int
  language plpgsql volatile parallel unsafe security definer
  -- Whoever wants to write an event waits behind this while it waits for a reader of the log: not for long, then.
  set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
  as $$
declare
  seal auth.audit_seals;
  dropped int := 0;
begin
  if retention is null or retention < interval '1 month' then
    raise exception 'retention must be at least a month' using errcode = 'invalid_parameter_value',
      hint = 'It counts from the end of a month: interval ''1 year'' keeps at least a year.';
  end if;
  perform auth.require_months(max_months);
  for seal in
    select s.* from auth.audit_seals s
     where s.to_time < clock_timestamp() - retention and s.dropped_at is null and s.partition <> 'audit_log_default'
     order by s.number for no key update
  loop
    -- One that is gone already was not dropped by this function: auth.verify_audit_log says so.
    continue when to_regclass('auth.' || seal.partition) is null;
    execute format('drop table auth.%I', seal.partition);
    update auth.audit_seals s set dropped_at = clock_timestamp() where s.number = seal.number;
    perform auth.record_event('audit_partition_dropped', 'info', true, details => auth.seal_details(seal));
    dropped := dropped + 1;
    exit when dropped = max_months;
  end loop;
  return dropped;
end
$$;
comment on function auth.drop_audit_partitions is 'Drops the sealed months of the audit log that ended longer ago than the retention, oldest first; returns how many (at most max_months). Their seals stay, and the chain goes on verifying. A month that is not sealed is never dropped; rows in audit_log_default stay.';
