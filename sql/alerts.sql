-- Alerts: what somebody on call is told at once, by a signed webhook.
--
-- An event is queued in the transaction of its cause by an insert and nothing else, so that a wave of them waits for nobody
-- (auth.alert_events). Composing makes webhooks of them (auth.alert_outbox), one at a time for each kind: the first goes
-- out at once, what comes within auth_sessions.alert_interval of it goes out together, and the interval doubles up to an
-- hour for as long as the wave lasts. What somebody was given once never changes any more, so that its id stands for it.

create table auth.alert_events (
  id uuid primary key default gen_random_uuid(),
  kind text not null,
  at timestamptz not null default clock_timestamp(),
  data jsonb not null,
  constraint alert_events_check check (jsonb_typeof(data) = 'object' and octet_length(data::text) <= 1000)
);
create index alert_events_kind_at_idx on auth.alert_events (kind, at);
comment on table auth.alert_events is 'What is to be told and in no webhook yet: for seconds, or, of what only counts in numbers, for five minutes. Ids only.';

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
comment on table auth.alert_outbox is 'Webhooks, with ids only in them: those to be sent, and for 30 days what became of the others. See auth.alert_queue for how they go. Not dumped: a restored database must not alarm anybody again.';
comment on column auth.alert_outbox.id is 'Also the webhook-id, the same at every attempt: who gets it twice can tell.';
comment on column auth.alert_outbox.times is 'How often it happened; events has the first 20.';
comment on column auth.alert_outbox.released_at is 'Not sent before: until then it takes in what happens.';
comment on column auth.alert_outbox.hold is 'How long after released_at the next one of this kind is sent at the earliest.';
comment on column auth.alert_outbox.delivered_to is 'Receivers that have it, by a digest of their URL; the others are tried again.';
comment on column auth.alert_outbox.failed_at is 'Given up (dead letter): tried too often, or expired.';

-- What is told at once has the threshold 1.
create function auth.alert_rules() returns table (kind text, threshold int, period interval)
  language sql immutable parallel safe
  as $$
  values ('token_replay', 1, null::interval),
         ('token_ahead_of_database', 1, null),
         ('suspicious_activity', 1, null),
         ('failed_logins', 100, interval '5 minutes'),
         ('lock_outs', 10, interval '5 minutes'),
         ('maintenance_failed', 1, null),
         ('version_mismatch', 1, null),
         ('test', 1, null)
$$;
comment on function auth.alert_rules is 'Internal. What is told: when it has happened so often (threshold) within so long (period).';

create function auth.alert_of(action text) returns text
  language sql immutable parallel safe
  return case action
    when 'token_replay_detected' then 'token_replay'
    when 'token_ahead_of_database' then 'token_ahead_of_database'
    when 'suspicious_activity_detected' then 'suspicious_activity'
    when 'user_login_failed' then 'failed_logins'
    when 'user_account_locked' then 'lock_outs' end;
comment on function auth.alert_of is 'Internal. Which kind of alert an action of the audit log is an event of; null: of none.';

create function auth.queue_alert(kind text, data jsonb) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  if auth.setting('alert_interval')::interval = interval '0' then
    return;
  end if;
  insert into auth.alert_events (kind, data) values (queue_alert.kind, jsonb_strip_nulls(queue_alert.data));
  -- A hint to those who send. Not for what only counts in numbers: to notify takes a lock of the whole database at commit.
  if (select r.threshold from auth.alert_rules() r where r.kind = queue_alert.kind) = 1 then
    perform pg_notify('auth_alerts', '');
  end if;
end
$$;
comment on function auth.queue_alert is 'Internal. Something to be told by webhook after the commit, unless auth_sessions.alert_interval is 0.';

create function auth.alert_time(point timestamptz) returns text
  language sql immutable parallel safe
  return to_char(alert_time.point at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
comment on function auth.alert_time is 'Internal. A time as the service writes it.';

-- One composer at a time; who finds it taken leaves it to that one. It waits for no lock: neither for a cause that has not
-- committed nor for somebody who reports a webhook. Nearly always there is nothing to compose, and whoever asks every few
-- seconds is told so by a look at the beginning of an index.
create function auth.compose_alerts() returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock timestamptz := clock_timestamp();
  usual constant interval := greatest(auth.setting('alert_interval')::interval, interval '1 second');
  rule record;
  fresh record;
  previous auth.alert_outbox;
  open_id uuid;
begin
  update auth.alert_outbox o
     set failed_at = clock, leased_until = null,
         last_error = case when o.attempts = 0 then 'expired: nobody sent it' else coalesce(o.last_error, 'nobody said what became of it') end
   where o.id = any (array(
     select x.id from auth.alert_outbox x
      where auth.is_due(x.sent_at, x.failed_at, x.next_attempt_at, x.leased_until, clock)
        and (x.expires_at <= clock or auth.mail_backoff(x.attempts) is null)
      for update skip locked));
  -- A turn of the background worker that failed took its own events with it; it is counted outside of any transaction.
  insert into auth.alert_events (kind, data)
  select 'maintenance_failed', jsonb_build_object('sqlstate', s.last_failure)
    from auth.read_session_statistics() s
   where s.last_failure_at is not null and auth.setting('alert_interval')::interval > interval '0'
     and not exists (select from auth.alert_events e where e.kind = 'maintenance_failed')
     and not exists (select from auth.alert_outbox o where o.kind = 'maintenance_failed' and o.composed_at >= s.last_failure_at);

  -- In the order of the index, so that it is read, and not what a wave has left in the table.
  perform from auth.alert_events e order by e.kind, e.at limit 1;
  if not found then
    return;
  end if;
  begin
    -- Only the owner may take it, and nobody else wants it: that table has one row, which never changes, so that not even
    -- autovacuum comes. An advisory lock is anybody's: a service that was broken into would hold it, and nobody would hear
    -- of what it does.
    lock table auth.instance in share update exclusive mode nowait;
  exception when lock_not_available then
    return;
  end;
  for rule in select r.kind, r.threshold, r.period from auth.alert_rules() r loop
    continue when not exists (select from auth.alert_events e where e.kind = rule.kind);
    if rule.period is not null then
      delete from auth.alert_events e
       where e.id = any (array(
         select x.id from auth.alert_events x where x.kind = rule.kind and x.at < clock - rule.period
          order by x.at limit 100000 for update skip locked));
    end if;
    continue when not exists (select from auth.alert_events e where e.kind = rule.kind);
    select o.* into previous from auth.alert_outbox o where o.kind = rule.kind order by o.released_at desc limit 1;
    -- The one that nobody was given yet takes in what has come since.
    select o.id into open_id from auth.alert_outbox o
     where o.id = previous.id and o.attempts = 0 and o.sent_at is null and o.failed_at is null for update skip locked;
    continue when open_id is null
      and (select count(*) from (select from auth.alert_events e where e.kind = rule.kind limit rule.threshold) e) < rule.threshold;

    with taken as (
      delete from auth.alert_events e
       where e.id = any (array(
         select x.id from auth.alert_events x where x.kind = rule.kind order by x.at limit 10000 for update skip locked))
      returning e.at, e.data),
    numbered as (select t.at, t.data, row_number() over (order by t.at) as n from taken t)
    select count(*) as times, min(t.at) as first_at, max(t.at) as last_at,
           jsonb_agg(t.data || jsonb_build_object('at', auth.alert_time(t.at)) order by t.n) filter (where t.n <= 20) as events
      into fresh from numbered t;
    continue when fresh.times = 0;
    if open_id is not null then
      update auth.alert_outbox o
         set times = o.times + fresh.times, first_at = least(o.first_at, fresh.first_at), last_at = greatest(o.last_at, fresh.last_at),
             events = jsonb_path_query_array(o.events || fresh.events, '$[0 to 19]'), composed_at = clock
       where o.id = open_id;
    else
      insert into auth.alert_outbox (id, kind, times, first_at, last_at, events, composed_at, released_at, hold, expires_at, next_attempt_at)
      select gen_random_uuid(), rule.kind, fresh.times, fresh.first_at, fresh.last_at, fresh.events, clock, release.at,
             -- Quiet for as long again as it was held: it is over, and the next one is a new wave.
             case when previous.id is null or clock > previous.released_at + 2 * previous.hold then usual
                  else greatest(usual, least(2 * previous.hold, interval '1 hour')) end,
             release.at + interval '1 day', release.at
        from (select greatest(clock, previous.released_at + previous.hold) as at) release;
    end if;
  end loop;
end
$$;
comment on function auth.compose_alerts is 'Internal. Makes webhooks of what was queued, and gives up those that were tried too often or came too late.';

create function auth.claim_alerts(batch int, lease interval, service_version text)
  returns table (id uuid, kind text, payload text, attempt int, delivered_to text[])
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
#variable_conflict use_column
declare
  clock timestamptz := clock_timestamp();
  versions jsonb;
begin
  if batch is null or lease is null or service_version is null then
    raise exception 'batch, lease and service_version must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: claim_alerts(10, ''1 minute'', auth.extension_version()).';
  end if;
  if batch not between 1 and 1000 or lease not between interval '1 second' and interval '1 hour' or char_length(service_version) > 50 then
    raise exception 'batch must be between 1 and 1000, lease between a second and an hour, service_version at most 50 letters'
      using errcode = 'invalid_parameter_value', hint = 'Who dies while sending holds it up for as long as the lease.';
  end if;
  perform auth.require_primary();
  -- Said once a day for the same versions.
  select jsonb_build_object('serviceVersion', service_version, 'libraryVersion', auth.extension_version(), 'extensionVersion', e.extversion)
    into versions from pg_extension e
   where e.extname = 'auth_sessions' and (e.extversion <> auth.extension_version() or e.extversion <> service_version);
  if versions is not null
     and not exists (select from auth.alert_events e where e.kind = 'version_mismatch' and e.data = versions)
     and not exists (select from auth.alert_outbox o where o.kind = 'version_mismatch' and o.composed_at > clock - interval '1 day'
                        and o.events @> jsonb_build_array(versions)) then
    perform auth.queue_alert('version_mismatch', versions);
  end if;
  perform auth.compose_alerts();
  clock := clock_timestamp();
  return query
    update auth.alert_outbox o
       set attempts = o.attempts + 1, leased_until = clock + claim_alerts.lease
     where o.id = any (array(
       select x.id from auth.alert_outbox x
        where auth.is_due(x.sent_at, x.failed_at, x.next_attempt_at, x.leased_until, clock)
        order by x.next_attempt_at limit claim_alerts.batch for update skip locked))
    returning o.id, o.kind,
      jsonb_build_object('type', 'auth.' || o.kind, 'version', 1, 'timestamp', auth.alert_time(o.last_at),
                         'data', jsonb_build_object('times', o.times, 'firstAt', auth.alert_time(o.first_at),
                                                    'lastAt', auth.alert_time(o.last_at), 'events', o.events))::text,
      o.attempts, o.delivered_to;
end
$$;
comment on function auth.claim_alerts is 'Gives up to batch webhooks that are due, for the lease: nobody else is given them meanwhile. payload is the body, the same at every attempt; receivers of delivered_to have it. Report each with finish_alert or fail_alert; what is not reported is due again when the lease ends. service_version: of who asks; where it is not the database''s, that is an alert, too.';

create function auth.finish_alert(id uuid) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if id is null then
    raise exception 'id must not be null' using errcode = 'null_value_not_allowed', hint = 'claim_alerts tells it.';
  end if;
  update auth.alert_outbox o
     set sent_at = clock_timestamp(), leased_until = null, last_error = null
   where o.id = finish_alert.id and o.sent_at is null and o.failed_at is null;
  return found;
end
$$;
comment on function auth.finish_alert is 'All receivers have taken a webhook. False when it was over already.';

create function auth.fail_alert(id uuid, attempt int, error text, permanent boolean, delivered_to text[]) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  clock timestamptz := clock_timestamp();
  backoff interval := case when not permanent then auth.mail_backoff(attempt) end;
begin
  if id is null or attempt is null or permanent is null or delivered_to is null then
    raise exception 'id, attempt, permanent and delivered_to must not be null' using errcode = 'null_value_not_allowed',
      hint = 'claim_alerts tells id and attempt; delivered_to is {} when no receiver has it.';
  end if;
  -- Who has it has it, whoever says so.
  update auth.alert_outbox o
     set delivered_to = (select array_agg(distinct r) from unnest(o.delivered_to || fail_alert.delivered_to) r)
   where o.id = fail_alert.id and o.sent_at is null and o.failed_at is null and not o.delivered_to @> fail_alert.delivered_to;
  update auth.alert_outbox o
     set leased_until = null, last_error = auth.delivery_error(error),
         next_attempt_at = coalesce(clock + backoff, o.next_attempt_at),
         failed_at = case when backoff is null then clock end
   -- Only by who still has it: one whose lease is over does not hasten, or give up, what another one is sending.
   where o.id = fail_alert.id and o.attempts = fail_alert.attempt and o.leased_until is not null
     and o.sent_at is null and o.failed_at is null;
  return case when not found then 'lost' when backoff is null then 'given_up' else 'retried' end;
end
$$;
comment on function auth.fail_alert is 'Not every receiver has taken a webhook; delivered_to has. For the others it is tried again, at the times at which mail is (retried), or, when all of them refused for good or after the last attempt, given up (given_up). Lost: it is not this attempt''s any more.';

create function auth.forget_alerts(batch_size int) returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  forgotten bigint;
begin
  perform auth.compose_alerts();
  delete from auth.alert_outbox o
   where o.id = any (array(
     select x.id from auth.alert_outbox x
      where (x.sent_at is not null or x.failed_at is not null) and x.released_at < clock_timestamp() - interval '30 days'
      order by x.released_at limit batch_size for update skip locked));
  get diagnostics forgotten = row_count;
  return forgotten;
end
$$;
comment on function auth.forget_alerts is 'Internal. A part of the cleaning: composes what nobody has asked for, and deletes webhooks that were over a month ago; returns how many.';

create function auth.report_failed_maintenance() returns void
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_primary();
  perform auth.queue_alert('maintenance_failed', '{"task": "all"}');
end
$$;
comment on function auth.report_failed_maintenance is 'The service could not run auth.run_maintenance() to its end: an alert. A task that failed within it has queued its own.';

create function auth.queue_test_alert() returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_primary();
  perform auth.queue_alert('test', '{}');
  return auth.setting('alert_interval')::interval > interval '0';
end
$$;
comment on function auth.queue_test_alert is 'Queues an alert of the kind test, which goes all the way of the others. False: none is sent, because auth_sessions.alert_interval is 0. For operators (auth_admin).';

create view auth.alert_queue with (security_invoker = true) as
  select q.state, q.kind, count(*) as alerts, sum(q.times)::bigint as events, clock_timestamp() - min(q.first_at) as oldest_age,
         max(q.attempts) as most_attempts, min(q.next_attempt_at) as next_attempt_at,
         (array_agg(q.last_error order by q.first_at desc) filter (where q.last_error is not null))[1] as last_error
    from (select o.kind, o.times, o.first_at, o.attempts, o.last_error,
                 case when o.sent_at is not null then 'sent' when o.failed_at is not null then 'given_up'
                      when o.leased_until > clock_timestamp() then 'sending' when o.attempts > 0 then 'retrying'
                      when o.released_at > clock_timestamp() then 'held' else 'waiting' end as state,
                 case when o.sent_at is null and o.failed_at is null then o.next_attempt_at end as next_attempt_at
            from auth.alert_outbox o
          union all
          select e.kind, 1, e.at, 0, null, 'queued', null from auth.alert_events e) q
   group by q.state, q.kind;
comment on view auth.alert_queue is 'How the alerts go, by state (queued: in no webhook yet; held: takes in what happens until the last one of its kind was long enough ago; waiting, sending, retrying, sent, given_up) and kind: how many webhooks, of how many events, how old, and what the receiver answered last. What is over is forgotten after 30 days.';
