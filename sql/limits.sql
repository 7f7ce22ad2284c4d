-- Throttles: how often something may be done, shared by all processes of the service, and what gives guessing away. All
-- of it is in auth.attempts, which is unlogged and names nobody.

create function auth.rate_limit_subject(scope text, key text) returns text
  language sql immutable parallel safe
  return 'limit:' || rate_limit_subject.scope || ':' || rate_limit_subject.key;
comment on function auth.rate_limit_subject is 'Internal. What a rate limit is counted by.';

-- GCRA, the leaky bucket as one point in time: full_at is when all of the burst is there again. Each one that is taken
-- moves it by period / burst; where that would be more than the burst, it is refused and moves nothing.
--
-- One upsert. It locks the key's row, and only then looks at the clock, once, for all that it decides.
create function auth.take_rate_limit(
  scope text, key text, burst int, period interval,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out allowed boolean, out retry_after interval, out remaining int, out more_after interval
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  step interval;
  taken record;
begin
  if scope is null or key is null or burst is null or period is null then
    raise exception 'scope, key, burst and period must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: select * from auth.take_rate_limit(''export'', ''203.0.113.0/24'', 10, ''1 minute'');';
  end if;
  if char_length(scope) not between 1 and 100 or char_length(key) not between 1 and 1000 then
    raise exception 'scope must have 1 to 100 characters, key 1 to 1000' using errcode = 'invalid_parameter_value',
      hint = 'A longer key can be hashed first.';
  end if;
  if burst not between 1 and 1000000 or period not between interval '1 second' and interval '1 day' then
    raise exception 'burst must be between 1 and 1,000,000, period between a second and a day'
      using errcode = 'invalid_parameter_value', hint = 'Counters are forgotten after a day without an attempt.';
  end if;
  -- In seconds: a day of an interval is not always 24 hours.
  step := make_interval(secs => extract(epoch from period) / burst);
  perform auth.require_primary();

  insert into auth.attempts as a (key, updated_at, full_at)
  select auth.attempt_key(auth.rate_limit_subject(scope, take_rate_limit.key)), c.clock, c.clock + step
    from (select clock_timestamp() as clock offset 0) c
  on conflict on constraint attempts_pkey do update
    set (updated_at, full_at, refused, count) = (
      select now.clock,
             case when now.fits then now.full_at + step else now.full_at end,
             not now.fits,
             -- Refusals since the bucket was last full.
             case when now.full_at <= now.clock then 0 else a.count end + (not now.fits)::int
        -- Not pulled apart by the planner ("offset 0"), so that there is one clock. A bucket is never emptier than
        -- empty: a limit that was made shorter counts at once.
        from (select bucket.*, bucket.full_at <= bucket.clock + step * (burst - 1) as fits
                from (select c.clock, least(greatest(a.full_at, c.clock), c.clock + step * burst) as full_at
                        from (select clock_timestamp() as clock offset 0) c offset 0) bucket offset 0) now)
  returning not a.refused as allowed, a.count as refusals, a.full_at - a.updated_at as until_full into taken;

  allowed := taken.allowed;
  remaining := floor(extract(epoch from step * burst - taken.until_full) / extract(epoch from step));
  more_after := taken.until_full - step * (burst - 1 - remaining);
  if not allowed then
    retry_after := more_after;
    perform auth.record_refusal(taken.refusals, 'rate_limit_exceeded', 'warning', null, null, null, null,
                                correlation_id, ip, user_agent,
                                jsonb_build_object('scope', scope, 'burst', burst, 'period', period));
  end if;
end
$$;
comment on function auth.take_rate_limit is 'Takes one of burst, which come back evenly over the period, for a key (any text; kept as an HMAC) in a scope (a name of yours). allowed: it was there; otherwise retry_after says when one will be, and the refusal is in the audit log at its 1st, 2nd, 4th, 8th … time. remaining: how many are left; more_after: when there will be one more.';

-- Several at once, in their order, up to the first refusal: a network that is refused must not use up what an account
-- has. Callers who name the wider key first (network, then account) cannot deadlock.
create function auth.take_rate_limits(
  scopes text[], keys text[], bursts int[], periods interval[],
  ip inet default null, user_agent text default null, correlation_id text default null
) returns table (scope text, allowed boolean, retry_after interval, remaining int, more_after interval)
  language plpgsql volatile parallel unsafe security definer rows 2 set search_path = pg_catalog, pg_temp
  as $$
begin
  if scopes is null or keys is null or bursts is null or periods is null then
    raise exception 'scopes, keys, bursts and periods must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Four arrays of the same length; see auth.take_rate_limit.';
  end if;
  if cardinality(scopes) not between 1 and 10
     or array[cardinality(keys), cardinality(bursts), cardinality(periods)] <> array_fill(cardinality(scopes), array[3]) then
    raise exception 'scopes, keys, bursts and periods must be of the same length, 1 to 10'
      using errcode = 'invalid_parameter_value', hint = 'The nth key is limited by the nth burst in the nth period.';
  end if;
  for n in 1 .. cardinality(scopes) loop
    scope := scopes[n];
    select l.allowed, l.retry_after, l.remaining, l.more_after into allowed, retry_after, remaining, more_after
      from auth.take_rate_limit(scopes[n], keys[n], bursts[n], periods[n], ip, user_agent, correlation_id) l;
    return next;
    exit when not allowed;
  end loop;
end
$$;
comment on function auth.take_rate_limits is 'auth.take_rate_limit for several scopes and keys in one statement, in their order, up to the first refusal, which is then the last row.';

-- Guessing has a shape that no single address or network shows: lists of stolen passwords are tried from one place on
-- many accounts, or from many places on one. So each hour the distinct accounts that failed from a network, and the
-- distinct networks that failed on an account, are counted, and said once, when there are too many. Only a failure pays
-- for it: one upsert, and two more when this account and network have not met in this hour.
create function auth.watch_for_guessing(subject text, user_id uuid, correlation_id text, ip inet, user_agent text)
  returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  network text := auth.network_of(ip)::text;
  hour text := trunc(extract(epoch from clock_timestamp()) / 3600)::text;
  accounts int;
  networks int;
begin
  if network is null or auth.count_attempt(concat_ws(' ', 'guess', hour, network, subject)) > 1 then
    return;
  end if;
  accounts := auth.count_attempt(concat_ws(' ', 'guessed from', hour, network));
  networks := auth.count_attempt(concat_ws(' ', 'guessing at', hour, subject));
  if accounts = auth.setting('suspicious_accounts')::int then
    perform auth.record_event('suspicious_activity_detected', 'critical', false, correlation_id => correlation_id, ip => ip,
                              user_agent => user_agent,
                              details => jsonb_build_object('pattern', 'many_accounts_from_one_network', 'accounts', accounts));
  end if;
  if networks = auth.setting('suspicious_networks')::int then
    perform auth.record_event('suspicious_activity_detected', 'critical', false, watch_for_guessing.user_id,
                              correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                              details => jsonb_build_object('pattern', 'one_account_from_many_networks', 'networks', networks));
  end if;
end
$$;
comment on function auth.watch_for_guessing is 'Internal. Writes suspicious_activity_detected, once an hour and subject, when failures come from too many networks or hit too many accounts.';

create function auth.forget_attempts(batch_size int) returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  forgotten bigint;
begin
  delete from auth.attempts a
   where a.key = any (array(
     select x.key from auth.attempts x
      where x.updated_hour <= (clock_timestamp() - interval '1 day') at time zone 'UTC'
        and x.updated_at < clock_timestamp() - interval '1 day'
      order by x.updated_hour limit batch_size for update skip locked));
  get diagnostics forgotten = row_count;
  return forgotten;
end
$$;
comment on function auth.forget_attempts is 'Internal. A part of the cleaning: forgets counters that were not touched for a day; returns how many.';

create function auth.unlock_account(email text, correlation_id text default null) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  was_locked boolean;
begin
  if email is null then
    raise exception 'email must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select * from auth.security_events where action = ''user_account_locked'' tells whose logins were locked.';
  end if;
  perform auth.require_primary();
  -- What the service counts an account's logins by is forgotten too: whoever calls wants the user in now.
  with forgotten as (
    delete from auth.attempts a
     where a.key in (auth.attempt_key(auth.login_subject(email)),
                     auth.attempt_key(auth.rate_limit_subject('login_account', lower(email collate "C"))))
    returning a.locked_until)
  select coalesce(bool_or(f.locked_until > clock_timestamp()), false) into was_locked from forgotten f;
  if was_locked then
    perform auth.record_event(
      'user_account_unlocked', 'info', true,
      (select u.id from auth.users u where lower(u.email collate "C") = lower(unlock_account.email collate "C")),
      correlation_id => correlation_id);
  end if;
  return was_locked;
end
$$;
comment on function auth.unlock_account is 'Ends the lock-out of an address and forgets its failures; true when it was locked. For operators (auth_admin). A lock also ends by itself, within an hour.';
