-- Who is logged in, by organization.
--
-- Live sessions (neither revoked nor expired), their users, how many were used in the last hour, and how many proved who
-- they are in the last 5 minutes. Sessions that act for no organization are in the row without a name.
-- Normal: changes slowly over a day. Look closer when one organization has many times more sessions than users.
select o.slug as organization, count(*) as sessions, count(distinct s.user_id) as users,
       count(*) filter (where s.last_used > clock_timestamp() - interval '1 hour') as used_in_last_hour,
       count(*) filter (where s.auth_freshness = 'fresh') as fresh,
       max(s.last_used) as last_used
  from auth.active_sessions s
  left join auth.organizations o on o.id = s.organization_id
 group by o.id, o.slug
 order by sessions desc
 limit 100;
