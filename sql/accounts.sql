-- Users, sign-up and login by password. The service hashes; the decision, its counters and its audit rows are here.

create function auth.require_token_verifier(token_verifier bytea) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if token_verifier is null then
    raise exception 'token_verifier must not be null' using errcode = 'null_value_not_allowed',
      hint = 'It is SHA-256(SHA-256(secret)) of the refresh token''s 32-byte secret.';
  elsif octet_length(token_verifier) <> 32 then
    raise exception 'token_verifier must be 32 bytes, not %', octet_length(token_verifier)
      using errcode = 'invalid_parameter_value',
            hint = 'It is SHA-256(SHA-256(secret)) of the refresh token''s 32-byte secret.';
  end if;
end
$$;
comment on function auth.require_token_verifier is 'Internal. Refuses what is not a verifier.';

create function auth.require_session_wishes(device_hash bytea, idle_ttl interval, max_age interval, retry_window interval)
  returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if octet_length(device_hash) <> 32 then
    raise exception 'device_hash must be 32 bytes, not %', octet_length(device_hash)
      using errcode = 'invalid_parameter_value', hint = 'It is a SHA-256.';
  end if;
  if least(idle_ttl, max_age) <= interval '0' or retry_window < interval '0' then
    raise exception 'idle_ttl and max_age must be positive, retry_window not negative'
      using errcode = 'invalid_parameter_value', hint = 'Leave them out for the configured ones; they can only be shortened.';
  end if;
end
$$;
comment on function auth.require_session_wishes is 'Internal. Refuses what no session can be opened with.';

-- The tables' own checks, as errors that name an argument's rule.
create function auth.refuse_violation(violated text) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  raise exception 'not allowed by %', violated using errcode = 'invalid_parameter_value',
    hint = 'See the constraint: select pg_get_constraintdef(oid) from pg_constraint where conname = ''' || violated || ''';';
end
$$;
comment on function auth.refuse_violation is 'Internal. Raises 22023 for a CHECK that an argument broke.';

-- Everything or nothing: the inner block is a subtransaction, so a taken e-mail or slug leaves nothing behind, whoever
-- was faster. The order (user, then organization) is the same for all, so that two sign-ups cannot deadlock.
create function auth.sign_up(
  email text, name text, user_type text,
  password_salt bytea, password_params text, pepper_id int, password_verifier bytea, token_verifier bytea,
  organization_name text default null, organization_slug text default null,
  organization_description text default null, organization_website text default null,
  ip inet default null, user_agent text default null, device_hash bytea default null, device_name text default null,
  correlation_id text default null,
  idle_ttl interval default null, max_age interval default null, retry_window interval default null,
  is_shared boolean default false
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  new_user uuid;
  new_organization uuid;
  s auth.sessions;
  answer auth.session_outcome;
  violated text;
begin
  perform auth.require_primary();
  perform auth.require_token_verifier(token_verifier);
  if email is null or name is null or password_salt is null or password_params is null or pepper_id is null
     or password_verifier is null then
    raise exception 'email, name and the four parts of the password must not be null'
      using errcode = 'null_value_not_allowed', hint = 'The password''s parts: salt, params, pepper_id, verifier.';
  end if;
  if (organization_name is null) <> (organization_slug is null) then
    raise exception 'an organization needs both a name and a slug' using errcode = 'invalid_parameter_value',
      hint = 'Give both, or neither.';
  end if;
  if coalesce(user_type, 'INDIVIDUAL') not in ('INDIVIDUAL', 'BUSINESS') then
    raise exception 'user_type must be INDIVIDUAL or BUSINESS' using errcode = 'invalid_parameter_value',
      hint = 'An administrator is made by one, never by signing up.';
  end if;

  begin
    insert into auth.users (email, name, user_type, password_salt, password_params, pepper_id, password_verifier)
    values (email, name, coalesce(user_type, 'INDIVIDUAL'), password_salt, password_params, pepper_id, password_verifier)
    returning id into new_user;
    perform auth.record_event('user_created', 'info', true, new_user, correlation_id => correlation_id, ip => ip,
                              user_agent => user_agent);
    if organization_slug is not null then
      new_organization := (auth.found_organization(new_user, organization_slug, organization_name, organization_description,
                                                   organization_website, correlation_id)).id;
      perform auth.record_event('organization_signup_completed', 'info', true, new_user, new_organization,
                                correlation_id => correlation_id);
    end if;
    perform auth.mail_verification(new_user, email);
    s := auth.open_session(new_user, new_organization, token_verifier, array['pwd'],
                           idle_ttl, max_age, retry_window, ip, user_agent, device_hash, device_name, correlation_id,
                           is_shared);
    return auth.grant_of(s, 'signed_up');
  exception
    when unique_violation then
      get stacked diagnostics violated = constraint_name;
      answer.outcome := case violated
        when 'users_email_key' then 'email_taken'
        else auth.slug_outcome(violated) end;
      if answer.outcome is null then
        raise;
      end if;
      return answer;
    when check_violation then
      get stacked diagnostics violated = constraint_name;
      if violated = '' then
        -- A partition's bound, which is nobody's argument.
        raise;
      end if;
      perform auth.refuse_violation(violated);
  end;
end
$$;
comment on function auth.sign_up is 'Makes user, organization (where one is named), owner membership, verification mail, session and audit rows: all or none. Outcome signed_up, email_taken, slug_taken or slug_reserved. The session becomes the identity of this transaction.';

create function auth.peppers_in_use() returns setof int
  language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
  begin atomic
    -- From one distinct value to the next by the index, not through all users.
    with recursive pepper (id) as (
      (select u.pepper_id from auth.users u where u.pepper_id is not null order by u.pepper_id limit 1)
      union all
      select (select u.pepper_id from auth.users u where u.pepper_id > p.id order by u.pepper_id limit 1)
        from pepper p where p.id is not null
    )
    select p.id from pepper p where p.id is not null;
  end;
comment on function auth.peppers_in_use is 'Ids of the peppers that password verifiers still need: the service refuses to start without one of them.';

-- When the next failure locks, and for how long: ten are free, then a minute, doubling up to an hour.
create function auth.lock_duration(failures int) returns interval
  language sql immutable parallel safe
  return case when lock_duration.failures >= 10
    then least(interval '1 minute' * 2 ^ least(lock_duration.failures - 10, 10), interval '1 hour') end;
comment on function auth.lock_duration is 'Internal. How long a login is locked after so many failures; null: not at all.';

create function auth.locked_for(subject text) returns interval
  language plpgsql volatile parallel unsafe
  as $$
begin
  perform auth.require_primary();
  return (select a.locked_until - clock_timestamp() from auth.attempts a
           where a.key = auth.attempt_key(subject) and a.locked_until > clock_timestamp());
end
$$;
comment on function auth.locked_for is 'Internal. For how long a subject is locked after its failures; null: it is not.';

create function auth.login_subject(email text) returns text
  language sql immutable parallel safe
  return 'login:' || lower(login_subject.email collate "C");
comment on function auth.login_subject is 'Internal. What failed logins are counted by: the address, whether or not it has an account.';

create function auth.begin_login(
  email text, default_params text default 'm=65536,t=3,p=1', default_pepper_id int default 0,
  out password_salt bytea, out password_params text, out pepper_id int, out verifier_version int, out retry_after interval
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_primary();
  if email is null then
    raise exception 'email must not be null' using errcode = 'null_value_not_allowed',
      hint = 'An address without an account is answered like any other.';
  end if;
  select u.password_salt, u.password_params, u.pepper_id, u.verifier_version
    into password_salt, password_params, pepper_id, verifier_version
    from auth.users u
   where lower(u.email collate "C") = lower(begin_login.email collate "C") and u.password_verifier is not null;
  if not found then
    -- Steady, so that asking twice tells nothing; what new passwords are made with, so that the time is the same.
    password_salt := substr(auth.hmac_sha256(auth.instance_secret(),
                                             convert_to('salt:' || auth.login_subject(email), 'UTF8')), 1, 16);
    password_params := default_params;
    pepper_id := default_pepper_id;
    verifier_version := 1;
  end if;
  retry_after := auth.locked_for(auth.login_subject(email));
end
$$;
comment on function auth.begin_login is 'What the service needs to hash a password with. An unknown e-mail gets a steady fake of the same shape. retry_after is set while logins of this address are locked.';

create function auth.complete_login(
  email text, verifier_version int, password_proof bytea, token_verifier bytea,
  renewed_salt bytea default null, renewed_params text default null, renewed_pepper_id int default null,
  renewed_verifier bytea default null,
  idle_ttl interval default null, max_age interval default null, retry_window interval default null,
  ip inet default null, user_agent text default null, device_hash bytea default null, device_name text default null,
  correlation_id text default null, is_shared boolean default false
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  u auth.users;
  s auth.sessions;
  subject text := auth.login_subject(email);
  password_is_right boolean;
  answer auth.session_outcome;
begin
  perform auth.require_primary();
  perform auth.require_token_verifier(token_verifier);
  if email is null or verifier_version is null or password_proof is null then
    raise exception 'email, verifier_version and password_proof must not be null'
      using errcode = 'null_value_not_allowed', hint = 'begin_login tells the version and what to make the proof with.';
  end if;
  if octet_length(password_proof) <> 32 then
    raise exception 'password_proof must be 32 bytes, not %', octet_length(password_proof)
      using errcode = 'invalid_parameter_value', hint = 'It is HMAC-SHA-256(pepper, argon2id(password)).';
  end if;
  if num_nulls(renewed_salt, renewed_params, renewed_pepper_id, renewed_verifier) not in (0, 4)
     or octet_length(renewed_salt) not between 16 and 64 or char_length(renewed_params) not between 1 and 100
     or octet_length(renewed_verifier) <> 32 then
    raise exception 'a renewed password needs salt (16 to 64 bytes), params (1 to 100 letters), pepper_id and verifier (32 bytes)'
      using errcode = 'invalid_parameter_value', hint = 'Give all four, or none to keep the verifier.';
  end if;
  perform auth.require_session_wishes(device_hash, idle_ttl, max_age, retry_window);

  -- Read without a lock first: who shows a wrong password must not be able to hold up the user.
  select x.* into u from auth.users x where lower(x.email collate "C") = lower(complete_login.email collate "C");
  if u.password_verifier is not null and u.verifier_version <> complete_login.verifier_version then
    answer.outcome := 'stale';
    return answer;
  end if;
  password_is_right := coalesce(auth.equal_digests(sha256(password_proof), u.password_verifier), false);

  answer.retry_after := auth.locked_for(subject);
  if answer.retry_after is not null then
    -- The answer is the same for the right password. A wrong one is counted, but does not prolong this lock.
    if not password_is_right then
      perform auth.record_failed_login(u, subject, true, correlation_id, ip, user_agent);
    end if;
    answer.outcome := 'locked';
    return answer;
  end if;

  -- The right password: now the user's lock, and what it lets us see. A disable or a change of password either has
  -- committed, and is seen here, or waits until the session is open, and ends it.
  if password_is_right then
    select x.* into u from auth.users x where x.id = u.id for no key update;
    if u.verifier_version is distinct from complete_login.verifier_version then
      answer.outcome := 'stale';
      return answer;
    end if;
  end if;
  if not password_is_right or u.disabled_at is not null then
    perform auth.record_failed_login(u, subject, false, correlation_id, ip, user_agent);
    answer.outcome := 'refused';
    return answer;
  end if;

  delete from auth.attempts a where a.key = auth.attempt_key(subject);
  if renewed_verifier is not null then
    update auth.users x
       set password_salt = renewed_salt, password_params = renewed_params, pepper_id = renewed_pepper_id,
           password_verifier = renewed_verifier, verifier_renewed_at = clock_timestamp()
     where x.id = u.id;
  end if;
  s := auth.open_session(
    u.id,
    (select m.organization_id from auth.organization_members m where m.user_id = u.id order by m.created_at limit 1),
    token_verifier, array['pwd'], idle_ttl, max_age, retry_window, ip, user_agent, device_hash, device_name, correlation_id,
    is_shared);
  perform auth.record_event('user_logged_in', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                            correlation_id, ip, user_agent, '{"method": "password"}');
  return auth.grant_of(s, 'logged_in');
end
$$;
comment on function auth.complete_login is 'Checks the password proof under the user''s lock and opens the session, or counts the failure. Outcome logged_in, refused, locked (retry_after tells for how long) or stale (the verifier moved since begin_login: start again, once). The session becomes the identity of this transaction.';

-- Counts one failed login of an address, with or without an account (then u is null): the counter, the lock and the
-- events are the same. A lock is not prolonged by failures that come while it holds.
create function auth.record_failed_login(
  u auth.users, subject text, was_locked boolean, correlation_id text, ip inet, user_agent text,
  action text default 'user_login_failed'
) returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  failures int := auth.count_attempt(subject);
  locks_for interval := auth.lock_duration(failures);
begin
  -- While locked, only the 16th, 32nd, 64th … failure is logged, so that guessing does not fill the disk.
  if not was_locked or failures & (failures - 1) = 0 then
    -- In a session of the user's own (a step-up), it belongs to that session's story.
    perform auth.record_event(action, 'warning', false, u.id,
                              session_id => case when auth.current_user_id() = u.id then auth.current_session_id() end,
                              correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                              details => jsonb_build_object('failures', failures, 'locked', was_locked));
  end if;
  if not was_locked and locks_for is not null then
    update auth.attempts a set locked_until = clock_timestamp() + locks_for where a.key = auth.attempt_key(subject);
    perform auth.record_event('user_account_locked', 'warning', true, u.id, correlation_id => correlation_id, ip => ip,
                              user_agent => user_agent,
                              details => jsonb_build_object('failures', failures, 'locked_for', locks_for));
  end if;
  perform auth.watch_for_guessing(subject, u.id, correlation_id, ip, user_agent);
end
$$;
comment on function auth.record_failed_login is 'Internal. Counts, locks and logs a failed login, or step-up.';
