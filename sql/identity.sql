-- Who this transaction is. The identity lives in the backend's memory beside the transaction's own id, so no SET and
-- no set_config can forge it, and the end of the transaction ends it (pg_ext/src/identity.rs).

create function auth.current_user_id() returns uuid
  language c stable parallel restricted as 'MODULE_PATHNAME', 'current_user_id_wrapper';
comment on function auth.current_user_id is 'The user whose session was proved in this transaction; null when nobody''s. For policies: (select auth.current_user_id()).';

create function auth.current_organization_id() returns uuid
  language c stable parallel restricted as 'MODULE_PATHNAME', 'current_organization_id_wrapper';
comment on function auth.current_organization_id is 'The active organization of the proved session; null when there is none.';

create function auth.current_session_id() returns uuid
  language c stable parallel restricted as 'MODULE_PATHNAME', 'current_session_id_wrapper';
comment on function auth.current_session_id is 'The session that was proved in this transaction; null when none.';

create function auth.current_scopes() returns text[]
  language c stable parallel restricted as 'MODULE_PATHNAME', 'current_scopes_wrapper';
comment on function auth.current_scopes is 'What this identity may do: {*} for a session, which is not limited; its scopes for a personal access token; null when nobody.';

create function auth.has_scope(scope text) returns boolean
  language c stable strict parallel restricted as 'MODULE_PATHNAME', 'has_scope_wrapper';
comment on function auth.has_scope is 'Whether this identity may do that: always for a session, by its scopes for a personal access token, never for nobody. For policies: (select auth.has_scope(''orders:read'')).';

-- Read from the table at each call, not remembered: a role that was taken away is gone at the next statement.
create function auth.current_roles() returns text[]
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if auth.current_user_id() is null then
    return null;
  end if;
  return array(select m.role from auth.organization_members m
                where m.organization_id = auth.current_organization_id() and m.user_id = auth.current_user_id());
end
$$;
comment on function auth.current_roles is 'The roles of the proved user in the active organization, as they are now; null when nobody.';

-- The proof is the jti of an access token: the session's own key tells whether it made it, and when. Nothing is stored.
-- An older generation's token is good until it expires: the other tabs of a browser stay logged in.
create function auth.assume_session(session_id uuid, jti uuid)
  returns table (user_id uuid, organization_id uuid, auth_time timestamptz, generation int)
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
declare
  clock timestamptz := clock_timestamp();
begin
  select s.user_id, s.organization_id, s.auth_time, s.generation
    into user_id, organization_id, auth_time, generation
    from auth.sessions s cross join lateral auth.read_jti(s.lineage_key, assume_session.jti) proof
   where s.id = assume_session.session_id
     and s.revoked_at is null and s.idle_expires_at > clock and s.expires_at > clock
     and proof.issued_at > clock - auth.setting('access_token_ttl')::interval;
  if found then
    perform auth.set_identity(user_id, organization_id, session_id);
    return next;
  end if;
end
$$;
comment on function auth.assume_session is 'Makes the session''s user the identity of this transaction when the jti is genuine, young enough, and the session lives: one row; otherwise none. Ends with the transaction.';

create function auth.session_is_live() returns boolean
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  return exists (
    select from auth.sessions s
     where s.id = auth.current_session_id()
       and s.revoked_at is null and s.idle_expires_at > clock_timestamp() and s.expires_at > clock_timestamp());
end
$$;
comment on function auth.session_is_live is 'True while the proved session is neither revoked nor expired. For your own policies: a revoked session loses access at its next statement.';

create function auth.require_auth_age(max_age interval) returns boolean
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if max_age is null then
    raise exception 'max_age is null' using errcode = 'null_value_not_allowed', hint = 'Give an interval, such as ''5 minutes''.';
  end if;
  return exists (
    select from auth.sessions s
     where s.id = auth.current_session_id() and s.auth_time > clock_timestamp() - max_age
       and s.revoked_at is null and s.idle_expires_at > clock_timestamp() and s.expires_at > clock_timestamp());
end
$$;
comment on function auth.require_auth_age is 'True when the proved session is live and its user logged in, or stepped up, no longer ago than this. For policies on sensitive writes.';

-- Volatile, so that it sees what the statement that calls it has just done: the service asks for the profile in the
-- same statement as the rotation. In C without a pinned search_path, as auth.rotate_session_token and for the same reason.
create function auth.session_profile(session_id uuid)
  returns table (user_id uuid, email text, name text, user_type text, email_verified boolean, user_created_at timestamptz,
                 organization_id uuid, organization_slug text, organization_name text, organization_role text, roles text[])
  language c volatile parallel unsafe security definer rows 1 as 'MODULE_PATHNAME', 'session_profile_wrapper';
comment on function auth.session_profile is 'User, organization and roles of the session that was proved in this transaction; no row for any other session. With null: of the personal access token that was, if it has the scope profile:read.';

create function auth.require_identity(scope text default null) returns uuid
  language plpgsql stable parallel restricted
  as $$
begin
  if auth.current_user_id() is null then
    raise exception 'nobody is logged in in this transaction' using errcode = 'invalid_authorization_specification',
      hint = 'In the same transaction, first: select * from auth.assume_session(session_id, jti);';
  end if;
  if not coalesce(auth.has_scope(scope), auth.current_session_id() is not null) then
    raise exception 'this needs %', coalesce('the scope ' || scope, 'a session, not a personal access token')
      using errcode = 'insufficient_privilege', hint = 'See auth.current_scopes().';
  end if;
  return auth.current_user_id();
end
$$;
comment on function auth.require_identity is 'Internal. The proved user, or an error: 28000 when nobody, 42501 when a personal access token lacks the scope (or, without a scope, whenever it is no session).';

-- One word for the door in front of whatever a stolen session must not do by itself.
create function auth.recently_authenticated() returns boolean
  language plpgsql stable parallel restricted
  as $$
begin
  return auth.require_auth_age(auth.setting('step_up_max_age')::interval);
end
$$;
comment on function auth.recently_authenticated is 'Internal. Whether the proved session is live and its user logged in, or stepped up, within auth_sessions.step_up_max_age. A function that needs it answers with the outcome step_up_required.';
