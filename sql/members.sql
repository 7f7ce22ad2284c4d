-- The members of the active organization, and their sessions in it. Every member sees who the members are; owners and
-- administrators also see, and end, the sessions of those whom they manage (auth.role_manages), and their own: an
-- administrator whose account was taken over must not be able to lock the owners out.

create function auth.require_page(page_size int, after_time timestamptz, after_id uuid) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if page_size is null or page_size not between 1 and 200 or num_nulls(after_time, after_id) = 1 then
    raise exception 'page_size must be between 1 and 200, and after_time and after_id come together'
      using errcode = 'invalid_parameter_value', hint = 'Give both of the last row of the page before, or neither.';
  end if;
end
$$;
comment on function auth.require_page is 'Internal. Refuses what is no page of a list.';

create function auth.list_members(
  organization_id uuid, page_size int default 50, after_time timestamptz default null, after_id uuid default null
) returns table (outcome text, user_id uuid, email text, name text, role text, member_since timestamptz)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform auth.require_identity('organization:read');
  perform auth.require_page(page_size, after_time, after_id);
  select e.refusal into outcome from auth.enter_organization(organization_id, false) e;
  if outcome is not null then
    return next;
    return;
  end if;
  return query
    select 'listed', u.id, u.email, u.name, m.role, m.created_at
      from auth.organization_members m join auth.users u on u.id = m.user_id
     where m.organization_id = list_members.organization_id
       and (after_id is null or (m.created_at, m.user_id) > (after_time, after_id))
     order by m.created_at, m.user_id limit page_size;
end
$$;
comment on function auth.list_members is 'A page of the members of the active organization, the oldest first, for every member: rows of outcome listed. One row of outcome not_found or not_active when it is not the active one.';

create function auth.change_member_role(
  organization_id uuid, user_id uuid, role text,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out email text, out name text, out member_since timestamptz
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  my_role text;
  former text;
begin
  perform auth.require_identity();
  if user_id is null or role is null then
    raise exception 'user_id and role must not be null' using errcode = 'null_value_not_allowed',
      hint = 'auth.list_members tells the members.';
  end if;
  perform auth.require_role(role);
  select e.role, e.refusal into my_role, outcome from auth.enter_organization(organization_id, true) e;
  if outcome is not null then
    return;
  end if;
  former := auth.role_of(organization_id, user_id);
  if former is null then
    outcome := 'member_not_found';
  elsif not (auth.role_manages(my_role, former) and auth.role_manages(my_role, role)) then
    outcome := 'insufficient_role';
  elsif former = 'ORGANIZATION_OWNER' and role <> former and not auth.has_other_owner(organization_id, user_id) then
    outcome := 'last_owner';
  else
    if role <> former then
      update auth.organization_members m set role = change_member_role.role
       where m.organization_id = change_member_role.organization_id and m.user_id = change_member_role.user_id;
      perform auth.record_event('user_role_changed', 'info', true, user_id, organization_id,
                                correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                                details => jsonb_build_object('from', former, 'to', role));
    end if;
    select u.email, u.name, m.created_at into email, name, member_since
      from auth.organization_members m join auth.users u on u.id = m.user_id
     where m.organization_id = change_member_role.organization_id and m.user_id = change_member_role.user_id;
    outcome := 'changed';
  end if;
end
$$;
comment on function auth.change_member_role is 'Gives a member of the active organization another role. Outcome changed, member_not_found, insufficient_role (owners give and take every role, administrators only change members into members), last_owner, not_found or not_active. The new role counts at once in auth.current_roles(), and from the next access token on.';

create function auth.require_role(role text) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if role is null or role not in ('ORGANIZATION_OWNER', 'ORGANIZATION_ADMIN', 'ORGANIZATION_MEMBER') then
    raise exception 'there is no such role' using errcode = 'invalid_parameter_value',
      hint = 'ORGANIZATION_OWNER, ORGANIZATION_ADMIN or ORGANIZATION_MEMBER.';
  end if;
end
$$;
comment on function auth.require_role is 'Internal. Refuses what is not a role.';

create function auth.remove_member(
  organization_id uuid, user_id uuid,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out ended_sessions int
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  my_role text;
  former text;
begin
  if user_id is null then
    raise exception 'user_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'auth.list_members tells the members.';
  end if;
  if not auth.recently_authenticated() then
    outcome := 'step_up_required';
    return;
  end if;
  select e.role, e.refusal into my_role, outcome from auth.enter_organization(organization_id, true) e;
  if outcome is not null then
    return;
  end if;
  former := auth.role_of(organization_id, user_id);
  if former is null then
    outcome := 'member_not_found';
  elsif user_id = caller or not auth.role_manages(my_role, former) then
    -- Nobody removes themself: auth.leave_organization, which keeps the session.
    outcome := 'insufficient_role';
  elsif former = 'ORGANIZATION_OWNER' and not auth.has_other_owner(organization_id, user_id) then
    -- The caller is an owner too, unless disabled meanwhile.
    outcome := 'last_owner';
  else
    perform from auth.users u where u.id = remove_member.user_id for no key update;
    ended_sessions := auth.end_membership(organization_id, user_id, former, 'membership_removed', ip, user_agent, correlation_id);
    outcome := 'removed';
  end if;
end
$$;
comment on function auth.remove_member is 'Takes another member out of the active organization and ends their sessions and personal access tokens that act for it. Outcome removed, step_up_required, member_not_found, insufficient_role, last_owner, not_found or not_active.';

-- Whether the proved identity may see and end that user's sessions in that organization, beside its own.
create function auth.manages_user(organization_id uuid, user_id uuid) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
begin
  return organization_id = auth.current_organization_id()
     and auth.has_scope('organization:write')
     and coalesce(auth.role_manages(auth.role_of(organization_id, auth.current_user_id()), auth.role_of(organization_id, user_id)), false);
end
$$;
comment on function auth.manages_user is 'Internal. Whether the proved identity acts for that organization and manages that member of it.';

create function auth.list_organization_sessions(
  organization_id uuid, page_size int default 50, after_time timestamptz default null, after_id uuid default null
) returns table (outcome text, session_id uuid, user_id uuid, email text, name text, role text, device_name text, network text,
                 created_at timestamptz, last_used_at timestamptz, expires_at timestamptz, is_current boolean)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('organization:read');
  clock timestamptz := clock_timestamp();
  my_role text;
begin
  perform auth.require_page(page_size, after_time, after_id);
  select e.role, e.refusal into my_role, outcome from auth.enter_as_manager(organization_id, false) e;
  if outcome is not null then
    return next;
    return;
  end if;
  return query
    select 'listed', s.id, u.id, u.email, u.name, m.role, s.device_name, s.last_ip_cidr::text,
           s.created_at, s.last_used_at, least(s.expires_at, s.idle_expires_at), s.id is not distinct from auth.current_session_id()
      from auth.sessions s
      join auth.users u on u.id = s.user_id
      join auth.organization_members m on m.organization_id = s.organization_id and m.user_id = s.user_id
     where s.organization_id = list_organization_sessions.organization_id
       and s.revoked_at is null and s.idle_expires_at > clock and s.expires_at > clock
       and (s.user_id = caller or auth.role_manages(my_role, m.role))
       and (after_id is null or (s.created_at, s.id) < (after_time, after_id))
     order by s.created_at desc, s.id desc limit page_size;
end
$$;
comment on function auth.list_organization_sessions is 'A page of the live sessions that act for the active organization, the newest first: of those whom the proved user manages, and the user''s own; rows of outcome listed. One row of outcome insufficient_role, not_found or not_active otherwise.';

create function auth.end_organization_session(
  organization_id uuid, session_id uuid,
  ip inet default null, user_agent text default null, correlation_id text default null
) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('organization:write');
  my_role text;
  refusal text;
  owner_id uuid;
begin
  if session_id is null then
    raise exception 'session_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.list_organization_sessions.';
  end if;
  select e.role, e.refusal into my_role, refusal from auth.enter_as_manager(organization_id, false) e;
  if refusal is not null then
    return refusal;
  end if;
  -- A session that switches to another organization before the lock is let go: of_organization.
  select s.user_id into owner_id from auth.sessions s
   where s.id = end_organization_session.session_id and s.organization_id = end_organization_session.organization_id;
  if owner_id is null or (owner_id <> caller and not auth.manages_user(organization_id, owner_id)) then
    return 'session_not_found';
  end if;
  return case auth.revoke_live_sessions(
           owner_id, of_session => session_id, of_organization => organization_id, reason => 'ended_by_organization',
           correlation_id => correlation_id, ip => ip, user_agent => user_agent)
         when 1 then 'ended' else 'session_not_found' end;
end
$$;
comment on function auth.end_organization_session is 'Ends one live session that acts for the active organization: of somebody whom the proved user manages, or the user''s own. ''ended'', or session_not_found (out of reach looks like that too), insufficient_role, not_found, not_active.';
