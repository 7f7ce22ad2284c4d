-- Confidential clients, and what they may ask and end: introspection (RFC 7662) and revocation (RFC 7009).
--
-- The client shows a proof, and so does the token: whoever knows a session's id, or holds the service's role, learns
-- and ends nothing by that. Asking changes nothing of the token: an old refresh token is no replay here.

create function auth.require_secret_verifier(secret_verifier bytea) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if secret_verifier is null then
    raise exception 'secret_verifier must not be null' using errcode = 'null_value_not_allowed',
      hint = 'It is SHA-256(SHA-256(secret)); auth-api clients makes it.';
  elsif octet_length(secret_verifier) <> 32 then
    raise exception 'secret_verifier must be 32 bytes, not %', octet_length(secret_verifier)
      using errcode = 'invalid_parameter_value', hint = 'It is SHA-256(SHA-256(secret)); auth-api clients makes it.';
  end if;
end
$$;
comment on function auth.require_secret_verifier is 'Internal. Refuses what is not a verifier of a client''s secret.';

create function auth.register_client(name text, secret_verifier bytea) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  new_id text := 'client_' || encode(auth.random_bytes(10), 'hex');
begin
  perform auth.require_secret_verifier(secret_verifier);
  if name is null then
    raise exception 'name must not be null' using errcode = 'null_value_not_allowed', hint = 'For example: Billing API';
  end if;
  if char_length(name) not between 1 and 200 or name ~ '[[:cntrl:]]' then
    raise exception 'name must have 1 to 200 characters, none of them control' using errcode = 'invalid_parameter_value',
      hint = 'For example: Billing API';
  end if;
  insert into auth.clients (client_id, name, secret_verifier, created_by)
  values (new_id, name, secret_verifier, auth.calling_role());
  perform auth.record_event('client_registered', 'info', true,
                            details => jsonb_build_object('client_id', new_id, 'name', name));
  return new_id;
end
$$;
comment on function auth.register_client is 'Makes a confidential client with this verifier, SHA-256(SHA-256(secret)), of a secret of 256 random bits; returns its client_id. The command auth-api clients create makes the secret and calls this. auth_admin.';

create function auth.list_clients()
  returns table (client_id text, name text, created_at timestamptz, created_by text, secret_changed_at timestamptz,
                 disabled_at timestamptz, last_used_at timestamptz)
  language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
  begin atomic
    select c.client_id, c.name, c.created_at, c.created_by, c.secret_changed_at, c.disabled_at, c.last_used_at
      from auth.clients c order by c.created_at, c.client_id;
  end;
comment on function auth.list_clients is 'All confidential clients, the oldest first. last_used_at is to the minute. auth_admin.';

create function auth.rotate_client_secret(client_id text, secret_verifier bytea) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_secret_verifier(secret_verifier);
  if client_id is null then
    raise exception 'client_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select * from auth.list_clients();';
  end if;
  update auth.clients c
     set secret_verifier = rotate_client_secret.secret_verifier, secret_changed_at = clock_timestamp()
   where c.client_id = rotate_client_secret.client_id and c.disabled_at is null;
  if not found then
    return false;
  end if;
  perform auth.record_event('client_secret_rotated', 'info', true,
                            details => jsonb_build_object('client_id', client_id));
  return true;
end
$$;
comment on function auth.rotate_client_secret is 'Replaces a client''s secret: the old one is refused from the commit on. False, and nothing changes, for a client that does not exist or is disabled. auth_admin.';

create function auth.disable_client(client_id text) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if client_id is null then
    raise exception 'client_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select * from auth.list_clients();';
  end if;
  update auth.clients c set disabled_at = clock_timestamp()
   where c.client_id = disable_client.client_id and c.disabled_at is null;
  if not found then
    return false;
  end if;
  perform auth.record_event('client_disabled', 'warning', true, details => jsonb_build_object('client_id', client_id));
  return true;
end
$$;
comment on function auth.disable_client is 'Ends a client for good; true when this call did. It is refused from the commit on, like one that does not exist. auth_admin.';

-- The right secret is never refused for somebody else's guesses: only wrong ones are counted, and limited by network.
create function auth.authenticate_client(
  client_id text, client_proof bytea, ip inet, user_agent text, correlation_id text,
  out refusal text, out retry_after interval
)
  language plpgsql volatile parallel unsafe
  as $$
declare
  c auth.clients;
  network text := coalesce(auth.network_of(ip)::text, 'unknown');
  allowed boolean;
begin
  if client_id is null or client_proof is null then
    raise exception 'client_id and client_proof must not be null' using errcode = 'null_value_not_allowed',
      hint = 'client_proof is SHA-256(secret).';
  end if;
  if octet_length(client_proof) <> 32 then
    raise exception 'client_proof must be 32 bytes, not %', octet_length(client_proof)
      using errcode = 'invalid_parameter_value', hint = 'client_proof is SHA-256(secret).';
  end if;
  select x.* into c from auth.clients x where x.client_id = authenticate_client.client_id;
  -- A client that does not exist costs the same comparison, with something that is no digest.
  if auth.equal_digests(sha256(client_proof), coalesce(c.secret_verifier, decode(repeat('00', 32), 'hex')))
     and c.client_id is not null and c.disabled_at is null then
    return;
  end if;
  -- An unknown id is anybody's text: it is counted by network, and never stored.
  perform auth.record_refusal(
    auth.count_attempt('client_authentication:' || coalesce(c.client_id, network)), 'client_authentication_failed', 'warning',
    null, null, null, null, correlation_id, ip, user_agent,
    jsonb_strip_nulls(jsonb_build_object('client_id', c.client_id,
                                         'disabled', case when c.disabled_at is not null then true end)));
  select l.allowed, l.retry_after into allowed, retry_after
    from auth.take_rate_limit('client_authentication', network, 60, '1 minute', ip, user_agent, correlation_id) l;
  refusal := case when allowed then 'invalid_client' else 'rate_limited' end;
end
$$;
comment on function auth.authenticate_client is 'Internal. refusal is null when the proof is the client''s and the client is not disabled; otherwise invalid_client, or rate_limited (retry_after) when there were more than 60 wrong ones a minute from this network. Wrong ones are logged at the 1st, 2nd, 4th … time.';

-- To the minute, so that asking seldom writes; and never waited for: another call is writing the same just now.
create function auth.touch_client(client_id text) returns void
  language plpgsql volatile parallel unsafe
  as $$
begin
  update auth.clients c set last_used_at = clock_timestamp()
   where c.client_id = (
     select x.client_id from auth.clients x
      where x.client_id = touch_client.client_id
        and (x.last_used_at is null or x.last_used_at < clock_timestamp() - interval '1 minute')
        for no key update skip locked);
end
$$;
comment on function auth.touch_client is 'Internal. Keeps last_used_at, to the minute.';

-- Session and jti of an access token; session, generation, ticket and proof of a refresh token; lookup id and proof of
-- a personal access token; or nothing. A part missing or of the wrong length is somebody's mistake, not a token.
create function auth.require_token_parts(
  session_id uuid, jti uuid, generation int, ticket bytea, token_proof bytea, lookup_id bytea
) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if (case
       when lookup_id is not null then
         num_nonnulls(session_id, jti, generation, ticket) = 0
         and octet_length(lookup_id) = 16 and octet_length(token_proof) is not distinct from 32
       when jti is not null then session_id is not null and num_nonnulls(generation, ticket, token_proof) = 0
       when session_id is not null then
         num_nulls(generation, ticket, token_proof) = 0
         and generation >= 0 and octet_length(ticket) = 16 and octet_length(token_proof) = 32
       else num_nonnulls(generation, ticket, token_proof) = 0
     end) is not true
  then
    raise exception 'these parts make no token' using errcode = 'invalid_parameter_value',
      hint = 'An access token: session_id and jti. A refresh token: session_id, generation, ticket (16 bytes) and token_proof (32 bytes). A personal access token: lookup_id (16 bytes) and token_proof. None of them: nothing at all.';
  end if;
end
$$;
comment on function auth.require_token_parts is 'Internal. Refuses arguments that are no token''s.';

create function auth.introspect_token(
  client_id text, client_proof bytea,
  session_id uuid default null, jti uuid default null,
  generation int default null, ticket bytea default null, token_proof bytea default null,
  lookup_id bytea default null,
  ip inet default null, user_agent text default null, correlation_id text default null
) returns table (
  outcome text, token_use text, id uuid, sid uuid, user_id uuid, email text, organization_id uuid, roles text[],
  scopes text[], auth_time timestamptz, amr text[], issued_at timestamptz, expires_at timestamptz, retry_after interval)
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
#variable_conflict use_column
declare
  clock timestamptz;
  presented_verifier bytea := sha256(introspect_token.token_proof);
  s auth.sessions;
  t auth.personal_access_tokens;
  owner_id uuid;
  acts_for uuid;
  recovery record;
begin
  select a.refusal, a.retry_after into outcome, retry_after
    from auth.authenticate_client(introspect_token.client_id, client_proof, ip, user_agent, correlation_id) a;
  if outcome is not null then
    return next;
    return;
  end if;
  perform auth.require_token_parts(introspect_token.session_id, introspect_token.jti, introspect_token.generation,
                                   introspect_token.ticket, introspect_token.token_proof, introspect_token.lookup_id);
  perform auth.touch_client(introspect_token.client_id);

  clock := clock_timestamp();
  if introspect_token.lookup_id is not null then
    -- As auth.assume_personal_access_token judges it.
    select x.* into t from auth.personal_access_tokens x
     where x.lookup_id = introspect_token.lookup_id and auth.equal_digests(presented_verifier, x.token_verifier)
       and x.revoked_at is null and x.expires_at > clock;
    if found then
      token_use := 'personal_access_token';
      owner_id := t.user_id;
      acts_for := t.organization_id;
    end if;
  else
    select x.* into s from auth.sessions x
     where x.id = introspect_token.session_id
       and x.revoked_at is null and x.idle_expires_at > clock and x.expires_at > clock;
    owner_id := s.user_id;
    acts_for := s.organization_id;
    if introspect_token.jti is not null then
      -- As auth.assume_session judges it.
      select 'access_token', proof.issued_at into token_use, issued_at
        from auth.read_jti(s.lineage_key, introspect_token.jti) proof
       where proof.issued_at > clock - auth.setting('access_token_ttl')::interval;
    elsif s.id is not null then
      -- As a refresh would decide; but nothing is locked, nothing is changed, a replay is only inactive, and neither the
      -- device of who asks matters, nor how often the session was refreshed, nor whether tabs share its token.
      recovery := auth.recovery_of(s, clock);
      select 'refresh_token' into token_use from auth.decide_rotation(
        s.generation, s.token_verifier, s.previous_token_verifier, false, s.idle_expires_at, s.expires_at, s.rotated_at,
        recovery.retry_window,
        introspect_token.generation, presented_verifier,
        auth.equal_digests(introspect_token.ticket,
                           auth.make_ticket(s.lineage_key, introspect_token.generation, presented_verifier)),
        clock, recovery.max_gap, false, false, s.refreshes_full_at, 0, interval '1 second') d
       where d.decision in ('rotate', 'retry', 'fast_forward');
      -- When the one before the current one was made is not kept.
      issued_at := case when introspect_token.generation = s.generation then coalesce(s.rotated_at, s.created_at) end;
    end if;
  end if;

  outcome := 'inactive';
  if token_use is not null then
    select 'active', u.id, u.email, m.organization_id, case when m.role is null then '{}' else array[m.role] end
      into outcome, user_id, email, organization_id, roles
      from auth.users u
      left join auth.organization_members m on m.organization_id = acts_for and m.user_id = u.id
     where u.id = owner_id and u.disabled_at is null;
  end if;
  case
    when outcome is distinct from 'active' then
      outcome := 'inactive';
      token_use := null;
      issued_at := null;
    when t.id is not null then
      id := t.id;
      scopes := t.scopes;
      issued_at := t.created_at;
      expires_at := t.expires_at;
      -- Whoever asks is shown the token just now: its owner wants to know.
      update auth.personal_access_tokens x set last_used_at = clock
       where x.id = (select y.id from auth.personal_access_tokens y
                      where y.id = t.id and (y.last_used_at is null or y.last_used_at < clock - interval '1 minute')
                        for no key update skip locked);
    else
      id := introspect_token.jti;
      sid := s.id;
      scopes := array['*'];
      auth_time := s.auth_time;
      amr := s.amr;
      expires_at := least(s.idle_expires_at, s.expires_at,
                          case when introspect_token.jti is not null
                            then issued_at + auth.setting('access_token_ttl')::interval end);
  end case;
  return next;
end
$$;
comment on function auth.introspect_token is 'RFC 7662, for a client that proves itself: outcome invalid_client, rate_limited (after too many wrong secrets of this network; the right one always passes), inactive, or active with what the token stands for now. An access token is proved by its jti, a refresh token by its ticket and proof (active only while a refresh with it would be granted), a personal access token by its proof. Changes nothing of a session: an old refresh token is inactive here, and no replay.';

create function auth.revoke_token(
  client_id text, client_proof bytea,
  session_id uuid default null, jti uuid default null,
  generation int default null, ticket bytea default null, token_proof bytea default null,
  lookup_id bytea default null,
  ip inet default null, user_agent text default null, correlation_id text default null
) returns table (outcome text, ended boolean, retry_after interval)
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
declare
  s auth.sessions;
  t auth.personal_access_tokens;
  presented_verifier bytea := sha256(token_proof);
  by_client jsonb := jsonb_build_object('client_id', client_id);
  is_genuine boolean;
begin
  ended := false;
  select a.refusal, a.retry_after into outcome, retry_after
    from auth.authenticate_client(revoke_token.client_id, client_proof, ip, user_agent, correlation_id) a;
  if outcome is not null then
    return next;
    return;
  end if;
  perform auth.require_token_parts(session_id, jti, generation, ticket, token_proof, lookup_id);
  outcome := 'done';
  if lookup_id is not null then
    select x.* into t from auth.personal_access_tokens x
     where x.lookup_id = revoke_token.lookup_id and auth.equal_digests(presented_verifier, x.token_verifier);
    if found then
      ended := auth.end_personal_access_tokens(t.user_id, 'token_revoked', only_id => t.id, correlation_id => correlation_id,
                                               more_details => by_client) = 1;
    end if;
  else
    -- The key of a session never changes, so the proof needs no lock.
    select x.* into s from auth.sessions x where x.id = revoke_token.session_id;
    is_genuine := case
      when s.id is null then false
      when jti is not null then exists (
        select from auth.read_jti(s.lineage_key, revoke_token.jti) proof
         where proof.issued_at > clock_timestamp() - auth.setting('access_token_ttl')::interval)
      else auth.equal_digests(revoke_token.ticket,
                              auth.make_ticket(s.lineage_key, revoke_token.generation, presented_verifier))
    end;
    if is_genuine then
      ended := auth.revoke_live_sessions(
        s.user_id, of_session => s.id,
        action => case when jti is null then 'refresh_token_revoked' else 'session_revoked' end,
        reason => 'token_revoked', correlation_id => correlation_id, ip => ip, user_agent => user_agent,
        more_details => by_client) = 1;
    end if;
  end if;
  -- Last: the user's and the session's locks come first.
  perform auth.touch_client(revoke_token.client_id);
  return next;
end
$$;
comment on function auth.revoke_token is 'RFC 7009, for a client that proves itself and a token that does: ends the session of a refresh token (of any age: its ticket proves that it was ours) or of an access token; or a personal access token. Outcome invalid_client, rate_limited, or done; ended tells whether this call ended something.';
