-- What people on call and DBAs read. All are security_invoker: who reads sees what the policies allow.

create function auth.session_jti(session_id uuid) returns uuid
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  return (
    select (auth.grant_of(s, 'shown')).jti
      from auth.sessions s
     where s.id = session_jti.session_id
       and (s.id = auth.current_session_id()
            or pg_has_role(auth.calling_role(), 'auth_monitor', 'usage')
            or pg_has_role(auth.calling_role(), 'auth_admin', 'usage')));
end
$$;
comment on function auth.session_jti is 'The jti of a session''s newest access token: for that session itself, auth_monitor and auth_admin; null for others. A jti proves its session, so a session that has not been stepped up must not read that of one that has.';

create view auth.active_sessions with (security_invoker = true) as
  select s.id, s.user_id, s.family_id, auth.session_jti(s.id) as current_jti, s.device_hash, s.device_name, s.last_ip_cidr,
         s.user_agent, s.auth_time, s.created_at, s.last_used_at as last_used, s.expires_at,
         u.email as user_email, u.name as user_name,
         case when s.auth_time > clock_timestamp() - interval '5 minutes' then 'fresh'
              when s.auth_time > clock_timestamp() - interval '1 hour' then 'recent'
              else 'stale' end as auth_freshness,
         s.idle_expires_at, s.organization_id, s.generation, s.amr
    from auth.sessions s join auth.users u on u.id = s.user_id
   where s.revoked_at is null and s.idle_expires_at > clock_timestamp() and s.expires_at > clock_timestamp();
comment on view auth.active_sessions is 'Sessions that are neither revoked nor expired, with their users. A session ends at idle_expires_at unless it is refreshed before, and at expires_at in any case.';

create view auth.session_families with (security_invoker = true) as
  select s.family_id, s.user_id,
         count(*) as total_sessions,
         count(*) filter (where s.revoked_at is null and s.idle_expires_at > clock_timestamp() and s.expires_at > clock_timestamp()) as active_sessions,
         count(*) filter (where s.revoked_at is not null) as revoked_sessions,
         min(s.created_at) as family_created_at,
         max(s.last_used_at) as family_last_used,
         max(s.auth_time) as latest_auth_time,
         sum(s.generation)::bigint as rotations,
         count(s.reused_jti_of) as replays
    from auth.sessions s
   group by s.family_id, s.user_id;
comment on view auth.session_families is 'What is revoked together, with how often it was rotated and whether a replay was seen.';

create view auth.security_events with (security_invoker = true) as
  select a.id, a.created_at, a.action, a.severity, a.success, a.user_id, a.organization_id, a.session_id, a.family_id,
         a.actor, a.actor_user_id, a.correlation_id, a.ip_cidr, a.user_agent, a.details
    from auth.audit_log a
   where a.action not in ('token_refreshed', 'token_retry_served', 'session_cleanup', 'organization_created',
                          'organization_signup_completed');
comment on view auth.security_events is 'The audit log without routine: no refreshes, no cleaning.';

create view auth.replay_incidents with (security_invoker = true) as
  select a.id, a.created_at as detected_at, a.user_id, u.email as user_email, a.session_id, a.family_id,
         (a.details ->> 'presented_generation')::int as presented_generation,
         (a.details ->> 'current_generation')::int as current_generation,
         (a.details ->> 'generation_distance')::int as generation_distance,
         a.ip_cidr as presented_from, s.last_ip_cidr as last_rotated_from, a.user_agent as presented_by,
         s.device_name, s.rotated_at as last_rotated_at, s.revoked_at, a.correlation_id
    from auth.audit_log a
    left join auth.sessions s on s.id = a.session_id
    left join auth.users u on u.id = a.user_id
   where a.action = 'token_replay_detected';
comment on view auth.replay_incidents is 'Every replay: which old generation was presented, from where, and where the session was last rotated from. The session''s columns are null once it was cleaned away.';

create view auth.mail_queue with (security_invoker = true) as
  select q.state, q.kind, count(*) as mails, clock_timestamp() - min(q.created_at) as oldest_age,
         max(q.attempts) as most_attempts, min(q.next_attempt_at) as next_attempt_at,
         (array_agg(q.last_error order by q.created_at desc) filter (where q.last_error is not null))[1] as last_error
    from (select m.kind, m.created_at, m.attempts, m.last_error,
                 case when m.sent_at is not null then 'sent' when m.failed_at is not null then 'given_up'
                      when m.leased_until > clock_timestamp() then 'sending' when m.attempts > 0 then 'retrying'
                      else 'waiting' end as state,
                 case when m.sent_at is null and m.failed_at is null then m.next_attempt_at end as next_attempt_at
            from auth.mail_outbox m) q
   group by q.state, q.kind;
comment on view auth.mail_queue is 'How the mail goes, by state (waiting, sending, retrying, sent, given_up) and kind: how many, how old, and what the mail server said last. Nothing of what is in them. What is over is forgotten after 30 days.';
