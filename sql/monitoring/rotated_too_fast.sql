-- Sessions that are refreshed much more often than an access token's lifetime asks for.
--
-- A well-behaved client refreshes once per auth_sessions.access_token_ttl (15 minutes: 4 an hour); this finds those with
-- more than 30 an hour over their life. Usually a loop in a client; auth_sessions.refresh_burst bounds what it can do.
select f.family_id, f.user_id, f.rotations, f.family_created_at, f.family_last_used,
       round((f.rotations / greatest(extract(epoch from f.family_last_used - f.family_created_at) / 3600, 0.1))::numeric) as rotations_per_hour
  from auth.session_families f
 where f.active_sessions > 0 and f.rotations >= 30
   and f.rotations > 30 * extract(epoch from f.family_last_used - f.family_created_at) / 3600
 order by rotations_per_hour desc
 limit 50;
