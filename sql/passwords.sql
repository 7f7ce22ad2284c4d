-- Passwords that are forgotten, and passwords that are changed. Every change ends sessions (the trigger on users).

create function auth.request_password_reset(
  email text, ip inet default null, user_agent text default null, correlation_id text default null
) returns void
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  lifetime interval := auth.setting('password_reset_ttl')::interval;
  u auth.users;
begin
  perform auth.require_address(email);
  if not auth.may_mail('reset_password', email, ip, user_agent, correlation_id) then
    return;
  end if;
  -- This much of a lock only, and only against the account's deletion meanwhile: whoever asks has proved nothing.
  select x.* into u from auth.users x
   where lower(x.email collate "C") = lower(request_password_reset.email collate "C") and x.disabled_at is null
     for key share;
  -- For an address that nobody has, too: the log wants to know, and the commit takes as long.
  perform auth.record_event('password_reset_requested', 'info', u.id is not null, u.id, correlation_id => correlation_id,
                            ip => ip, user_agent => user_agent);
  if u.id is not null then
    perform auth.queue_mail(
      'reset_password', u.email,
      jsonb_build_object('token', auth.new_one_time_token(u.id, 'reset_password', lifetime, u.email),
                         'expires_at', clock_timestamp() + lifetime),
      u.id, lifetime);
  end if;
end
$$;
comment on function auth.request_password_reset is 'Mails a link for setting a new password, to the account''s own address; the link before ends. Tells nothing: an address that nobody has, or that was mailed too often, is answered the same.';

create function auth.check_password_reset(token text) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  shown auth.one_time_tokens := auth.find_one_time_token(token, 'reset_password');
begin
  return shown.id is not null;
end
$$;
comment on function auth.check_password_reset is 'Whether reset_password would take this token now: asked before the new password is hashed, which is expensive.';

create function auth.require_new_password(
  password_salt bytea, password_params text, pepper_id int, password_verifier bytea
) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if num_nulls(password_salt, password_params, pepper_id, password_verifier) > 0 then
    raise exception 'the four parts of the new password must not be null' using errcode = 'null_value_not_allowed',
      hint = 'They are: password_salt, password_params, pepper_id, password_verifier.';
  elsif octet_length(password_salt) not between 16 and 64 or char_length(password_params) not between 1 and 100
     or octet_length(password_verifier) <> 32 then
    raise exception 'a password needs salt (16 to 64 bytes), params (1 to 100 letters), pepper_id and verifier (32 bytes)'
      using errcode = 'invalid_parameter_value', hint = 'The verifier is SHA-256 of the password proof.';
  end if;
end
$$;
comment on function auth.require_new_password is 'Internal. Refuses what is no new password.';

create function auth.reset_password(
  token text, password_salt bytea, password_params text, pepper_id int, password_verifier bytea,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out revoked_sessions int
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  shown auth.one_time_tokens := auth.find_one_time_token(token, 'reset_password');
  u auth.users;
begin
  perform auth.require_new_password(password_salt, password_params, pepper_id, password_verifier);
  outcome := 'invalid_token';
  select x.* into u from auth.users x where x.id = shown.user_id and x.disabled_at is null for no key update;
  if u.id is null then
    return;
  end if;
  -- The user, the sessions by id, then the token: the order of all locks. Only who has the mail comes this far.
  perform from auth.sessions s where s.user_id = u.id and s.revoked_at is null order by s.id for no key update;
  shown := auth.use_one_time_token(token, 'reset_password');
  -- It proves the address that it was mailed to, which must be the account's still.
  if shown.id is null or lower(shown.email collate "C") <> lower(u.email collate "C") then
    return;
  end if;
  -- All of them: whoever is logged in now may be the reason for the reset. Before the trigger would spare one.
  revoked_sessions := auth.revoke_live_sessions(u.id, reason => 'password_reset', correlation_id => correlation_id,
                                                ip => ip, user_agent => user_agent);
  update auth.users x
     set password_salt = reset_password.password_salt, password_params = reset_password.password_params,
         pepper_id = reset_password.pepper_id, password_verifier = reset_password.password_verifier,
         email_verified_at = coalesce(x.email_verified_at, clock_timestamp())
   where x.id = u.id;
  -- Who proved the mailbox is let in again at once.
  delete from auth.attempts a where a.key = auth.attempt_key(auth.login_subject(u.email));
  perform auth.record_event('password_reset_completed', 'warning', true, u.id, correlation_id => correlation_id, ip => ip,
                            user_agent => user_agent);
  if u.email_verified_at is null then
    perform auth.record_event('email_verified', 'info', true, u.id, correlation_id => correlation_id, ip => ip,
                              user_agent => user_agent);
  end if;
  perform auth.queue_mail('password_changed', u.email, '{}', u.id);
  outcome := 'password_reset';
end
$$;
comment on function auth.reset_password is 'Sets a new password with the token of a reset mail, once: password_reset, and every session and personal access token of the user is ended, the lock-out lifted, the e-mail verified; or invalid_token, and nothing is changed.';

-- Both: a session that was stolen is stopped by step-up, an unlocked screen by the current password.
create function auth.change_password(
  verifier_version int, password_proof bytea,
  password_salt bytea, password_params text, pepper_id int, password_verifier bytea,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out revoked_sessions int, out retry_after interval
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  subject text := auth.step_up_subject();
  u auth.users;
begin
  perform auth.require_new_password(password_salt, password_params, pepper_id, password_verifier);
  if verifier_version is null then
    raise exception 'verifier_version must not be null' using errcode = 'null_value_not_allowed',
      hint = 'begin_step_up tells it, and what to make the proof of the current password with.';
  end if;
  if octet_length(password_proof) <> 32 then
    raise exception 'password_proof must be 32 bytes, not %', octet_length(password_proof)
      using errcode = 'invalid_parameter_value', hint = 'It is HMAC-SHA-256(pepper, argon2id(password)).';
  end if;
  if not auth.recently_authenticated() then
    outcome := 'step_up_required';
    return;
  end if;
  -- Guesses at once are judged one after another, so that no more of them count than are free.
  select x.* into u from auth.users x where x.id = caller for no key update;
  retry_after := auth.locked_for(subject);
  if retry_after is not null then
    outcome := 'locked';
    return;
  end if;
  if u.verifier_version <> change_password.verifier_version then
    outcome := 'stale';
    return;
  end if;
  -- A federated account has none: its first password needs the step-up alone.
  if u.password_verifier is not null
     and not coalesce(auth.equal_digests(sha256(password_proof), u.password_verifier), false) then
    perform auth.record_failed_login(u, subject, false, correlation_id, ip, user_agent, action => 'step_up_failed');
    outcome := 'refused';
    return;
  end if;
  delete from auth.attempts a where a.key = auth.attempt_key(subject);
  revoked_sessions := auth.revoke_live_sessions(u.id, but_not => auth.current_session_id(), reason => 'password_changed',
                                                correlation_id => correlation_id, ip => ip, user_agent => user_agent);
  update auth.users x
     set password_salt = change_password.password_salt, password_params = change_password.password_params,
         pepper_id = change_password.pepper_id, password_verifier = change_password.password_verifier
   where x.id = u.id;
  perform auth.queue_mail('password_changed', u.email, '{}', u.id);
  outcome := 'password_changed';
end
$$;
comment on function auth.change_password is 'Changes the password of the proved session''s user: password_changed, and every other session and every personal access token is ended. Needs a recent authentication (step_up_required) and the proof of the current password (refused, counted; locked for retry_after; stale when the verifier moved since begin_step_up: start again, once).';
