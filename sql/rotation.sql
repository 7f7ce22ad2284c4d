-- Rotation. The fast path is one UPDATE, in pg_ext/src/rotation.rs; what it does not settle comes here.

-- It lends its owner's rights without a pinned search_path, which would be set and set back at each call, a tenth of its
-- time: what it runs, in rotation.rs, names everything with its schema, and what that calls pins its own.
create function auth.rotate_session_token(
  session_id uuid, generation int, ticket bytea, token_proof bytea, next_token_verifier bytea, rotation_nonce bytea,
  ip inet default null, user_agent text default null, device_hash bytea default null, correlation_id text default null,
  received_at timestamptz default null
) returns setof auth.session_outcome
  language c volatile parallel unsafe security definer rows 1 as 'MODULE_PATHNAME', 'rotate_session_token_wrapper';
comment on function auth.rotate_session_token is 'Exchanges a refresh token for its successor. One row, whose outcome is rotated, retried (the same successor again), retained (a shared token that was given out a moment ago: it stays the current one), replayed (the family is now revoked), overtaken (shown before the session moved on, which received_at tells by the clock of this database, and judged after: nothing changed), revoked, expired, unknown, ahead, limited (too many refreshes of this session: nothing changed, try again after retry_after) or device_mismatch (auth_sessions.device_mismatch = reject: nothing changed). Never raises for an outcome: commit, then answer. For rotated, retried and retained the session becomes the identity of this transaction.';

-- Lock and decide. The presented token is judged by what the locking read returned, after the wait, by the clock then.
-- Says 'rotate' when the caller, who now holds the locks, may run the fast path again.
create function auth.settle_rotation(
  session_id uuid, generation int, ticket bytea, token_proof bytea,
  ip inet, user_agent text, device_hash bytea, correlation_id text, received_at timestamptz
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe set search_path = pg_catalog, pg_temp
  as $$
declare
  s auth.sessions;
  is_other_device boolean;
  presented_verifier bytea := sha256(token_proof);
  ticket_is_authentic boolean;
  recovery record;
  clock timestamptz;
  -- At the latest: it may have waited since, in a socket, for a connection, for a lock.
  shown_at timestamptz := least(received_at, statement_timestamp());
  decision text;
  answer auth.session_outcome;
begin
  answer.outcome := 'unknown';
  select x.* into s from auth.sessions x where x.id = settle_rotation.session_id;
  if not found then
    return answer;
  end if;
  -- Who shows nothing genuine locks nothing either: otherwise whoever knows a session's id could hold up its owner.
  -- The lineage key never changes, so this needs no lock.
  ticket_is_authentic := auth.equal_digests(
    settle_rotation.ticket, auth.make_ticket(s.lineage_key, settle_rotation.generation, presented_verifier));
  if not ticket_is_authentic
     and presented_verifier <> s.token_verifier
     and presented_verifier is distinct from s.previous_token_verifier then
    return answer;
  end if;

  -- The session's lock alone. Whoever waited in the fast path and missed holds it already (an UPDATE that finds its row
  -- changed locks it before it looks again), so nobody may wait for the user's lock here: others hold that one and wait
  -- for the session's. Where a replay ends all of its user it is needed; then nobody went through the fast path.
  if auth.setting('replay_scope') = 'user' then
    perform from auth.users u where u.id = s.user_id for no key update;
  end if;
  select x.* into s from auth.sessions x where x.id = settle_rotation.session_id for no key update;
  if not found then
    return answer;
  end if;

  clock := clock_timestamp();
  recovery := auth.recovery_of(s, clock);
  is_other_device := coalesce(s.device_hash <> settle_rotation.device_hash, false);
  select d.decision, d.retry_after into decision, answer.retry_after from auth.decide_rotation(
    s.generation, s.token_verifier, s.previous_token_verifier, s.revoked_at is not null,
    s.idle_expires_at, s.expires_at, s.rotated_at, recovery.retry_window,
    settle_rotation.generation, presented_verifier, ticket_is_authentic, clock, recovery.max_gap,
    s.is_shared, is_other_device and auth.setting('device_mismatch') = 'reject',
    s.refreshes_full_at, auth.setting('refresh_burst')::int, auth.setting('refresh_period')::interval,
    shown_at) d;

  case decision
    when 'unknown', 'revoked' then
      answer.outcome := decision;
    when 'expired' then
      answer.outcome := decision;
      perform auth.record_refusal(auth.count_attempt('session_expired:' || s.id), 'session_expired', 'info', s.user_id, s.organization_id, s.id, s.family_id,
                                  correlation_id, ip, user_agent, '{}');
    when 'ahead' then
      answer.outcome := decision;
      perform auth.record_refusal(auth.count_attempt('token_ahead_of_database:' || s.id), 'token_ahead_of_database',
                                  'critical', s.user_id, s.organization_id, s.id, s.family_id, correlation_id, ip, user_agent,
                                  jsonb_build_object('presented_generation', settle_rotation.generation,
                                                     'current_generation', s.generation));
    when 'replay' then
      answer.outcome := 'replayed';
      -- A refresh token does not say when its generation was made: time zero.
      perform auth.burn_family(s, settle_rotation.generation,
                               auth.make_jti(s.lineage_key, settle_rotation.generation, to_timestamp(0)),
                               correlation_id, ip, user_agent);
    when 'overtaken' then
      answer.outcome := decision;
      perform auth.record_refusal(auth.count_attempt('token_overtaken:' || s.id), 'token_overtaken', 'warning',
                                  s.user_id, s.organization_id, s.id, s.family_id, correlation_id, ip, user_agent,
                                  jsonb_build_object('presented_generation', settle_rotation.generation,
                                                     'current_generation', s.generation,
                                                     'shown_at', shown_at));
    when 'limited' then
      answer.outcome := decision;
      perform auth.record_refusal(auth.count_attempt('refresh limited:' || s.id), 'rate_limit_exceeded', 'warning',
                                  s.user_id, s.organization_id, s.id, s.family_id, correlation_id, ip, user_agent,
                                  '{"scope": "refresh"}');
    when 'device_mismatch' then
      answer.outcome := decision;
      perform auth.note_device_mismatch(s.id, settle_rotation.device_hash, ip, user_agent, correlation_id);
    when 'retry', 'retain' then
      if is_other_device then
        s.auth_time := auth.note_device_mismatch(s.id, settle_rotation.device_hash, ip, user_agent, correlation_id);
      end if;
      -- The very same answer as the first time, jti included: to the token before the current one, or to the current one
      -- itself, which stays.
      answer := auth.grant_of(s, case decision when 'retry' then 'retried' else 'retained' end);
      perform auth.set_identity(s.user_id, s.organization_id, s.id);
      if decision = 'retry' and auth.setting('audit_level') = 'all' then
        perform auth.record_event('token_retry_served', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                                  correlation_id, ip, user_agent, jsonb_build_object('generation', s.generation));
      end if;
    when 'fast_forward' then
      -- The database lost commits and the token proves them: move to where the client is, then rotate as usual. When the
      -- client got that token is lost too; by another server's clock it may seem that a shared one is still fresh.
      update auth.sessions x
         set generation = settle_rotation.generation, token_verifier = presented_verifier, rotated_at = null
       where x.id = s.id;
      perform auth.record_event('session_fast_forwarded', 'warning', true, s.user_id, s.organization_id, s.id, s.family_id,
                                correlation_id, ip, user_agent,
                                jsonb_build_object('from_generation', s.generation, 'to_generation', settle_rotation.generation));
      answer.outcome := 'rotate';
    when 'rotate' then
      answer.outcome := 'rotate';
  end case;
  return answer;
end
$$;
comment on function auth.settle_rotation is 'Internal. The slow path of rotate_session_token.';

-- What an open recovery window means for a session. While nobody was answered no client could retry, so that the time in
-- which it may stands still from then on: who had not got its answer then gets it whenever it comes back, as long as the
-- window is open and nobody has used the successor.
create function auth.recovery_of(s auth.sessions, clock timestamptz, out max_gap int, out retry_window interval)
  language plpgsql stable parallel safe
  as $$
declare
  stopped_at timestamptz;
begin
  select w.max_gap, w.stopped_at into max_gap, stopped_at from auth.recovery_windows w
   where w.closes_at > clock order by w.opened_at desc limit 1;
  retry_window := coalesce(s.retry_window, auth.setting('retry_window')::interval);
  if s.rotated_at <= stopped_at and clock > stopped_at then
    retry_window := retry_window + (clock - stopped_at);
  end if;
end
$$;
comment on function auth.recovery_of is 'Internal. The largest gap that the open recovery window allows, if there is one, and how long a session''s retries are answered.';

-- A genuine token from another device than the one that logged in: a browser that was changed for another keeps its
-- name, so this may be honest, and what it means is the operator's choice (auth_sessions.device_mismatch). With step_up
-- the session takes the new device for its own, and its authentication for the oldest there is, until the user proves
-- who they are; that is done once, so that a step-up holds. Called under the session's lock; says its auth_time.
create function auth.note_device_mismatch(session_id uuid, device_hash bytea, ip inet, user_agent text, correlation_id text)
  returns timestamptz
  language plpgsql volatile parallel unsafe set search_path = pg_catalog, pg_temp
  as $$
declare
  s auth.sessions;
  policy text := auth.setting('device_mismatch');
begin
  select x.* into s from auth.sessions x where x.id = note_device_mismatch.session_id;
  perform auth.record_refusal(auth.count_attempt('device_fingerprint_mismatch:' || s.id), 'device_fingerprint_mismatch',
                              'warning', s.user_id, s.organization_id, s.id, s.family_id, correlation_id, ip, user_agent,
                              jsonb_build_object('policy', policy, 'device_name', s.device_name));
  if policy = 'step_up' then
    update auth.sessions x set auth_time = 'epoch', device_hash = note_device_mismatch.device_hash where x.id = s.id
    returning x.auth_time into s.auth_time;
  end if;
  return s.auth_time;
end
$$;
comment on function auth.note_device_mismatch is 'Internal. What a refresh from another device brings about.';

create function auth.grant_of(s auth.sessions, outcome text) returns auth.session_outcome
  language plpgsql stable parallel restricted
  as $$
declare
  issued_at timestamptz := date_trunc('second', coalesce(s.rotated_at, s.created_at), 'UTC');
begin
  return (outcome, s.id, s.family_id, s.user_id, s.organization_id, s.generation,
          auth.make_ticket(s.lineage_key, s.generation, s.token_verifier), s.rotation_nonce,
          auth.make_jti(s.lineage_key, s.generation, issued_at), issued_at,
          s.auth_time, s.amr, s.idle_expires_at, s.expires_at, null,
          issued_at + auth.setting('access_token_ttl')::interval)::auth.session_outcome;
end
$$;
comment on function auth.grant_of is 'Internal. What a session''s holder is given.';

-- A new access token beside the ones that the session has: nothing about its refresh token is told.
create function auth.access_of(s auth.sessions, outcome text) returns auth.session_outcome
  language plpgsql volatile parallel restricted
  as $$
declare
  issued_at timestamptz := date_trunc('second', clock_timestamp(), 'UTC');
begin
  return (outcome, s.id, s.family_id, s.user_id, s.organization_id, s.generation, null, null,
          auth.make_jti(s.lineage_key, s.generation, issued_at), issued_at,
          s.auth_time, s.amr, s.idle_expires_at, s.expires_at, null,
          issued_at + auth.setting('access_token_ttl')::interval)::auth.session_outcome;
end
$$;
comment on function auth.access_of is 'Internal. What the holder of an access token is given for a new one.';

-- A replay: end the family (or, by auth_sessions.replay_scope, everything of the user), say so, in this transaction.
-- The caller holds the session's lock, which for a family is enough; and the user's, where everything ends.
create function auth.burn_family(
  s auth.sessions, presented_generation int, presented_jti uuid, correlation_id text, ip inet, user_agent text
) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  update auth.sessions x set reused_jti_of = presented_jti where x.id = s.id;
  perform auth.record_event('token_replay_detected', 'critical', false, s.user_id, s.organization_id, s.id, s.family_id,
                            correlation_id, ip, user_agent,
                            jsonb_build_object('presented_generation', presented_generation,
                                               'current_generation', s.generation,
                                               'generation_distance', s.generation - presented_generation,
                                               'reused_jti', presented_jti));
  perform auth.revoke_live_sessions(
    s.user_id, of_family => case auth.setting('replay_scope') when 'family' then s.family_id end,
    action => 'session_family_revoked', reason => 'token_replay', severity => 'critical',
    correlation_id => correlation_id, ip => ip, user_agent => user_agent, lock_user => false);
end
$$;
comment on function auth.burn_family is 'Internal. What a replay does.';

create function auth.handle_token_replay(jti uuid, family_id uuid) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  owner_id uuid;
  s auth.sessions;
  replayed_generation int;
begin
  perform auth.require_primary();
  if jti is null or family_id is null then
    raise exception 'jti and family_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Both are in the audit log and in auth.active_sessions.';
  end if;
  select x.user_id into owner_id from auth.sessions x where x.family_id = handle_token_replay.family_id limit 1;
  perform from auth.users u where u.id = owner_id for no key update;
  for s in
    select x.* from auth.sessions x where x.family_id = handle_token_replay.family_id order by x.id for no key update
  loop
    select proof.generation into replayed_generation
      from auth.read_jti(s.lineage_key, handle_token_replay.jti) proof;
    continue when replayed_generation is null or replayed_generation >= s.generation;
    if s.revoked_at is not null then
      return true;
    end if;
    -- A time-out is no attack.
    continue when s.idle_expires_at <= clock_timestamp() or s.expires_at <= clock_timestamp();
    perform auth.burn_family(s, replayed_generation, handle_token_replay.jti, null, null, null);
    return true;
  end loop;
  return false;
end
$$;
comment on function auth.handle_token_replay is 'Burns the family when the jti is genuine and of a generation below the current one: true, it was a replay. False, and nothing changes, for the current jti, an unknown one, or another family''s. Only for a jti that came with a REFRESH attempt: an older access token that is still valid is honest, and must not be reported here.';

-- When nobody was answered any more is the commit that a standby replayed last before it was promoted; or, where the server
-- was started on what a crash or a backup left, the last rotation of before. That one looks through all sessions, once.
create function auth.open_recovery_window(duration interval, max_gap int, stopped_at timestamptz default null)
  returns timestamptz
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  closes timestamptz := clock_timestamp() + duration;
  stopped timestamptz := coalesce(
    open_recovery_window.stopped_at, pg_last_xact_replay_timestamp(),
    (select max(s.rotated_at) from auth.sessions s where s.rotated_at < pg_postmaster_start_time()));
begin
  perform auth.require_primary();
  if duration is null or max_gap is null then
    raise exception 'duration and max_gap must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: select auth.open_recovery_window(''1 hour'', 10);';
  end if;
  if duration <= interval '0' or duration > interval '7 days' or max_gap < 1 then
    raise exception 'duration must be between 0 and 7 days, and max_gap at least 1'
      using errcode = 'invalid_parameter_value',
            hint = 'max_gap is how many refreshes of one session may have been lost.';
  end if;
  -- What was found out may be: by the clock of a primary that went fast.
  if open_recovery_window.stopped_at > clock_timestamp() then
    raise exception 'stopped_at is in the future' using errcode = 'invalid_parameter_value',
      hint = 'It is when the database stopped answering; leave it out when you do not know.';
  end if;
  insert into auth.recovery_windows (opened_at, closes_at, max_gap, opened_by, stopped_at)
  values (clock_timestamp(), closes, max_gap, auth.calling_role(), stopped);
  perform auth.record_event('recovery_window_opened', 'critical', true,
                            details => jsonb_build_object('closes_at', closes, 'max_gap', max_gap, 'stopped_at', stopped));
  return closes;
end
$$;
comment on function auth.open_recovery_window is 'After a failover or a restore: until the returned time, refresh tokens up to max_gap generations newer than the database are accepted, and a same-generation fork is refused without burning the family. Whoever could have retried when the database stopped answering (stopped_at; by default found out) still can.';

create function auth.close_recovery_window() returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  clock timestamptz := clock_timestamp();
begin
  perform auth.require_primary();
  -- All that are open: an older one would come to light again under the newest.
  update auth.recovery_windows w set closes_at = clock where w.closes_at > clock;
  if not found then
    return false;
  end if;
  perform auth.record_event('recovery_window_closed', 'critical', true);
  return true;
end
$$;
comment on function auth.close_recovery_window is 'Ends the open recovery window at once: true when there was one. From then on tokens newer than the database are refused again, and a fork burns its family. Without it a window closes by itself, at the time that auth.open_recovery_window returned.';
