-- What cleaning has left lying, and since when.
--
-- Sessions are kept for auth_sessions.session_retention (7 days) after they were revoked or expired, then deleted in
-- batches. Normal: oldest_ended a little over the retention. Much older: nobody cleans (the worker, pg_cron or the
-- service's scheduler: sql/dba/tune.md), or it does not keep up.
select count(*) filter (where ended_at is null) as live,
       count(*) filter (where ended_at is not null) as ended_and_kept,
       clock_timestamp() - min(ended_at) as oldest_ended,
       count(*) filter (where ended_at < clock_timestamp() - interval '8 days') as ended_more_than_8_days_ago
  from (select case when s.revoked_at is not null then s.revoked_at
                    when least(s.idle_expires_at, s.expires_at) <= clock_timestamp() then least(s.idle_expires_at, s.expires_at)
                    end as ended_at
          from auth.sessions s) x;
