-- Failed logins, locks and what looked like guessing, by network, in the last 24 hours.
--
-- One network with many users is somebody who tries stolen passwords; one user from many networks is somebody whom many
-- try. Bursts are aggregated in the log (the 1st, 2nd, 4th, 8th … refusal), so these are events, not attempts; details
-- ->> 'failures' has the attempts. auth.unlock_account lets somebody in again at once.
select a.ip_cidr as network, count(*) filter (where a.action = 'user_login_failed') as failed_logins,
       count(distinct a.user_id) as users, max((a.details ->> 'failures')::int) as most_failures_of_one,
       count(*) filter (where a.action = 'user_account_locked') as locks,
       count(*) filter (where a.action = 'suspicious_activity_detected') as suspicions,
       max(a.created_at) as last_at
  from auth.audit_log a
 where a.action in ('user_login_failed', 'user_account_locked', 'suspicious_activity_detected')
   and a.created_at > clock_timestamp() - interval '24 hours'
 group by a.ip_cidr
 order by failed_logins desc
 limit 50;
