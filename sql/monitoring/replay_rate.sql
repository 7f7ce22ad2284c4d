-- Replays, by day of the last 30: an old refresh token was shown again, and its family was revoked.
--
-- Each is either a stolen token or a client that keeps an old one (a restored phone, a lost answer that was retried after
-- auth_sessions.retry_window). Normal: a few a week. Many at once with one user agent: a broken release of a client.
-- auth.replay_incidents has each, with where it came from and where the session was last rotated from.
select (a.created_at at time zone 'UTC')::date as day,
       count(*) as replays, count(distinct a.user_id) as users, count(distinct a.ip_cidr) as networks,
       mode() within group (order by a.user_agent) as most_frequent_user_agent
  from auth.audit_log a
 where a.action = 'token_replay_detected' and a.created_at > clock_timestamp() - interval '30 days'
 group by 1
 order by 1 desc;
