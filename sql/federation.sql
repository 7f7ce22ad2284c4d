-- Logging in through an OpenID provider. The database cannot verify the provider's signature, so these functions take the
-- service's word for who it is: hence a role of their own (auth_federation), which can do nothing else, and each ID token
-- only once. Whom that makes of it (link, create, refuse) is decided here.

create function auth.require_id_token(provider text, subject text, id_token_digest bytea, id_token_expires_at timestamptz)
  returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if provider is null or subject is null or id_token_digest is null or id_token_expires_at is null then
    raise exception 'provider, subject, id_token_digest and id_token_expires_at must not be null'
      using errcode = 'null_value_not_allowed',
            hint = 'They are iss, sub, the SHA-256 of what was signed, and exp of an ID token that was verified.';
  end if;
  if octet_length(provider) not between 1 and 500 or octet_length(subject) not between 1 and 255
     or provider ~ '[[:cntrl:]]' or subject ~ '[[:cntrl:]]' then
    raise exception 'provider must have 1 to 500 bytes, subject 1 to 255, without control characters'
      using errcode = 'invalid_parameter_value', hint = 'They are iss and sub of an ID token.';
  end if;
  if octet_length(id_token_digest) <> 32 then
    raise exception 'id_token_digest must be 32 bytes, not %', octet_length(id_token_digest)
      using errcode = 'invalid_parameter_value', hint = 'It is the SHA-256 of what the provider signed: header and payload.';
  end if;
end
$$;
comment on function auth.require_id_token is 'Internal. Refuses arguments that no ID token can have.';

-- Taken before the user's lock, against the usual order, and deadlocks with nobody: whoever waits here, for the same
-- token, holds nothing yet. A token that is then refused stays used: a refusal cannot be asked for again and again.
create function auth.use_id_token(
  provider text, id_token_digest bytea, id_token_expires_at timestamptz, correlation_id text, ip inet, user_agent text,
  action text default 'user_login_failed'
) returns text
  language plpgsql volatile parallel unsafe
  as $$
declare
  times int;
begin
  -- The service allows for clocks that differ; so does this. Too far in the future, and the row would stay for ever.
  if id_token_expires_at not between clock_timestamp() - interval '10 minutes' and clock_timestamp() + interval '7 days' then
    return 'expired';
  end if;
  insert into auth.accepted_id_tokens (digest, expires_at) values (id_token_digest, id_token_expires_at)
  on conflict do nothing;
  if found then
    return null;
  end if;
  times := auth.count_attempt('id_token:' || encode(id_token_digest, 'hex'));
  if times & (times - 1) = 0 then
    perform auth.record_event(action, 'warning', false, auth.current_user_id(), session_id => auth.current_session_id(),
                              correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                              details => jsonb_build_object('method', 'federated', 'provider', provider,
                                                            'reason', 'already_used', 'times', times));
  end if;
  return 'already_used';
end
$$;
comment on function auth.use_id_token is 'Internal. Takes an ID token, once: null, or why it is refused (expired, already_used). Uses after the first are logged at the 1st, 2nd, 4th, 8th … time.';

create function auth.forget_id_tokens(batch_size int) returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  forgotten bigint;
begin
  -- Later than use_id_token would still take one of them for valid.
  delete from auth.accepted_id_tokens t
   where t.digest = any (array(
     select x.digest from auth.accepted_id_tokens x
      where x.expires_at < clock_timestamp() - interval '1 hour'
      order by x.expires_at limit batch_size for update skip locked));
  get diagnostics forgotten = row_count;
  return forgotten;
end
$$;
comment on function auth.forget_id_tokens is 'Internal. A part of the cleaning: deletes ID tokens that nobody would accept any more; returns how many.';

-- The account of a provider's user, locked; found, linked or made. Two first logins at once: one of them inserts, the other
-- waits for its commit at a unique index, is refused there, looks again, and finds what the first one made.
create function auth.federated_account(
  provider text, subject text, email text, email_verified boolean, name text,
  correlation_id text, ip inet, user_agent text, out account auth.users, out refusal text
)
  language plpgsql volatile parallel unsafe
  as $$
begin
  for attempt in 1 .. 10 loop
    select u.* into account
      from auth.users u
     where u.id = (select i.user_id from auth.identities i
                    where i.provider = federated_account.provider and i.subject = federated_account.subject)
       for no key update;
    if found then
      -- Still so, now that the user's row is ours? It may have been unlinked, or the user deleted, while this waited.
      update auth.identities i set last_used_at = clock_timestamp()
       where i.provider = federated_account.provider and i.subject = federated_account.subject and i.user_id = account.id;
      continue when not found;
      refusal := case when account.disabled_at is not null then 'disabled' end;
      return;
    end if;

    -- A stranger is known by nothing but the address, so the provider must have seen that it is theirs.
    if email is null or email_verified is not true then
      refusal := 'email_not_verified';
      return;
    end if;
    -- If this waits, the condition is checked again on the row as it then is.
    select u.* into account from auth.users u
     where lower(u.email collate "C") = lower(federated_account.email collate "C") for no key update;
    if found then
      -- Linked by the other first login, while this one waited for the user's lock?
      continue when exists (select from auth.identities i where i.provider = federated_account.provider
                                                            and i.subject = federated_account.subject);
      refusal := case
        when account.disabled_at is not null then 'disabled'
        -- Whoever signed up with this address never showed that it is theirs: they may be waiting for its owner to fill
        -- the account (pre-hijacking). The owner can take it over by a password reset, which goes to the address.
        when account.email_verified_at is null
        -- The address was somebody else's at this provider before.
          or exists (select from auth.identities i where i.user_id = account.id
                                                     and i.provider = federated_account.provider)
        then 'email_not_linkable' end;
      if refusal is not null then
        return;
      end if;
    end if;

    begin
      if account.id is null then
        -- No password: users_password_check allows none of it. A password reset can set one.
        insert into auth.users as u (email, name, email_verified_at) values (email, name, clock_timestamp())
        returning u.* into account;
        perform auth.record_event('user_created', 'info', true, account.id, correlation_id => correlation_id, ip => ip,
                                  user_agent => user_agent, details => jsonb_build_object('provider', provider));
      end if;
      insert into auth.identities (provider, subject, user_id, email) values (provider, subject, account.id, email);
      perform auth.record_event('identity_linked', 'info', true, account.id, correlation_id => correlation_id, ip => ip,
                                user_agent => user_agent, details => jsonb_build_object('provider', provider));
      return;
    exception when unique_violation then
      -- Somebody was faster, with the address or with the identity; nothing of this attempt is left.
      account := null;
    end;
  end loop;
  raise exception 'the account kept changing while somebody logged in to it' using errcode = 'serialization_failure',
    hint = 'Try again.';
end
$$;
comment on function auth.federated_account is 'Internal. The account of a provider''s user, locked: the one that is linked, or linked now by its verified address, or made now; or why there is none (disabled, email_not_verified, email_not_linkable).';

create function auth.open_federated_session(
  provider text, subject text, email text, email_verified boolean, name text,
  id_token_digest bytea, id_token_expires_at timestamptz, token_verifier bytea,
  authenticated_at timestamptz default null,
  idle_ttl interval default null, max_age interval default null, retry_window interval default null,
  ip inet default null, user_agent text default null, device_hash bytea default null, device_name text default null,
  correlation_id text default null, is_shared boolean default false
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  person record;
  s auth.sessions;
  answer auth.session_outcome;
begin
  perform auth.require_token_verifier(token_verifier);
  perform auth.require_id_token(provider, subject, id_token_digest, id_token_expires_at);
  if email_verified is null or name is null then
    raise exception 'email_verified and name must not be null' using errcode = 'null_value_not_allowed',
      hint = 'What the provider does not say of an e-mail is false; a name can be made of it.';
  end if;
  if email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' or octet_length(email) > 254
     or char_length(name) not between 1 and 200 or name ~ '[[:cntrl:]]' then
    raise exception 'email must be an address of at most 254 bytes, name have 1 to 200 characters, none of them control'
      using errcode = 'invalid_parameter_value', hint = 'Cut and clean what the provider says.';
  end if;
  perform auth.require_session_wishes(device_hash, idle_ttl, max_age, retry_window);

  answer.outcome := auth.use_id_token(provider, id_token_digest, id_token_expires_at, correlation_id, ip, user_agent);
  if answer.outcome is not null then
    return answer;
  end if;
  -- A lock-out is not asked about: it stops guessing at a password, and there is none here.
  person := auth.federated_account(provider, subject, email, email_verified, name, correlation_id, ip, user_agent);
  if person.refusal is not null then
    perform auth.record_event('user_login_failed', 'warning', false, (person.account).id, correlation_id => correlation_id,
                              ip => ip, user_agent => user_agent, details => jsonb_build_object(
                                'method', 'federated', 'provider', provider, 'reason', person.refusal));
    answer.outcome := person.refusal;
    return answer;
  end if;
  -- RFC 8176 has no word for "another party says so", and how that party found out we cannot vouch for, whatever amr its
  -- token has: "fed" is the word that identity providers use for it.
  s := auth.open_session(
    (person.account).id,
    (select m.organization_id from auth.organization_members m
      where m.user_id = (person.account).id order by m.created_at limit 1),
    token_verifier, array['fed'], idle_ttl, max_age, retry_window, ip, user_agent, device_hash, device_name, correlation_id,
    is_shared);
  -- The provider may have asked for a password days ago: then this login is no fresh proof for a sensitive action.
  if authenticated_at < s.auth_time then
    update auth.sessions x set auth_time = authenticated_at where x.id = s.id returning x.* into s;
  end if;
  perform auth.record_event('user_logged_in', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                            correlation_id, ip, user_agent, jsonb_build_object('method', 'federated', 'provider', provider));
  return auth.grant_of(s, 'logged_in');
end
$$;
comment on function auth.open_federated_session is 'Opens a session for whom an OpenID provider vouches for; the caller has verified the ID token. A known (provider, subject) logs in its user; an unknown one is linked to the account with the same address when both the provider and this database have verified it, or gets a new account. Outcome logged_in, disabled, email_not_verified, email_not_linkable (an account has the address, and it was never verified there, or it is another person''s at this provider), already_used or expired (the ID token). authenticated_at: the token''s auth_time. For auth_federation.';

create function auth.step_up_federated(
  session_id uuid, jti uuid, provider text, subject text, id_token_digest bytea, id_token_expires_at timestamptz,
  authenticated_at timestamptz, ip inet default null, user_agent text default null, correlation_id text default null
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  session auth.sessions;
  reason text;
  answer auth.session_outcome;
begin
  if session_id is null or jti is null or authenticated_at is null then
    raise exception 'session_id, jti and authenticated_at must not be null' using errcode = 'null_value_not_allowed',
      hint = 'The first two are in the access token, the third is auth_time or iat of the ID token.';
  end if;
  perform auth.require_id_token(provider, subject, id_token_digest, id_token_expires_at);
  -- Here the service's word is not enough: the session is proved, and its user must have this identity already.
  perform from auth.assume_session(step_up_federated.session_id, step_up_federated.jti);
  if not found then
    answer.outcome := 'ended';
    return answer;
  end if;
  answer.outcome := auth.use_id_token(provider, id_token_digest, id_token_expires_at, correlation_id, ip, user_agent,
                                      action => 'step_up_failed');
  if answer.outcome is not null then
    return answer;
  end if;
  -- The user, then the session: whoever disables the one or ends the other comes before, and is seen, or after.
  perform from auth.users u where u.id = auth.current_user_id() for no key update;
  select s.* into session from auth.sessions s where s.id = step_up_federated.session_id;
  update auth.identities i set last_used_at = clock_timestamp()
   where i.provider = step_up_federated.provider and i.subject = step_up_federated.subject
     and i.user_id = auth.current_user_id();
  reason := case
    when not found then 'another_identity'
    when authenticated_at <= clock_timestamp() - auth.step_up_max_age() then 'not_recent' end;
  if reason is not null then
    perform auth.record_event('step_up_failed', 'warning', false, session.user_id, session.organization_id, session.id,
                              session.family_id, correlation_id, ip, user_agent, jsonb_build_object(
                                'method', 'federated', 'provider', provider, 'reason', reason));
    answer.outcome := case reason when 'not_recent' then 'not_recent' else 'refused' end;
    return answer;
  end if;
  answer := auth.renew_auth_time('fed', ip, user_agent, correlation_id);
  if answer.outcome = 'stepped_up' then
    -- As fresh as the provider's own authentication, and no fresher; nor older than what the session had.
    answer.auth_time := greatest(session.auth_time, least(authenticated_at, answer.auth_time));
    update auth.sessions s set auth_time = answer.auth_time where s.id = session.id;
  end if;
  return answer;
end
$$;
comment on function auth.step_up_federated is 'Steps a proved session up by an ID token that the caller has verified, of an identity that is linked to its user: for accounts without a password. Outcome stepped_up, refused (another''s identity), not_recent (the provider''s own authentication is older than auth_sessions.step_up_max_age), already_used or expired (the ID token), or ended (the session is over, or not proved). For auth_federation.';
