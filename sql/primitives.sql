-- What SQL cannot do by itself, written in Rust (pg_ext/src). Internal: nobody but auth_owner may call these.

create function auth.random_bytes(length int) returns bytea
  language c volatile strict parallel safe as 'MODULE_PATHNAME', 'random_bytes_wrapper';
comment on function auth.random_bytes is 'Internal. So many bytes (1 to 1024) from the operating system''s generator.';

create function auth.hmac_sha256(key bytea, message bytea) returns bytea
  language c immutable strict parallel safe as 'MODULE_PATHNAME', 'hmac_sha256_wrapper';
comment on function auth.hmac_sha256 is 'Internal. HMAC-SHA-256 (RFC 2104).';

create function auth.equal_digests(a bytea, b bytea) returns boolean
  language c immutable strict parallel safe as 'MODULE_PATHNAME', 'equal_digests_wrapper';
comment on function auth.equal_digests is 'Internal. Equality in constant time.';

create function auth.make_ticket(lineage_key bytea, generation int, verifier bytea) returns bytea
  language c immutable strict parallel safe as 'MODULE_PATHNAME', 'make_ticket_wrapper';
comment on function auth.make_ticket is 'Internal. Proves that this session issued the token of that generation and verifier.';

create function auth.make_jti(lineage_key bytea, generation int, issued_at timestamptz) returns uuid
  language c immutable strict parallel safe as 'MODULE_PATHNAME', 'make_jti_wrapper';
comment on function auth.make_jti is 'Internal. The jti (a UUIDv8) of an access token of that generation, issued in that second.';

create function auth.read_jti(lineage_key bytea, jti uuid, out generation int, out issued_at timestamptz) returns setof record
  language c immutable strict parallel safe rows 1 as 'MODULE_PATHNAME', 'read_jti_wrapper';
comment on function auth.read_jti is 'Internal. What an authentic jti says; no row for one that this session never issued.';

create function auth.decide_rotation(
  generation int, token_verifier bytea, previous_token_verifier bytea, revoked boolean,
  idle_expires_at timestamptz, expires_at timestamptz, rotated_at timestamptz, retry_window interval,
  presented_generation int, presented_verifier bytea, ticket_is_authentic boolean,
  clock timestamptz, recovery_max_gap int, is_shared boolean, device_is_refused boolean,
  refreshes_full_at timestamptz, refresh_burst int, refresh_period interval, shown_at timestamptz default null,
  out decision text, out retry_after interval
) returns setof record
  language c immutable parallel safe rows 1 as 'MODULE_PATHNAME', 'decide_rotation_wrapper';
comment on function auth.decide_rotation is 'Internal. The decision table of rotation: a pure function of the row, what was presented, the clock and the policy. Says unknown, revoked, expired, rotate, retry, replay, ahead, fast_forward, retain, device_mismatch or limited, and then for how long.';

create function auth.has_newer_sessions(of_user uuid, seen uuid[]) returns boolean
  language c volatile parallel unsafe as 'MODULE_PATHNAME', 'has_newer_sessions_wrapper';
comment on function auth.has_newer_sessions is 'Internal. Whether a user has unrevoked sessions or personal access tokens, in the newest state of the database, that are not among those.';

create function auth.set_identity(user_id uuid, organization_id uuid, session_id uuid, scopes text[] default null) returns void
  language c volatile parallel unsafe as 'MODULE_PATHNAME', 'set_identity_wrapper';
comment on function auth.set_identity is 'Internal. Makes this the identity of the current transaction, a session''s or (with scopes, without a session) a personal access token''s; called only after a proof was checked.';

create function auth.calling_role() returns name
  language c stable parallel restricted as 'MODULE_PATHNAME', 'calling_role_wrapper';
comment on function auth.calling_role is 'Internal. The role outside all SECURITY DEFINER functions: who really calls.';

create function auth.setting(name text) returns text
  language c stable strict parallel safe as 'MODULE_PATHNAME', 'setting_wrapper';
comment on function auth.setting is 'Internal. The value of auth_sessions.<name>; durations in seconds, castable to interval. Safe before the library is loaded, when current_setting is not.';

-- PostgreSQL says it too, as soon as something is written, in other words for each statement; and of the counters, which are
-- unlogged and so not there at all, in words that help nobody.
create function auth.require_primary() returns void
  language plpgsql stable parallel safe
  as $$
begin
  if pg_is_in_recovery() then
    raise exception 'this server is a standby, and this writes' using errcode = 'read_only_sql_transaction',
      hint = 'Send it to the primary.';
  end if;
end
$$;
comment on function auth.require_primary is 'Internal. An error (25006) on a standby, which sends the caller to the primary.';

create function auth.extension_version() returns text
  language c immutable parallel safe as 'MODULE_PATHNAME', 'extension_version_wrapper';
comment on function auth.extension_version is 'The version of the loaded library; the service refuses to be ready with another one.';

create function auth.cut_user_agent(user_agent text) returns text
  language c immutable strict parallel safe as 'MODULE_PATHNAME', 'cut_user_agent_wrapper';
comment on function auth.cut_user_agent is 'Internal. The first 512 bytes, cut between characters.';
