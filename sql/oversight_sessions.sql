-- Finding a session on the dashboard, and ending what it belongs to. Reach as in oversight.sql.

-- See lineage.rs: generation 32 bits, time 16, version 4, time 12, variant 2, time 4, and the rest is the mark.
create function auth.time_of_jti(jti uuid) returns timestamptz
  language plpgsql immutable parallel safe
  as $$
declare
  hex constant text := replace(jti::text, '-', '');
  bits constant bigint := ('x' || substr(hex, 9, 4) || substr(hex, 14, 5))::bit(36)::bigint;
begin
  return to_timestamp((bits >> 8 << 4) | (bits >> 2 & 15));
end
$$;
comment on function auth.time_of_jti is 'Internal. When a jti was made, if it is one.';

-- Whose sessions a text means. A uuid may be a session's, a family's or a user's, and an address one host's: the network
-- is kept, the host is not.
create function auth.find_overseen_sessions(
  extent text, organization_id uuid, search text, out session_ids uuid[], out user_ids uuid[], out network inet
)
  language plpgsql volatile parallel unsafe set plan_cache_mode = force_custom_plan
  as $$
declare
  wanted uuid;
  made_at timestamptz;
  made_generation bigint;
  prefix text := lower(search collate "C");
begin
  if search ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
    wanted := search::uuid;
    session_ids := array(
      select s.id from auth.sessions s
       where s.id = wanted or s.family_id = wanted or s.user_id = wanted);
    made_generation := ('x' || substr(replace(wanted::text, '-', ''), 1, 8))::bit(32)::bigint;
    if cardinality(session_ids) = 0 and substr(wanted::text, 15, 1) = '8' and made_generation <= 2147483647 then
      -- A jti is kept nowhere, so no index can have it: the key of its session makes it again. Its generation and time say
      -- which keys to try: of sessions that were open then, and have come at least so far since.
      made_at := auth.time_of_jti(wanted);
      session_ids := array(
        select s.id from auth.sessions s
         where (extent = 'all' or s.organization_id = find_overseen_sessions.organization_id)
           and s.generation >= made_generation and s.created_at < made_at + interval '1 second'
           and (s.generation = made_generation or s.rotated_at >= made_at)
           and auth.make_jti(s.lineage_key, made_generation::int, made_at) = wanted
         limit 1);
    end if;
    return;
  end if;
  if search ~ '^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$' and search ~ '[.:]' then
    begin
      network := search::inet;
      return;
    exception when invalid_text_representation then
      null;
    end;
  end if;
  -- Of everybody by the beginning of the address, for which there is an index; of an organization by any part.
  if extent = 'all' then
    user_ids := array(
      select u.id from auth.users u
       where lower(u.email collate "C") >= prefix
         and lower(u.email collate "C") < prefix || repeat(chr(case getdatabaseencoding() when 'UTF8' then 1114111 else 127 end), 4)
       order by lower(u.email collate "C") limit 100);
  else
    user_ids := array(
      select u.id from auth.organization_members m join auth.users u on u.id = m.user_id
       where m.organization_id = find_overseen_sessions.organization_id
         and (strpos(lower(u.email), lower(search)) > 0 or strpos(lower(u.name), lower(search)) > 0)
       order by u.email limit 100);
  end if;
end
$$;
comment on function auth.find_overseen_sessions is 'Internal. What a text in the dashboard''s search means: ids of sessions, of users, or a network. Whether the caller may see them is not decided here.';

create function auth.oversee_sessions(
  of_organization uuid default null, search text default null,
  page_size int default 50, after_time timestamptz default null, after_id uuid default null
) returns table (session_id uuid, family_id uuid, user_id uuid, email text, name text, organization_id uuid, organization_slug text,
                 device_name text, user_agent text, network text, created_at timestamptz, last_used_at timestamptz,
                 ends_at timestamptz, generation int, amr text[], is_live boolean, revoked_at timestamptz, revoked_reason text,
                 is_replayed boolean, is_current boolean)
  language plpgsql volatile parallel unsafe security definer rows 50
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  caller uuid := auth.require_identity();
  wanted text := nullif(btrim(search), '');
  reach record;
  found_ids uuid[];
  found_users uuid[];
  found_network inet;
begin
  perform auth.require_page(page_size, after_time, after_id);
  if char_length(search) > 254 then
    raise exception 'search must have at most 254 characters' using errcode = 'invalid_parameter_value',
      hint = 'An id of a session, family or user, a jti, a network, or the beginning of an e-mail.';
  end if;
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return;
  end if;
  if wanted is not null then
    select f.session_ids, f.user_ids, f.network into found_ids, found_users, found_network
      from auth.find_overseen_sessions(reach.extent, reach.organization_id, wanted) f;
  elsif reach.extent = 'all' and after_id is null then
    -- The newest of all, for which there is no index: the log knows who logged in of late. Where that is not enough, all
    -- sessions are read.
    found_ids := array(
      select a.session_id from auth.audit_log a
       where a.created_at > clock - interval '1 hour' and a.action = 'auth_session_created'
       order by a.created_at desc limit 20 * page_size);
    if (select count(*) from auth.sessions x
         where x.id = any (found_ids) and x.revoked_at is null and x.idle_expires_at > clock and x.expires_at > clock) < page_size then
      found_ids := null;
    end if;
  end if;
  return query
    select s.id, s.family_id, s.user_id, u.email, u.name, s.organization_id, o.slug,
           s.device_name, s.user_agent, s.last_ip_cidr::text, s.created_at, s.last_used_at,
           least(s.expires_at, s.idle_expires_at), s.generation, s.amr,
           s.revoked_at is null and s.idle_expires_at > clock and s.expires_at > clock,
           s.revoked_at, s.revoked_reason, s.reused_jti_of is not null, s.id is not distinct from auth.current_session_id()
      from (select x.* from auth.sessions x
             where (reach.extent = 'all' or x.organization_id = reach.organization_id)
               and (reach.extent <> 'members' or x.user_id = caller or x.user_id in (
                      select m.user_id from auth.organization_members m
                       where m.organization_id = reach.organization_id and m.role = 'ORGANIZATION_MEMBER'))
               -- Who looks for something is shown what is over, too.
               and (wanted is not null or (x.revoked_at is null and x.idle_expires_at > clock and x.expires_at > clock))
               and (found_ids is null or x.id = any (found_ids))
               and (found_users is null or x.user_id = any (found_users))
               and (found_network is null or x.last_ip_cidr && found_network)
               and (after_id is null or (x.created_at <= after_time and (x.created_at, x.id) < (after_time, after_id)))
             order by x.created_at desc, x.id desc limit page_size) s
      join auth.users u on u.id = s.user_id
      left join auth.organizations o on o.id = s.organization_id
     order by s.created_at desc, s.id desc;
end
$$;
comment on function auth.oversee_sessions is 'A page of sessions, the newest first: live ones; or, with search, all that are kept of a session, family or user (by id), of a jti, a network, or an e-mail (how it begins; in an organization any part of it, or of the name).';

-- Ends what is live of a family or a user, as far as the caller oversees it, with the reason that a person gave: in the
-- audit log as "note". The service shows it to whoever oversees the session, and not to its user; who reads the log in SQL
-- in the user's name is told of it, as of all that happened to them.
create function auth.end_overseen(
  of_user uuid, of_family uuid, note text, reach_extent text, reach_organization uuid,
  ip inet, user_agent text, correlation_id text
) returns int
  language plpgsql volatile parallel unsafe
  as $$
begin
  return auth.revoke_live_sessions(
    end_overseen.of_user, of_family => end_overseen.of_family,
    of_organization => case when reach_extent <> 'all' then reach_organization end,
    action => case when end_overseen.of_family is null then 'session_revoked' else 'session_family_revoked' end,
    reason => case when auth.current_user_is_operator() then 'ended_by_operator' else 'ended_by_organization' end,
    severity => 'warning', correlation_id => correlation_id, ip => ip, user_agent => user_agent,
    more_details => jsonb_build_object('note', btrim(note)));
end
$$;
comment on function auth.end_overseen is 'Internal. Ends sessions for who oversees them; the caller has checked that.';

create function auth.require_note(note text) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if char_length(btrim(coalesce(note, ''))) not between 1 and 200 or note ~ '[[:cntrl:]]' then
    raise exception 'note must have 1 to 200 characters, and no control characters' using errcode = 'invalid_parameter_value',
      hint = 'Why, in a line: it goes into the audit log.';
  end if;
end
$$;
comment on function auth.require_note is 'Internal. Refuses a reason that is none.';

-- What ending sessions of others asks for before it looks for them.
create function auth.reach_to_end(note text, out refusal text, out extent text, out organization_id uuid)
  language plpgsql volatile parallel unsafe
  as $$
begin
  perform auth.require_note(note);
  if not auth.recently_authenticated() then
    refusal := 'step_up_required';
    return;
  end if;
  select r.extent, r.organization_id into extent, organization_id from auth.oversight_reach(null) r;
  if extent is null then
    refusal := 'insufficient_role';
  end if;
end
$$;
comment on function auth.reach_to_end is 'Internal. Whose sessions the caller may end, for a reason that is one and after a recent authentication; refusal says why none.';

create function auth.end_overseen_family(
  family_id uuid, note text, ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out ended_sessions int
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  reach record;
  owner_id uuid;
begin
  perform auth.require_identity();
  if family_id is null then
    raise exception 'family_id must not be null' using errcode = 'null_value_not_allowed', hint = 'See auth.oversee_sessions.';
  end if;
  select r.* into reach from auth.reach_to_end(note) r;
  if reach.refusal is not null then
    outcome := reach.refusal;
    return;
  end if;
  select s.user_id into owner_id from auth.sessions s
   where s.family_id = end_overseen_family.family_id
     and (reach.extent = 'all' or s.organization_id = reach.organization_id) limit 1;
  -- Out of reach looks like one that does not exist.
  if owner_id is null or not auth.is_overseen(reach.extent, reach.organization_id, owner_id) then
    outcome := 'session_not_found';
    return;
  end if;
  ended_sessions := auth.end_overseen(owner_id, family_id, note, reach.extent, reach.organization_id, ip, user_agent, correlation_id);
  outcome := case when ended_sessions > 0 then 'ended' else 'session_not_found' end;
end
$$;
comment on function auth.end_overseen_family is 'Ends the live sessions of a family: of anybody for an operator; for an organization''s owner or administrator those of whom they manage (or their own) that act for the active organization. note says why, in the audit log. Outcome ended, step_up_required, session_not_found (out of reach looks like that too) or insufficient_role.';

create function auth.end_overseen_sessions(
  user_id uuid, note text, ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out ended_sessions int
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  reach record;
begin
  perform auth.require_identity();
  if user_id is null then
    raise exception 'user_id must not be null' using errcode = 'null_value_not_allowed', hint = 'See auth.oversee_sessions.';
  end if;
  select r.* into reach from auth.reach_to_end(note) r;
  if reach.refusal is not null then
    outcome := reach.refusal;
    return;
  end if;
  if not exists (select from auth.users u where u.id = end_overseen_sessions.user_id)
     or not auth.is_overseen(reach.extent, reach.organization_id, user_id) then
    outcome := 'member_not_found';
    return;
  end if;
  ended_sessions := auth.end_overseen(user_id, null, note, reach.extent, reach.organization_id, ip, user_agent, correlation_id);
  outcome := 'ended';
end
$$;
comment on function auth.end_overseen_sessions is 'Ends all live sessions of a user: everywhere for an operator, those that act for the active organization for its owner or administrator. note as in auth.end_overseen_family. Outcome ended, step_up_required, member_not_found (out of reach looks like that too) or insufficient_role.';
