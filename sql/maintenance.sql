-- What must be done again and again, in one function: the background worker, pg_cron and the service's own scheduler
-- all call run_maintenance(), each call in a transaction of its own, until it says that there is no more to do.

-- Locks: what is done to the log's months goes first, before any row is touched, one month at a time, and ends the call
-- when it has done something. A transaction that held rows and then waited for the log could deadlock with one that holds
-- the log and waits for a row. What cannot be locked soon is left for the next call, and its locks are given back at once.
create function auth.run_maintenance(batch_size int default 10000)
  returns table (task text, outcome text, amount bigint, more boolean, elapsed interval, detail text)
  language plpgsql volatile parallel unsafe security definer rows 9 set search_path = pg_catalog, pg_temp
  as $$
declare
  of_the_log constant text[] := array['partitions', 'seals', 'retention'];
  audit_retention constant interval := auth.setting('audit_retention');
  began constant timestamptz := clock_timestamp();
  task_began timestamptz;
  failures text[] := '{}';
  alerts jsonb := '[]';
begin
  if batch_size is null then
    raise exception 'batch_size must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Without arguments it is 10,000.';
  end if;
  if batch_size not between 1 and 100000 then
    raise exception 'batch_size must be between 1 and 100,000' using errcode = 'invalid_parameter_value',
      hint = 'Call again while a row says that there is more.';
  end if;
  amount := 0;
  more := false;
  elapsed := interval '0';
  if pg_is_in_recovery() then
    task := 'all';
    outcome := 'standby';
    detail := 'a standby follows its primary, which cleans for both';
    return next;
    return;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('auth_sessions.run_maintenance', 0)) then
    task := 'all';
    outcome := 'busy';
    detail := 'somebody else is at it';
    return next;
    return;
  end if;
  foreach task in array of_the_log || array['sessions', 'counters', 'mail', 'alerts', 'id_tokens', 'samples'] loop
    task_began := clock_timestamp();
    outcome := 'done';
    amount := 0;
    detail := null;
    begin
      case task
        when 'partitions' then amount := auth.maintain_audit_partitions();
        when 'seals' then amount := auth.seal_audit_log(1);
        when 'retention' then
          if audit_retention > interval '0' then
            amount := auth.drop_audit_partitions(greatest(audit_retention, interval '1 month'), 1);
          end if;
        when 'sessions' then amount := auth.delete_expired_sessions(batch_size, auth.setting('session_retention')::interval);
        when 'counters' then amount := auth.forget_attempts(batch_size);
        when 'mail' then amount := auth.forget_mail(batch_size);
        when 'alerts' then amount := auth.forget_alerts(batch_size);
        when 'id_tokens' then amount := auth.forget_id_tokens(batch_size);
        when 'samples' then amount := auth.take_sample();
      end case;
    exception
      when lock_not_available then
        outcome := 'postponed';
        detail := sqlerrm;
      when others then
        outcome := 'failed';
        detail := sqlerrm;
        failures := failures || sqlstate;
        raise warning 'auth_sessions: maintenance task "%" failed: %', task, sqlerrm
          using errcode = sqlstate, hint = 'The other tasks go on, and this one is tried again.';
        alerts := alerts || jsonb_build_object('task', task, 'sqlstate', sqlstate);
    end;
    elapsed := clock_timestamp() - task_began;
    more := case when task = any (of_the_log) then amount > 0 else amount >= batch_size end;
    return next;
    exit when more and task = any (of_the_log);
  end loop;
  perform auth.count_maintenance((extract(epoch from clock_timestamp() - began) * 1000000)::bigint, failures);
  -- After they were counted: see auth.compose_alerts().
  begin
    perform auth.queue_alert('maintenance_failed', a.alert) from jsonb_array_elements(alerts) a (alert);
  exception
    -- Then it is the alerts that are broken, and the warnings above are all that can be said.
    when others then null;
  end;
end
$$;
comment on function auth.run_maintenance is 'Everything that must be done regularly, a bounded part of it per call: makes the audit log''s coming months, seals those that are over, drops those older than auth_sessions.audit_retention, deletes sessions older than auth_sessions.session_retention, old counters, mail, alerts and tokens, and takes a sample for the charts every quarter of an hour. One row per task; outcome is done, postponed (the lock was not to be had soon), failed (detail says why, and it is in the server''s log), or, for task all, busy (somebody else is at it) or standby. Call again while more is true for any. Blocks no refresh. Called by the background worker (auth_sessions.cleanup_database); without it by pg_cron, or by the service (MAINTENANCE_INTERVAL_SECONDS).';
