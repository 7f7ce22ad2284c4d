-- After another system was taken over (sql/adopt/): its refresh tokens, which people still hold, are good for one exchange
-- each. An adopted session begins at generation 0 with the verifier of its old token, so that what is presented here is
-- decided by the same code as any other token: current, a retry, or a replay of its family.

-- An old token carries neither its session nor a ticket. Both are found by its verifier; the ticket says no more than that
-- the token is one of that session's, of before its first rotation.
create function auth.find_adopted_token(token_proof bytea, out session_id uuid, out ticket bytea)
  language plpgsql stable parallel restricted
  as $$
declare
  presented_verifier bytea := sha256(token_proof);
begin
  if token_proof is null then
    raise exception 'token_proof must not be null' using errcode = 'null_value_not_allowed',
      hint = 'It is the hash of the token that the old system kept.';
  end if;
  if octet_length(token_proof) <> 32 then
    raise exception 'token_proof must be 32 bytes, not %', octet_length(token_proof)
      using errcode = 'invalid_parameter_value', hint = 'It is the hash of the token that the old system kept: SHA-256 or HMAC-SHA-256.';
  end if;
  select s.id, auth.make_ticket(s.lineage_key, 0, presented_verifier) into session_id, ticket
    from auth.adopted_tokens a join auth.sessions s on s.id = a.session_id
   where a.token_verifier = presented_verifier;
end
$$;
comment on function auth.find_adopted_token is 'Internal. The session of an adopted token, and the ticket that proves it to be one of that session''s; nulls when there is none.';

create function auth.exchange_adopted_token(
  token_proof bytea, next_token_verifier bytea, rotation_nonce bytea,
  ip inet default null, user_agent text default null, device_hash bytea default null, correlation_id text default null,
  is_shared boolean default false, received_at timestamptz default null
) returns setof auth.session_outcome
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
declare
  found_session_id uuid;
  found_ticket bytea;
  answer auth.session_outcome;
begin
  -- A standby that is behind does not know every token: "unknown" would log its holder out.
  perform auth.require_primary();
  select f.session_id, f.ticket into found_session_id, found_ticket
    from auth.find_adopted_token(exchange_adopted_token.token_proof) f;
  if found_session_id is null then
    answer.outcome := 'unknown';
    return next answer;
    return;
  end if;
  select r.* into answer
    from auth.rotate_session_token(
           session_id => found_session_id, generation => 0, ticket => found_ticket,
           token_proof => exchange_adopted_token.token_proof,
           next_token_verifier => exchange_adopted_token.next_token_verifier,
           rotation_nonce => exchange_adopted_token.rotation_nonce, ip => exchange_adopted_token.ip,
           user_agent => exchange_adopted_token.user_agent, device_hash => exchange_adopted_token.device_hash,
           correlation_id => exchange_adopted_token.correlation_id,
           received_at => exchange_adopted_token.received_at) r;
  -- From now on as after a login into cookies. This transaction holds the row.
  if answer.outcome = 'rotated' and exchange_adopted_token.is_shared then
    update auth.sessions s set is_shared = true where s.id = found_session_id and not s.is_shared;
  end if;
  return next answer;
end
$$;
comment on function auth.exchange_adopted_token is 'Exchanges a refresh token of the system that was taken over for the first token of its session here. token_proof is the hash that the old system kept. One row, whose outcome is one of rotate_session_token''s: rotated (generation 1), retried (the same successor again), replayed (a token that had been consumed there, or was exchanged here too long ago: the family is now revoked), overtaken (shown before the session moved on, which received_at tells by the clock of this database: nothing changed), revoked, expired, unknown, limited or device_mismatch. is_shared: several tabs share the new token, as they do a cookie. Never raises for an outcome: commit, then answer.';

create function auth.end_adopted_session(token_proof bytea, correlation_id text default null) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  found_session_id uuid;
  found_ticket bytea;
begin
  select f.session_id, f.ticket into found_session_id, found_ticket
    from auth.find_adopted_token(end_adopted_session.token_proof) f;
  if found_session_id is null then
    return false;
  end if;
  return auth.end_session(found_session_id, 0, found_ticket, end_adopted_session.token_proof,
                          end_adopted_session.correlation_id);
end
$$;
comment on function auth.end_adopted_session is 'Logs out by a refresh token of the system that was taken over, current or consumed: true when this call ended the session. It becomes the identity of this transaction.';
