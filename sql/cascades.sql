-- What any SQL at all must bring about that changes an account or a membership, in its own transaction: sessions and
-- tokens end, with their audit rows and notifications. So these are triggers, which fire for a superuser, for COPY and for
-- what a foreign key cascades, like for the functions of this extension. row_security = on, because a session may have it
-- off, and then the owner, bound by FORCE, could not work.
--
-- What they do not see: session_replication_role = replica and ALTER TABLE … DISABLE TRIGGER switch off triggers and
-- foreign keys alike, for superusers and owners. Whoever uses them does by hand what is here.

create function auth.count_verifier_version() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  new.verifier_version := old.verifier_version + 1;
  return new;
end
$$;
comment on function auth.count_verifier_version is 'Trigger: a login begun with the old verifier is told to start again.';

create trigger users_verifier_version before update on auth.users
  for each row when (new.password_verifier is distinct from old.password_verifier)
  execute function auth.count_verifier_version();

create function auth.end_sessions_of_changed_user() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on
  as $$
begin
  if (new.disabled_at is null) <> (old.disabled_at is null) then
    perform auth.record_event(case when new.disabled_at is null then 'user_enabled' else 'user_disabled' end, 'warning', true, new.id);
  end if;
  if new.disabled_at is not null and old.disabled_at is null then
    perform auth.revoke_live_sessions(new.id, reason => 'user_disabled', severity => 'warning');
    perform auth.end_personal_access_tokens(new.id, 'user_disabled');
    delete from auth.one_time_tokens t where t.user_id = new.id;
  end if;
  if new.password_verifier is distinct from old.password_verifier
     and new.verifier_renewed_at is not distinct from old.verifier_renewed_at then
    perform auth.record_event('user_password_changed', 'info', true, new.id);
    -- The session that changes it, by auth.change_password, goes on; no other SQL has a proved session.
    perform auth.revoke_live_sessions(new.id, reason => 'password_changed',
                                      but_not => case when auth.current_user_id() = new.id then auth.current_session_id() end);
    perform auth.end_personal_access_tokens(new.id, 'password_changed');
    delete from auth.one_time_tokens t where t.user_id = new.id and t.purpose = 'reset_password';
  end if;
  return null;
end
$$;
comment on function auth.end_sessions_of_changed_user is 'Trigger: disabling a user or changing a password ends the sessions, the personal access tokens and the links that were mailed for a reset; renewing a verifier at login does not.';

create trigger users_end_sessions after update on auth.users
  for each row when (new.disabled_at is distinct from old.disabled_at
                     or new.password_verifier is distinct from old.password_verifier)
  execute function auth.end_sessions_of_changed_user();

-- Before the foreign keys take the rows away: what ended is to be told, and the log outlives its user. The row is
-- locked already, so no session of it can be opened any more.
create function auth.end_sessions_of_deleted_user() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on
  as $$
begin
  perform auth.revoke_live_sessions(old.id, reason => 'user_deleted', severity => 'warning');
  perform auth.end_personal_access_tokens(old.id, 'user_deleted');
  perform auth.record_event('user_deleted', 'warning', true, old.id);
  return old;
end
$$;
comment on function auth.end_sessions_of_deleted_user is 'Trigger: the sessions and tokens of a user who is deleted end with their audit rows and notifications, before they are deleted too.';

create trigger users_end_sessions_of_deleted before delete on auth.users
  for each row execute function auth.end_sessions_of_deleted_user();

create function auth.end_sessions_of_removed_member() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on
  as $$
begin
  perform auth.revoke_live_sessions(old.user_id, of_organization => old.organization_id, reason => 'membership_removed');
  perform auth.end_personal_access_tokens(old.user_id, 'membership_removed', of_organization => old.organization_id);
  return null;
end
$$;
comment on function auth.end_sessions_of_removed_member is 'Trigger: a session or personal access token that acts for an organization ends with the membership.';

create trigger organization_members_end_sessions after delete on auth.organization_members
  for each row execute function auth.end_sessions_of_removed_member();
create trigger organization_members_end_sessions_of_moved after update on auth.organization_members
  for each row when ((new.organization_id, new.user_id) is distinct from (old.organization_id, old.user_id))
  execute function auth.end_sessions_of_removed_member();

create function auth.record_changed_member() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on
  as $$
begin
  -- A function that acts for somebody writes its own row, with the request's id.
  if auth.current_user_id() is null then
    if tg_op = 'DELETE' then
      perform auth.record_event('user_role_removed', 'info', true, old.user_id, old.organization_id,
                                details => jsonb_build_object('role', old.role));
    else
      perform auth.record_event('user_role_changed', 'info', true, new.user_id, new.organization_id,
                                details => jsonb_build_object('from', old.role, 'to', new.role));
    end if;
  end if;
  -- No function leaves an organization without an owner; SQL by hand may (the owner's account is deleted), and whoever
  -- is on call should know.
  if old.role = 'ORGANIZATION_OWNER'
     and exists (select from auth.organizations o where o.id = old.organization_id)
     and not exists (select from auth.organization_members m
                      where m.organization_id = old.organization_id and m.role = 'ORGANIZATION_OWNER') then
    perform auth.record_event('organization_without_owner', 'warning', true, old.user_id, old.organization_id);
  end if;
  return null;
end
$$;
comment on function auth.record_changed_member is 'Trigger: a role that is changed or taken away by SQL has its audit row, and so has an organization that lost its last owner by it.';

create trigger organization_members_record_change after update on auth.organization_members
  for each row when (new.* is distinct from old.*) execute function auth.record_changed_member();
create trigger organization_members_record_removal after delete on auth.organization_members
  for each row execute function auth.record_changed_member();

create function auth.record_deleted_organization() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on
  as $$
begin
  perform auth.record_event('organization_deleted', 'warning', true, organization_id => old.id,
                            details => jsonb_build_object('slug', old.slug));
  return null;
end
$$;
comment on function auth.record_deleted_organization is 'Trigger: an organization that is deleted has its audit row; what its members lose by it, theirs.';

create trigger organizations_record_deletion after delete on auth.organizations
  for each row execute function auth.record_deleted_organization();

create function auth.refuse_truncate() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  raise exception 'TRUNCATE of %.% is not allowed: it would end no session and leave no trace', tg_table_schema, tg_table_name
    using errcode = 'feature_not_supported', hint = 'DELETE does what it must: the sessions and tokens end, and the log says so.';
end
$$;
comment on function auth.refuse_truncate is 'Trigger: refuses TRUNCATE of memberships, and so of users and organizations: rows must not go without what their going brings about.';

-- TRUNCATE of users or organizations has to cascade to this one, and is refused with it.
create trigger organization_members_no_truncate before truncate on auth.organization_members
  for each statement execute function auth.refuse_truncate();
