-- Step-up (RFC 9470): the user of a session proves once more who they are. The session stays, its auth_time moves.

create function auth.step_up_max_age() returns interval
  language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
  return auth.setting('step_up_max_age')::interval;
comment on function auth.step_up_max_age is 'How recent an authentication sensitive operations want: auth_sessions.step_up_max_age, for whoever tells a client.';

create function auth.step_up_subject() returns text
  language sql stable parallel restricted
  -- Not the address, as for logins: a stranger who guesses there must not keep a user from stepping up here.
  return 'step_up:' || auth.current_user_id();
comment on function auth.step_up_subject is 'Internal. What failed step-ups are counted by: the proved user.';

create function auth.begin_step_up(
  out password_salt bytea, out password_params text, out pepper_id int, out verifier_version int, out retry_after interval
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
begin
  select u.password_salt, u.password_params, u.pepper_id, u.verifier_version
    into password_salt, password_params, pepper_id, verifier_version
    from auth.users u where u.id = caller;
  retry_after := auth.locked_for(auth.step_up_subject());
end
$$;
comment on function auth.begin_step_up is 'What the service needs to hash the proved session''s user''s password with; the salt is null for an account without a password. retry_after is set while step-ups are locked.';

create function auth.complete_step_up(
  verifier_version int, password_proof bytea,
  ip inet default null, user_agent text default null, correlation_id text default null
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  subject text := auth.step_up_subject();
  u auth.users;
  answer auth.session_outcome;
begin
  if verifier_version is null or password_proof is null then
    raise exception 'verifier_version and password_proof must not be null' using errcode = 'null_value_not_allowed',
      hint = 'begin_step_up tells the version and what to make the proof with.';
  end if;
  if octet_length(password_proof) <> 32 then
    raise exception 'password_proof must be 32 bytes, not %', octet_length(password_proof)
      using errcode = 'invalid_parameter_value', hint = 'It is HMAC-SHA-256(pepper, argon2id(password)).';
  end if;
  -- The user, then the session: whoever disables the one or ends the other comes before, and is seen, or after. And
  -- guesses at once are judged one after another, so that no more of them count than are free.
  select x.* into u from auth.users x where x.id = caller for no key update;
  answer.retry_after := auth.locked_for(subject);
  if answer.retry_after is not null then
    answer.outcome := 'locked';
  elsif u.verifier_version <> complete_step_up.verifier_version then
    answer.outcome := 'stale';
  elsif not coalesce(auth.equal_digests(sha256(password_proof), u.password_verifier), false) then
    perform auth.record_failed_login(u, subject, false, correlation_id, ip, user_agent, action => 'step_up_failed');
    answer.outcome := 'refused';
  else
    delete from auth.attempts a where a.key = auth.attempt_key(subject);
    answer := auth.renew_auth_time('pwd', ip, user_agent, correlation_id);
  end if;
  return answer;
end
$$;
comment on function auth.complete_step_up is 'Checks the password proof of the proved session''s user and moves the session''s auth_time to now. Outcome stepped_up, with a new access token''s jti (the refresh token stays as it is), refused, locked (retry_after tells for how long), stale (the verifier moved since begin_step_up: start again, once) or ended (the session is over).';

-- The caller holds the user's lock and has checked the proof.
create function auth.renew_auth_time(method text, ip inet, user_agent text, correlation_id text) returns auth.session_outcome
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock timestamptz := clock_timestamp();
  s auth.sessions;
  answer auth.session_outcome;
begin
  update auth.sessions x
     set auth_time = clock, amr = case when method = any (x.amr) then x.amr else x.amr || method end
   where x.id = auth.current_session_id()
     and x.revoked_at is null and x.idle_expires_at > clock and x.expires_at > clock
  returning x.* into s;
  if not found then
    answer.outcome := 'ended';
    return answer;
  end if;
  perform auth.record_event('step_up_completed', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                            correlation_id, ip, user_agent, jsonb_build_object('method', method));
  return auth.access_of(s, 'stepped_up');
end
$$;
comment on function auth.renew_auth_time is 'Internal. Moves the proved session''s auth_time to now; outcome stepped_up, or ended when it is over.';
