-- Organizations: slugs, founding, the active organization of a session, leaving; and who outranks whom.
--
-- Whatever addresses an organization by its id acts for it only while it is the *active* one of the proved session or
-- token: what an access token says is all that it can do. Being a member elsewhere too opens nothing; switch first.
--
-- Lock order: the organization (for no key update), then the user, then the user's sessions by id, then the rest. It is
-- the order in which deleting an organization takes them. Whatever changes who belongs to an organization, or as what,
-- holds the organization's lock and decides from what it reads then: so of two owners who remove each other one comes
-- second, and is a member no more.

create function auth.slug_is_reserved(slug text) returns boolean
  language sql immutable parallel safe
  return slug_is_reserved.slug = any (array[
    'about', 'account', 'accounts', 'admin', 'administrator', 'api', 'app', 'apps', 'assets', 'auth', 'billing', 'blog',
    'careers', 'cdn', 'contact', 'dashboard', 'dev', 'developer', 'developers', 'docs', 'download', 'email', 'enterprise',
    'faq', 'features', 'feedback', 'ftp', 'health', 'help', 'home', 'host', 'imap', 'info', 'internal', 'jobs', 'legal',
    'login', 'logout', 'mail', 'marketing', 'me', 'metrics', 'news', 'null', 'oauth', 'official', 'organization',
    'organizations', 'owner', 'password', 'payment', 'payments', 'pop', 'press', 'pricing', 'privacy', 'profile', 'public',
    'register', 'root', 'sales', 'search', 'secure', 'security', 'session', 'sessions', 'settings', 'shop', 'signin',
    'signup', 'smtp', 'sso', 'staff', 'static', 'stats', 'status', 'store', 'support', 'system', 'team', 'teams', 'terms',
    'test', 'token', 'undefined', 'user', 'users', 'webmaster', 'well-known', 'www']);
comment on function auth.slug_is_reserved is 'Internal. Slugs that could pass for the operator''s own pages.';

create function auth.check_slug(slug text, out available boolean, out suggestions text[])
  language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  suffix text;
  candidate text;
begin
  if slug is null then
    raise exception 'slug must not be null' using errcode = 'null_value_not_allowed', hint = 'For example: acme-tools';
  end if;
  if slug !~ '^[a-z0-9]+(-[a-z0-9]+)*$' or char_length(slug) not between 3 and 50 then
    raise exception 'slug must be 3 to 50 lower-case letters and digits, in groups joined by single hyphens'
      using errcode = 'invalid_parameter_value', hint = 'For example: acme-tools';
  end if;
  available := not auth.slug_is_reserved(slug) and not exists (select from auth.organizations o where o.slug = check_slug.slug);
  suggestions := '{}';
  if not available then
    foreach suffix in array array['-team', '-hq', '-app', '-org']
                            || array(select '-' || number from generate_series(2, 99) number) loop
      -- A slug of the full length is cut to make room, and never between two hyphens.
      candidate := rtrim(left(slug, 50 - char_length(suffix)), '-') || suffix;
      if not auth.slug_is_reserved(candidate) and not exists (select from auth.organizations o where o.slug = candidate) then
        suggestions := suggestions || candidate;
      end if;
      exit when cardinality(suggestions) = 3;
    end loop;
  end if;
end
$$;
comment on function auth.check_slug is 'Whether a slug is free and allowed, with up to three free ones like it when not. A hint: only founding an organization takes the slug.';

-- The one place where an organization comes to be. A slug that is taken or reserved is an error here, so that a sign-up
-- is undone by it as a whole; auth.slug_outcome makes an outcome of it.
create function auth.found_organization(
  owner_id uuid, slug text, name text, description text, website text, correlation_id text
) returns auth.organizations
  language plpgsql volatile parallel unsafe
  as $$
declare
  founded auth.organizations;
begin
  if auth.slug_is_reserved(slug) then
    raise exception 'the slug % is a reserved word', slug
      using errcode = 'unique_violation', constraint = 'organizations_slug_reserved';
  end if;
  insert into auth.organizations as o (slug, name, description, website)
  values (slug, name, description, website)
  returning o.* into founded;
  insert into auth.organization_members (organization_id, user_id, role)
  values (founded.id, owner_id, 'ORGANIZATION_OWNER');
  perform auth.record_event('organization_created', 'info', true, owner_id, founded.id,
                            correlation_id => correlation_id, details => jsonb_build_object('slug', slug));
  perform auth.record_event('user_role_created', 'info', true, owner_id, founded.id,
                            correlation_id => correlation_id, details => '{"role": "ORGANIZATION_OWNER"}');
  return founded;
end
$$;
comment on function auth.found_organization is 'Internal. Makes an organization and its first owner.';

create function auth.slug_outcome(violated text) returns text
  language sql immutable parallel safe
  return case violated
    when 'organizations_slug_key' then 'slug_taken'
    when 'organizations_slug_reserved' then 'slug_reserved' end;
comment on function auth.slug_outcome is 'Internal. What a violation in auth.found_organization is called; null: it is another one.';

create function auth.create_organization(
  name text, slug text, description text default null, website text default null, correlation_id text default null,
  out outcome text, out organization_id uuid, out created_at timestamptz
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('organization:write');
  founded auth.organizations;
  violated text;
begin
  if name is null or slug is null then
    raise exception 'name and slug must not be null' using errcode = 'null_value_not_allowed',
      hint = 'auth.check_slug tells whether a slug is free.';
  end if;
  begin
    founded := auth.found_organization(caller, slug, name, description, website, correlation_id);
    outcome := 'created';
    organization_id := founded.id;
    created_at := founded.created_at;
  exception
    when unique_violation then
      get stacked diagnostics violated = constraint_name;
      outcome := auth.slug_outcome(violated);
      if outcome is null then
        raise;
      end if;
    when check_violation then
      get stacked diagnostics violated = constraint_name;
      if violated = '' then
        raise;
      end if;
      perform auth.refuse_violation(violated);
  end;
end
$$;
comment on function auth.create_organization is 'Founds an organization whose owner is the proved user. Outcome created, slug_taken or slug_reserved. The session goes on acting for what it acted for: auth.switch_organization.';

create function auth.list_organizations()
  returns table (organization_id uuid, slug text, name text, description text, website text, created_at timestamptz,
                 role text, member_since timestamptz, is_active boolean)
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('organization:read');
begin
  return query
    select o.id, o.slug, o.name, o.description, o.website, o.created_at, m.role, m.created_at,
           o.id is not distinct from auth.current_organization_id()
      from auth.organization_members m join auth.organizations o on o.id = m.organization_id
     where m.user_id = caller
       -- A personal access token was made for one organization, and does not tell of others.
       and (auth.current_session_id() is not null or o.id = auth.current_organization_id())
     order by m.created_at, o.id;
end
$$;
comment on function auth.list_organizations is 'The organizations that the proved user belongs to, oldest membership first; for a personal access token only the one that it acts for.';

-- The one rule of rank: owners manage everybody, administrators manage members, members nobody. "To manage" a role is to
-- give it, to take it away, and to end the sessions of who has it.
create function auth.role_manages(role text, other text) returns boolean
  language sql immutable parallel safe
  return case role_manages.role
    when 'ORGANIZATION_OWNER' then true
    when 'ORGANIZATION_ADMIN' then role_manages.other = 'ORGANIZATION_MEMBER'
    else false end;
comment on function auth.role_manages is 'Internal. Whether who has the one role manages those who have the other.';

create function auth.role_of(organization_id uuid, user_id uuid) returns text
  language plpgsql volatile parallel unsafe
  as $$
begin
  return (select m.role from auth.organization_members m
           where m.organization_id = role_of.organization_id and m.user_id = role_of.user_id);
end
$$;
comment on function auth.role_of is 'Internal. A user''s role in an organization as it is now (volatile: it must see what a lock was waited for); null: no member.';

-- The way in for whatever acts on an organization. A stranger learns nothing and locks nothing.
create function auth.enter_organization(organization_id uuid, to_change boolean, out role text, out refusal text)
  language plpgsql volatile parallel unsafe
  as $$
begin
  if organization_id is null then
    raise exception 'organization_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.list_organizations().';
  end if;
  role := auth.role_of(organization_id, auth.current_user_id());
  if role is not null and to_change then
    perform from auth.organizations o where o.id = enter_organization.organization_id for no key update;
    role := auth.role_of(organization_id, auth.current_user_id());
  end if;
  refusal := case
    when role is null then 'not_found'
    when organization_id is distinct from auth.current_organization_id()
      -- Of other organizations a personal access token does not even learn that it belongs to them.
      then case when auth.current_session_id() is null then 'not_found' else 'not_active' end
    end;
end
$$;
comment on function auth.enter_organization is 'Internal. The proved user''s role in an organization, under its lock when something is to change; refusal not_found for who is no member, not_active while the session acts for another one.';

create function auth.enter_as_manager(organization_id uuid, to_change boolean, out role text, out refusal text)
  language plpgsql volatile parallel unsafe
  as $$
begin
  select e.role, e.refusal into role, refusal from auth.enter_organization(organization_id, to_change) e;
  if refusal is null and not auth.role_manages(role, 'ORGANIZATION_MEMBER') then
    refusal := 'insufficient_role';
  end if;
end
$$;
comment on function auth.enter_as_manager is 'Internal. The same for what only owners and administrators may; refusal also insufficient_role.';

-- Rows locked for share: an owner who is just leaving by some other SQL is waited for, and then not counted.
create function auth.has_other_owner(organization_id uuid, user_id uuid) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
begin
  perform from auth.organization_members m
    where m.organization_id = has_other_owner.organization_id and m.user_id <> has_other_owner.user_id
      and m.role = 'ORGANIZATION_OWNER'
      and exists (select from auth.users u where u.id = m.user_id and u.disabled_at is null)
    limit 1 for share of m;
  return found;
end
$$;
comment on function auth.has_other_owner is 'Internal. Whether an organization has an owner besides this user, and one who can log in.';

create function auth.switch_organization(
  organization_id uuid, ip inet default null, user_agent text default null, correlation_id text default null
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  clock timestamptz;
  former uuid;
  s auth.sessions;
  answer auth.session_outcome;
begin
  -- Who removes the membership takes these locks too: before, and is seen below, or after, and ends this session.
  perform from auth.users u where u.id = caller for no key update;
  select x.* into s from auth.sessions x where x.id = auth.current_session_id() for no key update;
  clock := clock_timestamp();
  if not found or s.revoked_at is not null or s.idle_expires_at <= clock or s.expires_at <= clock then
    answer.outcome := 'ended';
    return answer;
  end if;
  if organization_id is not null and auth.role_of(organization_id, caller) is null then
    answer.outcome := 'not_found';
    return answer;
  end if;
  former := s.organization_id;
  if former is distinct from switch_organization.organization_id then
    update auth.sessions x set organization_id = switch_organization.organization_id where x.id = s.id returning x.* into s;
    perform auth.record_event('session_organization_switched', 'info', true, s.user_id, s.organization_id, s.id, s.family_id,
                              correlation_id, ip, user_agent, jsonb_build_object('from', former, 'to', s.organization_id));
  end if;
  perform auth.set_identity(s.user_id, s.organization_id, s.id);
  return auth.access_of(s, 'switched');
end
$$;
comment on function auth.switch_organization is 'Makes an organization of the proved user the active one of the proved session; null: none. Outcome switched, with a new access token''s jti (the refresh token stays as it is), not_found or ended. Older access tokens of the session act for the new organization too: what the row says, not what they say.';

create function auth.leave_organization(
  organization_id uuid, ip inet default null, user_agent text default null, correlation_id text default null
) returns auth.session_outcome
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  clock timestamptz;
  my_role text;
  s auth.sessions;
  answer auth.session_outcome;
begin
  -- The one thing that is done to an organization which need not be the active one: it is the caller's own row.
  select e.role into my_role from auth.enter_organization(organization_id, true) e;
  if my_role is null then
    answer.outcome := 'not_found';
    return answer;
  end if;
  perform from auth.users u where u.id = caller for no key update;
  perform from auth.sessions x where x.user_id = caller and x.revoked_at is null order by x.id for no key update;
  clock := clock_timestamp();
  select x.* into s from auth.sessions x
   where x.id = auth.current_session_id() and x.revoked_at is null and x.idle_expires_at > clock and x.expires_at > clock;
  if not found then
    answer.outcome := 'ended';
    return answer;
  end if;
  if my_role = 'ORGANIZATION_OWNER' and not auth.has_other_owner(organization_id, caller) then
    answer.outcome := 'last_owner';
    return answer;
  end if;
  -- The session that leaves lives on, for no organization; the user's others that act for it end.
  if s.organization_id = leave_organization.organization_id then
    update auth.sessions x set organization_id = null where x.id = s.id returning x.* into s;
    perform auth.set_identity(s.user_id, null, s.id);
  end if;
  perform auth.end_membership(organization_id, caller, my_role, 'organization_left', ip, user_agent, correlation_id);
  return auth.access_of(s, 'left');
end
$$;
comment on function auth.leave_organization is 'Ends the proved user''s own membership. Outcome left, with a new access token''s jti, last_owner, not_found or ended. This session lives on without an organization where it acted for that one; the user''s other sessions that act for it end.';

-- The caller holds the locks of the organization and the user, and has checked every right. Sessions first, so that
-- their end carries the request's id; the trigger (cascades.sql) finds none left.
create function auth.end_membership(
  organization_id uuid, user_id uuid, role text, reason text, ip inet, user_agent text, correlation_id text
) returns int
  language plpgsql volatile parallel unsafe
  as $$
declare
  ended int := auth.revoke_live_sessions(
    end_membership.user_id, of_organization => end_membership.organization_id, reason => end_membership.reason,
    correlation_id => end_membership.correlation_id, lock_user => false);
begin
  perform auth.end_personal_access_tokens(
    end_membership.user_id, end_membership.reason, of_organization => end_membership.organization_id,
    correlation_id => end_membership.correlation_id);
  delete from auth.organization_members m
   where m.organization_id = end_membership.organization_id and m.user_id = end_membership.user_id;
  perform auth.record_event('user_role_removed', 'info', true, user_id, organization_id, correlation_id => correlation_id,
                            ip => ip, user_agent => user_agent,
                            details => jsonb_build_object('role', role, 'reason', reason));
  return ended;
end
$$;
comment on function auth.end_membership is 'Internal. Takes a user out of an organization; returns how many sessions ended.';
