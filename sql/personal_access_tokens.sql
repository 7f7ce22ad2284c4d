-- Personal access tokens. A session makes them, a recent authentication permits it, and a token never makes or sees one.

create function auth.create_personal_access_token(
  name text, scopes text[], lifetime interval, lookup_id bytea, token_verifier bytea,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out id uuid, out created_at timestamptz, out expires_at timestamptz
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  most constant int := 50;
begin
  if num_nulls(name, scopes, lifetime, lookup_id, token_verifier) > 0 then
    raise exception 'name, scopes, lifetime, lookup_id and token_verifier must not be null'
      using errcode = 'null_value_not_allowed', hint = 'Both last ones are made by who makes the token: see the comments of auth.personal_access_tokens.';
  end if;
  if octet_length(lookup_id) <> 16 or octet_length(token_verifier) <> 32 then
    raise exception 'lookup_id must be 16 bytes, token_verifier 32 bytes'
      using errcode = 'invalid_parameter_value', hint = 'token_verifier is SHA-256(SHA-256(secret)).';
  end if;
  if char_length(name) not between 1 and 100 or name ~ '[[:cntrl:]]' then
    raise exception 'name must have 1 to 100 characters, none of them control'
      using errcode = 'invalid_parameter_value', hint = 'It tells the user which program has the token.';
  end if;
  if cardinality(scopes) not between 1 and 50 or array_position(scopes, null) is not null
     or exists (select from unnest(scopes) s (scope) where s.scope !~ '^[a-z][a-z0-9_.:-]{0,63}$') then
    raise exception 'scopes must be 1 to 50 words of a-z, 0-9 and _ . : -' using errcode = 'invalid_parameter_value',
      hint = 'For example: {sessions:read,orders:write}. There is no scope for everything: that is what a session is.';
  end if;
  if lifetime not between interval '1 minute' and interval '366 days' then
    raise exception 'lifetime must be between a minute and 366 days' using errcode = 'invalid_parameter_value',
      hint = 'A token without an end is one that nobody takes away.';
  end if;

  -- The user's lock: a disable or a change of password has either committed, and is seen here, or comes after, and ends
  -- this token too.
  perform from auth.users u where u.id = caller for no key update;
  if not auth.recently_authenticated() then
    outcome := 'step_up_required';
  elsif not exists (select from auth.users u where u.id = caller and u.email_verified_at is not null and u.disabled_at is null) then
    outcome := 'email_not_verified';
  elsif (select count(*) from auth.personal_access_tokens t
          where t.user_id = caller and t.revoked_at is null and t.expires_at > clock_timestamp()) >= most then
    outcome := 'too_many';
  else
    insert into auth.personal_access_tokens as t (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
    values (caller, auth.current_organization_id(), create_personal_access_token.name, create_personal_access_token.lookup_id,
            create_personal_access_token.token_verifier, array(select distinct unnest(create_personal_access_token.scopes) order by 1),
            clock_timestamp() + lifetime)
    returning t.id, t.created_at, t.expires_at into id, created_at, expires_at;
    perform auth.record_event('personal_access_token_created', 'info', true, caller, auth.current_organization_id(),
                              auth.current_session_id(), correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                              details => jsonb_build_object('token_id', id, 'name', name, 'scopes', to_jsonb(scopes),
                                                            'expires_at', expires_at));
    outcome := 'created';
  end if;
end
$$;
comment on function auth.create_personal_access_token is 'Makes a token for the proved session''s user and active organization. Outcome created, step_up_required, email_not_verified or too_many (50 live ones).';

-- The one place where tokens are ended. The caller has checked every right.
create function auth.end_personal_access_tokens(
  of_user uuid, reason text, only_id uuid default null, of_organization uuid default null, correlation_id text default null,
  more_details jsonb default '{}'
) returns int
  language plpgsql volatile parallel unsafe
  as $$
declare
  ended uuid[];
begin
  with live as (
    update auth.personal_access_tokens t
       set revoked_at = clock_timestamp(), revoked_reason = left(reason, 200)
     where t.user_id = of_user and t.revoked_at is null and t.expires_at > clock_timestamp()
       and (only_id is null or t.id = only_id)
       and (of_organization is null or t.organization_id = of_organization)
    returning t.id)
  select array_agg(live.id) into ended from live;
  if ended is not null then
    perform auth.record_event('personal_access_token_revoked', 'info', true, of_user, of_organization,
                              correlation_id => correlation_id,
                              details => more_details || jsonb_build_object('reason', left(reason, 200),
                                                                            'token_ids', to_jsonb(ended)));
    perform pg_notify('auth_events', json_build_object('action', 'personal_access_token_revoked', 'user_id', of_user,
                                                       'tokens', cardinality(ended))::text);
  end if;
  return coalesce(cardinality(ended), 0);
end
$$;
comment on function auth.end_personal_access_tokens is 'Internal. Ends a user''s live tokens that match; returns how many.';

create function auth.revoke_personal_access_token(token_id uuid, correlation_id text default null) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if token_id is null then
    raise exception 'token_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.personal_access_tokens for the tokens.';
  end if;
  return auth.end_personal_access_tokens(auth.require_identity(), 'token_revoked', only_id => token_id,
                                         correlation_id => correlation_id) = 1;
end
$$;
comment on function auth.revoke_personal_access_token is 'Ends one token of the proved session''s user. False for one that is over, of somebody else, or does not exist.';

create function auth.assume_personal_access_token(
  lookup_id bytea, token_proof bytea, ip inet default null, user_agent text default null, correlation_id text default null
) returns table (token_id uuid, user_id uuid, organization_id uuid, scopes text[], created_at timestamptz, expires_at timestamptz)
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
declare
  clock timestamptz := clock_timestamp();
  last_used timestamptz;
begin
  if octet_length(lookup_id) is distinct from 16 or octet_length(token_proof) is distinct from 32 then
    raise exception 'lookup_id must be 16 bytes, token_proof 32 bytes' using errcode = 'invalid_parameter_value',
      hint = 'token_proof is the SHA-256 of the token''s secret.';
  end if;
  select t.id, t.user_id, t.organization_id, t.scopes, t.created_at, t.expires_at, t.last_used_at
    into token_id, user_id, organization_id, scopes, created_at, expires_at, last_used
    from auth.personal_access_tokens t join auth.users u on u.id = t.user_id
   where t.lookup_id = assume_personal_access_token.lookup_id
     and auth.equal_digests(sha256(token_proof), t.token_verifier)
     and t.revoked_at is null and t.expires_at > clock and u.disabled_at is null;
  if not found then
    return;
  end if;
  perform auth.set_identity(user_id, organization_id, null, scopes);
  -- To the minute, and never waiting: a program that asks a hundred times a second must not queue behind itself.
  -- A standby lets it in as well, and records nothing.
  if (last_used is null or last_used < clock - interval '1 minute') and not pg_is_in_recovery() then
    update auth.personal_access_tokens t set last_used_at = clock
     where t.id = (select x.id from auth.personal_access_tokens x
                    where x.id = token_id and x.last_used_at is not distinct from last_used
                      for no key update skip locked);
    -- Once a day, by whoever wrote the first use of it.
    if found and (last_used is null or last_used < clock - interval '1 day') then
      perform auth.record_event('personal_access_token_used', 'info', true, user_id, organization_id,
                                correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                                details => jsonb_build_object('token_id', token_id));
    end if;
  end if;
  return next;
end
$$;
comment on function auth.assume_personal_access_token is 'Makes the token''s user, limited to its scopes, the identity of this transaction when the token is genuine and live: one row; otherwise none. Ends with the transaction.';
