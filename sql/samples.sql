-- What the database looked like every quarter of an hour, so that a chart of the last month need not read the log of it.

-- Reads all of auth.sessions: about a second for a million, four times an hour.
create function auth.take_sample() returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  before auth.samples;
begin
  select s.* into before from auth.samples s order by s.taken_at desc limit 1;
  if before.taken_at > clock - interval '15 minutes' then
    return 0;
  end if;
  delete from auth.samples s where s.taken_at < clock - interval '100 days';
  insert into auth.samples (
    taken_at, live_sessions, live_families, used_in_last_hour, kept_sessions, session_bytes, audit_bytes, opened, ended, failed_logins, lockouts, replays,
    stats_reset, rotated, retried, refused)
  select clock, s.live, s.families, s.used, s.kept, pg_total_relation_size('auth.sessions'),
         (select sum(pg_total_relation_size(i.inhrelid)) from pg_inherits i where i.inhparent = 'auth.audit_log'::regclass),
         e.opened, e.ended, e.failed_logins, e.lockouts, e.replays,
         c.stats_reset, c.rotated, c.retried + c.retained,
         c.replayed + c.overtaken + c.revoked + c.expired + c.unknown + c.ahead + c.limited + c.device_mismatch
    from (select count(*) filter (where x.is_live) as live, count(*) filter (where x.is_live and x.was_used) as used,
                 count(*) filter (where not x.is_live) as kept,
                 -- Nearly every session is the first of its family, and has its id: so only the others are sorted.
                 count(*) filter (where x.is_live and x.family_id = x.id)
                   + count(distinct x.family_id) filter (where x.is_live and x.family_id <> x.id and not exists (
                       select from auth.sessions f
                        where f.id = x.family_id and f.revoked_at is null and f.idle_expires_at > clock and f.expires_at > clock)) as families
            from (select y.id, y.family_id, y.revoked_at is null and y.idle_expires_at > clock and y.expires_at > clock as is_live,
                         y.last_used_at > clock - interval '1 hour' as was_used
                    from auth.sessions y) x) s,
         -- Of a gap only the last day: what a sample costs must not depend on how long nobody took one.
         auth.count_events(greatest(before.taken_at, clock - interval '1 day'), clock) e,
         auth.read_session_statistics() c
  on conflict do nothing;
  return 1;
end
$$;
comment on function auth.take_sample is 'Internal. A part of the maintenance: adds a row to auth.samples when the last one is a quarter of an hour old, and forgets those of more than 100 days; how many it added.';

-- By the BRIN index on created_at.
create function auth.count_events(
  from_time timestamptz, to_time timestamptz,
  out opened bigint, out ended bigint, out failed_logins bigint, out lockouts bigint, out replays bigint
)
  language plpgsql volatile parallel unsafe set plan_cache_mode = force_custom_plan
  as $$
begin
  select count(*) filter (where a.action = 'auth_session_created'),
         count(*) filter (where a.action in ('session_revoked', 'session_family_revoked', 'user_logged_out')),
         count(*) filter (where a.action = 'user_login_failed'),
         count(*) filter (where a.action = 'user_account_locked'),
         count(*) filter (where a.action = 'token_replay_detected')
    into opened, ended, failed_logins, lockouts, replays
    from auth.audit_log a
   where a.created_at >= from_time and a.created_at < to_time
     and a.action in ('auth_session_created', 'session_revoked', 'session_family_revoked', 'user_logged_out',
                      'user_login_failed', 'user_account_locked', 'token_replay_detected');
end
$$;
comment on function auth.count_events is 'Internal. How many audit rows of what the dashboard counts there are in a stretch of time.';
