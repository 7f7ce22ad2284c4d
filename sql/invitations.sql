-- Invitations into the active organization, by mail: to an address with an account or without one, and nobody learns
-- which. Whoever accepts shows the mail's token in a session of that very address.

create function auth.invite_member(
  organization_id uuid, email text, role text,
  ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out invitation_id uuid, out created_at timestamptz, out expires_at timestamptz, out retry_after interval
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity('organization:write');
  my_role text;
  clock timestamptz;
  address text := lower(email collate "C");
  secret text := auth.link_secret();
  -- What one organization, and what the owner of one address, can be bothered with in an hour.
  most_sent constant int := 50;
  most_received constant int := 5;
  earliest timestamptz;
begin
  if email is null or role is null then
    raise exception 'email and role must not be null' using errcode = 'null_value_not_allowed',
      hint = 'An address need not have an account.';
  end if;
  perform auth.require_role(role);
  perform auth.require_address(email);
  select e.role, e.refusal into my_role, outcome from auth.enter_organization(organization_id, true) e;
  clock := clock_timestamp();
  if outcome is not null then
    return;
  elsif not auth.role_manages(my_role, role) then
    outcome := 'insufficient_role';
    return;
  elsif exists (select from auth.organization_members m join auth.users u on u.id = m.user_id
                 where m.organization_id = invite_member.organization_id and lower(u.email collate "C") = address) then
    outcome := 'already_member';
    return;
  elsif exists (select from auth.organization_invitations i
                 where i.organization_id = invite_member.organization_id and lower(i.email collate "C") = address
                   and auth.invitation_is_open(i) and not auth.role_manages(my_role, i.role)) then
    -- It would take the place of an invitation that only an owner may take back.
    outcome := 'insufficient_role';
    return;
  end if;

  -- The oldest of the last so many, when there are so many: when it is an hour old there is room again.
  earliest := greatest(
    (select i.created_at from auth.organization_invitations i
      where i.organization_id = invite_member.organization_id and i.created_at > clock - interval '1 hour'
      order by i.created_at desc offset most_sent - 1 limit 1),
    (select i.created_at from auth.organization_invitations i
      where lower(i.email collate "C") = address and i.created_at > clock - interval '1 hour'
      order by i.created_at desc offset most_received - 1 limit 1));
  if earliest is not null then
    outcome := 'rate_limited';
    retry_after := earliest + interval '1 hour' - clock;
    return;
  end if;

  -- What is long over goes by the way; the audit log remembers it.
  delete from auth.organization_invitations i
   where i.organization_id = invite_member.organization_id and i.expires_at < clock - interval '30 days';
  -- A new invitation takes the place of an older one, whose token is worth nothing from now on.
  update auth.organization_invitations i set revoked_at = clock
   where i.organization_id = invite_member.organization_id and lower(i.email collate "C") = address
     and i.accepted_at is null and i.revoked_at is null;
  insert into auth.organization_invitations as i
    (organization_id, email, role, token_verifier, invited_by, created_at, expires_at)
  values (organization_id, email, role, auth.one_time_token_verifier(secret), caller, clock, clock + interval '7 days')
  returning i.id, i.created_at, i.expires_at into invitation_id, created_at, expires_at;
  perform auth.queue_mail(
    'organization_invitation', email,
    jsonb_build_object('token', secret, 'role', role, 'expires_at', expires_at,
                       'organization_name', (select o.name from auth.organizations o where o.id = invite_member.organization_id)),
    lifetime => expires_at - created_at);
  perform auth.record_event('organization_member_invited', 'info', true, null, organization_id,
                            correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                            details => jsonb_build_object('invitation_id', invitation_id, 'role', role));
  outcome := 'invited';
end
$$;
comment on function auth.invite_member is 'Invites an address into the active organization and queues the mail with the one-time token; an earlier invitation of that address is void then. Outcome invited, already_member, insufficient_role (only owners invite owners and administrators), rate_limited (with retry_after), not_found or not_active. The caller gets no token.';

-- An invitation is worth as much as its sender: who was removed, or may not give that role any more, invites nobody.
create function auth.invitation_is_open(i auth.organization_invitations) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
begin
  return i.accepted_at is null and i.revoked_at is null and i.expires_at > clock_timestamp()
     and coalesce(auth.role_manages(auth.role_of(i.organization_id, i.invited_by), i.role), false);
end
$$;
comment on function auth.invitation_is_open is 'Internal. Whether an invitation can be accepted now: not used, revoked or expired, and its sender may still give that role.';

create function auth.list_invitations(
  organization_id uuid, page_size int default 50, after_time timestamptz default null, after_id uuid default null
) returns table (outcome text, invitation_id uuid, email text, role text, invited_by uuid, inviter_name text,
                 created_at timestamptz, expires_at timestamptz)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  my_role text;
begin
  perform auth.require_identity('organization:read');
  perform auth.require_page(page_size, after_time, after_id);
  select e.role, e.refusal into my_role, outcome from auth.enter_as_manager(organization_id, false) e;
  if outcome is not null then
    return next;
    return;
  end if;
  return query
    select 'listed', i.id, i.email, i.role, u.id, u.name, i.created_at, i.expires_at
      from auth.organization_invitations i join auth.users u on u.id = i.invited_by
     where i.organization_id = list_invitations.organization_id
       and i.accepted_at is null and i.revoked_at is null and auth.invitation_is_open(i)
       and (after_id is null or (i.created_at, i.id) < (after_time, after_id))
     order by i.created_at desc, i.id desc limit page_size;
end
$$;
comment on function auth.list_invitations is 'A page of the open invitations of the active organization, the newest first, for its owners and administrators: rows of outcome listed. One row of outcome insufficient_role, not_found or not_active otherwise.';

create function auth.revoke_invitation(
  organization_id uuid, invitation_id uuid,
  ip inet default null, user_agent text default null, correlation_id text default null
) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  my_role text;
  refusal text;
  i auth.organization_invitations;
begin
  perform auth.require_identity('organization:write');
  if invitation_id is null then
    raise exception 'invitation_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'See auth.list_invitations.';
  end if;
  -- Under the organization's lock, as accepting is: one of the two comes first.
  select e.role, e.refusal into my_role, refusal from auth.enter_as_manager(organization_id, true) e;
  if refusal is not null then
    return refusal;
  end if;
  select x.* into i from auth.organization_invitations x
   where x.id = revoke_invitation.invitation_id and x.organization_id = revoke_invitation.organization_id;
  if not found or not auth.invitation_is_open(i) then
    return 'invitation_not_found';
  elsif not auth.role_manages(my_role, i.role) then
    return 'insufficient_role';
  end if;
  update auth.organization_invitations x set revoked_at = clock_timestamp() where x.id = i.id;
  perform auth.record_event('organization_invitation_revoked', 'info', true, null, organization_id,
                            correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                            details => jsonb_build_object('invitation_id', i.id, 'role', i.role));
  return 'revoked';
end
$$;
comment on function auth.revoke_invitation is 'Takes back an open invitation of the active organization. ''revoked'', or invitation_not_found, insufficient_role (an administrator takes back invitations of members only), not_found, not_active.';

create function auth.accept_invitation(
  token_proof bytea, ip inet default null, user_agent text default null, correlation_id text default null,
  out outcome text, out organization_id uuid, out slug text, out name text, out role text
)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  i auth.organization_invitations;
begin
  if octet_length(token_proof) is distinct from 32 then
    raise exception 'token_proof must be 32 bytes' using errcode = 'invalid_parameter_value',
      hint = 'It is the SHA-256 of the token.';
  end if;
  outcome := 'invitation_not_found';
  select x.* into i from auth.organization_invitations x where x.token_verifier = sha256(token_proof);
  if not found then
    return;
  end if;
  -- The organization, then the user, and what is true now: neither has the invitation gone, nor been used twice, nor its
  -- sender been removed, nor the account another address.
  perform from auth.organizations o where o.id = i.organization_id for no key update;
  perform from auth.users u where u.id = caller and u.disabled_at is null for no key update;
  if not found then
    return;
  end if;
  select x.* into i from auth.organization_invitations x where x.id = i.id for no key update;
  if not found or not auth.invitation_is_open(i) then
    return;
  end if;
  if not exists (select from auth.users u where u.id = caller and lower(u.email collate "C") = lower(i.email collate "C")) then
    outcome := 'wrong_address';
    return;
  end if;
  update auth.organization_invitations x set accepted_at = clock_timestamp() where x.id = i.id;
  insert into auth.organization_members as m (organization_id, user_id, role) values (i.organization_id, caller, i.role)
  on conflict do nothing returning m.role into role;
  if role is null then
    outcome := 'already_member';
    return;
  end if;
  organization_id := i.organization_id;
  select o.slug, o.name into slug, name from auth.organizations o where o.id = i.organization_id;
  perform auth.record_event('organization_invitation_accepted', 'info', true, caller, i.organization_id,
                            correlation_id => correlation_id, ip => ip, user_agent => user_agent,
                            details => jsonb_build_object('invitation_id', i.id));
  perform auth.record_event('user_role_created', 'info', true, caller, i.organization_id, correlation_id => correlation_id,
                            ip => ip, user_agent => user_agent,
                            details => jsonb_build_object('role', i.role, 'invited_by', i.invited_by));
  outcome := 'accepted';
end
$$;
comment on function auth.accept_invitation is 'Makes the proved session''s user a member by the token of a mail to the user''s own address. Outcome accepted, wrong_address (the token is good, but was sent to somebody else), already_member or invitation_not_found (unknown, used, revoked, expired, or its sender may not invite any more). The session goes on acting for what it acted for: auth.switch_organization.';
