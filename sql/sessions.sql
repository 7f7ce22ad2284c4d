-- Opening and ending sessions. Lock order everywhere: the user's row, then session rows by id.

-- The caller holds the user's lock and has checked every right.
create function auth.open_session(
  user_id uuid, organization_id uuid, token_verifier bytea, amr text[],
  idle_ttl interval, max_age interval, retry_window interval,
  ip inet, user_agent text, device_hash bytea, device_name text, correlation_id text, is_shared boolean default false
) returns auth.sessions
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock timestamptz := clock_timestamp();
  granted_idle_ttl interval := least(idle_ttl, auth.setting('refresh_idle_ttl')::interval);
  granted_end timestamptz := clock + least(max_age, auth.setting('session_max_age')::interval);
  granted_idle_end timestamptz := least(clock + granted_idle_ttl, granted_end);
  new_id uuid := gen_random_uuid();
  most int := auth.setting('max_sessions_per_user')::int;
  is_new_device boolean;
  s auth.sessions;
begin
  -- Never seen in any session that is still known of; a first session, at sign-up, is no news.
  is_new_device := open_session.device_hash is not null
    and exists (select from auth.sessions x where x.user_id = open_session.user_id)
    and not exists (select from auth.sessions x
                     where x.user_id = open_session.user_id and x.device_hash = open_session.device_hash);
  if most > 0 then
    perform auth.revoke_live_sessions(open_session.user_id, keep_newest => most - 1,
                                      action => 'session_revoked', reason => 'max_sessions_per_user',
                                      correlation_id => correlation_id);
  end if;
  insert into auth.sessions as x
    (id, family_id, user_id, organization_id, created_at, auth_time, expires_at, idle_ttl, retry_window, is_shared, amr, lineage_key,
     device_hash, device_name, user_agent, last_ip_cidr, last_used_at, idle_expires_at, token_verifier)
  values
    (new_id, new_id, user_id, organization_id, clock, clock, granted_end, granted_idle_ttl,
     -- Null stays null (least would pass over it): then the setting of the moment counts.
     case when retry_window is not null then least(retry_window, auth.setting('retry_window_max')::interval) end,
     coalesce(is_shared, false), amr, auth.random_bytes(32),
     device_hash, left(device_name, 200), auth.cut_user_agent(user_agent), auth.network_of(ip),
     clock, granted_idle_end, token_verifier)
  returning x.* into s;
  perform auth.record_event('auth_session_created', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                            correlation_id, ip, user_agent,
                            jsonb_build_object('device_name', s.device_name, 'amr', s.amr));
  if is_new_device then
    perform auth.record_event('new_device_login', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                              correlation_id, ip, user_agent, jsonb_build_object('device_name', s.device_name));
  end if;
  perform auth.set_identity(s.user_id, s.organization_id, s.id);
  return s;
end
$$;
comment on function auth.open_session is 'Internal. Opens a session: asked lifetimes can only shorten the configured ones.';

-- Under REPEATABLE READ a session that was opened since the snapshot is not seen, and so not ended. Who is told to try
-- again sees it then.
create function auth.require_newest_view(of_user uuid) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable')
     and auth.has_newer_sessions(of_user, array(
           select s.id from auth.sessions s where s.user_id = of_user
           union all select t.id from auth.personal_access_tokens t where t.user_id = of_user)) then
    raise exception 'could not end all sessions of a user: one was opened since this transaction''s snapshot'
      using errcode = 'serialization_failure', hint = 'Try the transaction again.';
  end if;
end
$$;
comment on function auth.require_newest_view is 'Internal. Raises 40001 when a transaction''s snapshot is too old to see all sessions and tokens of a user.';

-- The one door out. Ends the live sessions of a user that match every given condition, writes one audit row and one
-- notification for the decision, and says how many ended. The first time and reason of a revocation stay.
create function auth.revoke_live_sessions(
  of_user uuid, of_session uuid default null, of_family uuid default null, of_organization uuid default null,
  but_not uuid default null, keep_newest int default 0,
  action text default 'session_revoked', reason text default 'session_revoked', severity text default 'info',
  correlation_id text default null, ip inet default null, user_agent text default null,
  lock_user boolean default true, more_details jsonb default '{}'
) returns int
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock timestamptz;
  live uuid[];
  ended auth.sessions;
begin
  perform auth.require_primary();
  if lock_user then
    perform from auth.users u where u.id = of_user for no key update;
  end if;
  perform auth.require_newest_view(of_user);
  -- Locked in the order of their ids, so that two who end several sessions at once cannot deadlock.
  perform from auth.sessions s
    where s.user_id = of_user and s.revoked_at is null
      and (of_session is null or s.id = of_session) and (of_family is null or s.family_id = of_family)
    order by s.id for no key update;
  clock := clock_timestamp();
  live := array(
    select s.id from auth.sessions s
     where s.user_id = of_user and s.revoked_at is null and s.idle_expires_at > clock and s.expires_at > clock
       and (of_session is null or s.id = of_session)
       and (of_family is null or s.family_id = of_family)
       and (of_organization is null or s.organization_id = of_organization)
       and (but_not is null or s.id <> but_not)
     order by s.created_at desc, s.id offset keep_newest);
  if cardinality(live) = 0 then
    return 0;
  end if;
  update auth.sessions s set revoked_at = clock, revoked_reason = left(reason, 200) where s.id = any (live);
  -- Whose row it is: the session's when there is one, the user's when there are several.
  select s.* into ended from auth.sessions s where s.id = live[1];
  perform auth.record_event(
    action, severity, true, of_user, ended.organization_id,
    case when cardinality(live) = 1 then ended.id end,
    case when cardinality(live) = 1 then ended.family_id else of_family end,
    correlation_id, ip, user_agent,
    more_details || jsonb_build_object('reason', left(reason, 200), 'sessions', to_jsonb(live)));
  -- A listener takes this as a hint, never as the truth: ids only, and short enough for any number of sessions.
  perform pg_notify('auth_events', json_build_object(
    'action', action, 'user_id', of_user, 'family_id', of_family, 'session_id', ended.id, 'sessions', cardinality(live))::text);
  return cardinality(live);
end
$$;
comment on function auth.revoke_live_sessions is 'Internal. The one place where sessions are revoked.';

create function auth.revoke_session_family(family_id uuid, reason text default 'family_revoked', correlation_id text default null)
  returns int
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  owner_id uuid;
begin
  if family_id is null or reason is null then
    raise exception 'family_id and reason must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.session_families for the families.';
  end if;
  select s.user_id into owner_id from auth.sessions s where s.family_id = revoke_session_family.family_id limit 1;
  return auth.revoke_live_sessions(owner_id, of_family => revoke_session_family.family_id,
                                   action => 'session_family_revoked', reason => reason, severity => 'warning',
                                   correlation_id => correlation_id);
end
$$;
comment on function auth.revoke_session_family is 'Revokes every live session of a family; returns how many (0 when nothing was live). For operators (auth_admin).';

create function auth.revoke_session(session_id uuid, reason text default 'session_revoked', correlation_id text default null)
  returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('sessions:write');
  target record;
begin
  if session_id is null or reason is null then
    raise exception 'session_id and reason must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.active_sessions for the sessions.';
  end if;
  select s.user_id, s.organization_id into target from auth.sessions s where s.id = revoke_session.session_id;
  -- Somebody else's session looks like one that does not exist.
  if target.user_id = caller or auth.manages_user(target.organization_id, target.user_id) then
    return auth.revoke_live_sessions(
      target.user_id, of_session => revoke_session.session_id,
      -- Of somebody else only what acts for the organization, also if it is just switching to another.
      of_organization => case when target.user_id <> caller then target.organization_id end,
      action => case reason when 'logged_out' then 'user_logged_out' else 'session_revoked' end,
      reason => reason, correlation_id => correlation_id) = 1;
  end if;
  return false;
end
$$;
comment on function auth.revoke_session is 'Ends one session: the proved user''s own, or one of a member whom the proved user manages (auth.role_manages) that acts for the active organization. True when this call ended it; false also for a session that does not exist or is out of reach.';

create function auth.revoke_user_sessions(
  user_id uuid, reason text default 'user_sessions_revoked', except_session_id uuid default null, correlation_id text default null
) returns int
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('sessions:write');
  only_in uuid;
begin
  if user_id is null or reason is null then
    raise exception 'user_id and reason must not be null' using errcode = 'null_value_not_allowed',
      hint = 'auth.current_user_id() is the caller''s own id.';
  end if;
  if user_id <> caller then
    -- An administrator reaches only what acts for the organization.
    only_in := auth.current_organization_id();
    if auth.manages_user(only_in, user_id) is not true then
      return 0;
    end if;
  end if;
  return auth.revoke_live_sessions(
    revoke_user_sessions.user_id, of_organization => only_in, but_not => except_session_id,
    action => case reason when 'logged_out' then 'user_logged_out' else 'session_revoked' end,
    reason => reason, correlation_id => correlation_id);
end
$$;
comment on function auth.revoke_user_sessions is 'Ends all live sessions of the proved user, or those of a member whom the proved user manages that act for the active organization; returns how many.';

-- The token's own ticket proves that it was ours, whatever its age: who holds any token of a session may end it.
create function auth.end_session(
  session_id uuid, generation int, ticket bytea, token_proof bytea, correlation_id text default null
) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  s auth.sessions;
begin
  if session_id is null or generation is null or ticket is null or token_proof is null then
    raise exception 'session_id, generation, ticket and token_proof must not be null'
      using errcode = 'null_value_not_allowed', hint = 'All four are parts of the refresh token.';
  end if;
  if octet_length(ticket) <> 16 or octet_length(token_proof) <> 32 or generation < 0 then
    raise exception 'ticket must be 16 bytes, token_proof 32 bytes, generation not negative'
      using errcode = 'invalid_parameter_value', hint = 'token_proof is the SHA-256 of the token''s secret.';
  end if;
  select x.* into s from auth.sessions x where x.id = end_session.session_id;
  if not found or not auth.equal_digests(
       end_session.ticket, auth.make_ticket(s.lineage_key, end_session.generation, sha256(token_proof))) then
    return false;
  end if;
  perform auth.set_identity(s.user_id, s.organization_id, s.id);
  return auth.revoke_live_sessions(s.user_id, of_session => s.id, action => 'user_logged_out', reason => 'logged_out',
                                   correlation_id => correlation_id) = 1;
end
$$;
comment on function auth.end_session is 'Logs out by refresh token (RFC 7009): true when this call ended the session. A genuine token of any age will do, and becomes the identity of this transaction.';

create function auth.report_invalid_csrf_token(
  ip inet default null, user_agent text default null, correlation_id text default null
) returns void
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_identity();
  perform auth.record_refusal(auth.count_attempt('invalid_csrf_token:' || auth.current_session_id()), 'invalid_csrf_token',
                              'warning', auth.current_user_id(), auth.current_organization_id(),
                              auth.current_session_id(), auth.current_session_id(), correlation_id, ip, user_agent, '{}');
end
$$;
comment on function auth.report_invalid_csrf_token is 'Records that a request with the proved session''s cookie came with a CSRF token that is not its own: another page may be at work.';

-- Expired or revoked longer ago than the retention. Rows in use are skipped, never waited for.
create function auth.delete_expired_sessions(batch_size int, retention interval) returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  limit_time timestamptz := clock_timestamp() - retention;
  removed bigint;
  more bigint;
begin
  delete from auth.sessions s
   where s.id = any (array(
     select x.id from auth.sessions x
      where x.revoked_at is not null and x.revoked_at < limit_time
      order by x.revoked_at limit batch_size for update skip locked));
  get diagnostics removed = row_count;
  delete from auth.sessions s
   where s.id = any (array(
     select x.id from auth.sessions x
      where x.revoked_at is null and x.cleanup_week <= (limit_time at time zone 'UTC')::date
        and least(x.idle_expires_at, x.expires_at) < limit_time
      order by x.cleanup_week limit batch_size - removed for update skip locked));
  get diagnostics more = row_count;
  removed := removed + more;
  if removed > 0 then
    perform auth.record_event('session_cleanup', 'info', true,
                              details => jsonb_build_object('removed', removed, 'retention', retention));
    perform auth.count_cleaned(removed);
  end if;
  return removed;
end
$$;
comment on function auth.delete_expired_sessions is 'Internal. One batch of cleaning, of sessions alone; returns how many it deleted.';

create function auth.cleanup_expired_sessions(batch_size int, retention interval) returns bigint
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  removed bigint;
begin
  perform auth.require_primary();
  if batch_size is null or retention is null then
    raise exception 'batch_size and retention must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Without arguments the configured retention and a batch of 10,000 are used.';
  end if;
  if batch_size not between 1 and 1000000 or retention < interval '0' then
    raise exception 'batch_size must be between 1 and 1,000,000, retention not negative'
      using errcode = 'invalid_parameter_value', hint = 'Call again until it returns 0.';
  end if;
  removed := auth.delete_expired_sessions(batch_size, retention);
  perform auth.forget_attempts(batch_size);
  perform auth.forget_mail(batch_size);
  perform auth.forget_id_tokens(batch_size);
  return removed;
end
$$;
comment on function auth.cleanup_expired_sessions(int, interval) is 'Deletes at most batch_size sessions that expired or were revoked longer ago than the retention; returns how many. Never blocks a refresh; two may run at once. Also forgets old counters of auth.attempts, what is left of old mail, and expired one-time and ID tokens.';

create function auth.cleanup_expired_sessions() returns bigint
  language sql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  return auth.cleanup_expired_sessions(10000, auth.setting('session_retention')::interval);
comment on function auth.cleanup_expired_sessions() is 'One batch (10,000) of cleaning with auth_sessions.session_retention. Call again until it returns 0.';
