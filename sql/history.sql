-- The story of a session or a user, in order, from the audit log.

-- How much of a user's story the caller is told: all of it, or what happened in the name of one organization.
create function auth.history_reach(of_user uuid, out whole boolean, out of_organization uuid)
  language plpgsql volatile parallel unsafe
  as $$
declare
  caller uuid;
begin
  whole := pg_has_role(auth.calling_role(), 'auth_monitor', 'usage') or pg_has_role(auth.calling_role(), 'auth_admin', 'usage');
  if not whole then
    caller := auth.require_identity('security_events:read');
    whole := caller is not distinct from of_user or auth.current_user_is_operator();
  end if;
  -- As with sessions: owners see everybody's, administrators that of whom they manage.
  if not whole and auth.role_manages(auth.role_of(auth.current_organization_id(), caller),
                                     auth.role_of(auth.current_organization_id(), of_user)) then
    of_organization := auth.current_organization_id();
  end if;
end
$$;
comment on function auth.history_reach is 'Internal. What the caller may be told of a user''s story: whole (auth_monitor, auth_admin, an operator, the user), or of_organization, the active one, where the caller manages the user; neither for a stranger.';

-- An organization is told nothing of others, and so not which other sessions ended together with one.
create function auth.tell_event(event auth.audit_log, template text, extent text) returns auth.history_event
  language plpgsql stable parallel safe
  as $$
declare
  told auth.history_event;
begin
  told.details := case extent
    when 'whole' then event.details
    when 'organization' then event.details
      - case when event.action = 'session_organization_switched' then array['from'] else '{}' end
      - case when jsonb_array_length(event.details -> 'sessions') > 1 then array['sessions'] else '{}' end
    when 'end' then jsonb_build_object('reason', event.details -> 'reason') end;
  told.at := event.created_at;
  told.action := event.action;
  told.summary := auth.event_summary(coalesce(template, replace(event.action, '_', ' ')),
                                     told.details);
  told.severity := event.severity;
  told.success := event.success;
  told.session_id := event.session_id;
  told.family_id := event.family_id;
  if extent <> 'end' then
    told.actor_id := event.actor_user_id;
    told.network := event.ip_cidr;
    told.user_agent := event.user_agent;
    told.correlation_id := event.correlation_id;
    told.actor := event.actor;
  end if;
  return told;
end
$$;
comment on function auth.tell_event is 'Internal. A row of the audit log as it is told: whole; to an organization; or (end) only that and why a session ended.';

create function auth.session_history(
  session_id uuid, from_time timestamptz default '-infinity', to_time timestamptz default 'infinity'
) returns setof auth.history_event
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  owner_id uuid;
  acts_for uuid;
  began timestamptz;
  reach record;
begin
  if session_id is null then
    raise exception 'session_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'auth.active_sessions and auth.security_events tell ids of sessions.';
  end if;
  perform auth.require_span(from_time, to_time);
  select s.user_id, s.organization_id, s.created_at into owner_id, acts_for, began
    from auth.sessions s where s.id = session_history.session_id;
  if owner_id is null then
    -- It was cleaned away; the log still knows whose it was, and for which organization it acted last.
    select a.user_id, a.created_at into owner_id, began from auth.audit_log a
     where a.session_id = session_history.session_id and a.user_id is not null order by a.created_at limit 1;
    select a.organization_id into acts_for from auth.audit_log a
     where a.session_id = session_history.session_id and a.user_id = owner_id order by a.created_at desc limit 1;
  end if;
  select r.* into reach from auth.history_reach(owner_id) r;
  if not reach.whole and reach.of_organization is null then
    return;
  end if;
  -- Months that were over before it began are passed over.
  began := greatest(began, from_time);
  return query
    select told.*
      from (
        select a, case when reach.whole then 'whole' else 'organization' end as extent
          from auth.audit_log a
         -- Whose session it is: in one transaction two people may have acted, and the one is not told of the other.
         where a.session_id = session_history.session_id and a.user_id = owner_id
           and a.created_at >= began and a.created_at < to_time
           and (reach.whole or a.organization_id = reach.of_organization)
        union all
        -- What ended several at once has one row, of none of them. (Written so that the index of the user's events is used.)
        select a, case when reach.whole then 'whole' when a.organization_id = reach.of_organization then 'organization' else 'end' end
          from auth.audit_log a
         where a.user_id = owner_id and a.action not in ('token_refreshed', 'token_retry_served') and a.session_id is null
           and a.details -> 'sessions' ? session_history.session_id::text
           and a.created_at >= began and a.created_at < to_time
           and (reach.whole or acts_for = reach.of_organization)
      ) e
      left join auth.audit_event_types t on t.action = (e.a).action
      cross join lateral auth.tell_event(e.a, t.summary, e.extent) told
     order by (e.a).created_at, (e.a).id;
end
$$;
comment on function auth.session_history is 'What happened to a session, in order: opened, refreshes where they are logged, replays, refusals, and how it ended; by whom and from which network. Also of a session that was cleaned away, as long as the audit log goes back. All of it for auth_monitor, auth_admin, an operator and the session''s user; for an organization''s owner, or an administrator who manages the user, what happened in the name of the active organization. No row for a stranger, as for a session that does not exist.';

create function auth.user_history(
  user_id uuid, from_time timestamptz default '-infinity', to_time timestamptz default 'infinity'
) returns setof auth.history_event
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  reach record;
begin
  if user_id is null then
    raise exception 'user_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select id from auth.users where email = ''ada@example.org'' tells it.';
  end if;
  perform auth.require_span(from_time, to_time);
  select r.* into reach from auth.history_reach(user_id) r;
  if not reach.whole and reach.of_organization is null then
    return;
  end if;
  return query
    select told.*
      from auth.audit_log a
      left join auth.audit_event_types t on t.action = a.action
      cross join lateral auth.tell_event(a, t.summary, case when reach.whole then 'whole' else 'organization' end) told
     -- The refreshes are the sessions' own story, and many.
     where a.user_id = user_history.user_id and a.action not in ('token_refreshed', 'token_retry_served')
       and a.created_at >= from_time and a.created_at < to_time
       and (reach.whole or a.organization_id = reach.of_organization)
     order by a.created_at, a.id;
end
$$;
comment on function auth.user_history is 'What happened to a user''s account and sessions, in order, without plain refreshes; to whom as auth.session_history. Of a deleted user, too, as long as the audit log goes back.';

create function auth.require_span(from_time timestamptz, to_time timestamptz) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if from_time is null or to_time is null then
    raise exception 'from_time and to_time must not be null' using errcode = 'null_value_not_allowed',
      hint = 'Leave them out for all of the time.';
  end if;
  if from_time > to_time then
    raise exception 'from_time is after to_time' using errcode = 'invalid_parameter_value', hint = 'Give the earlier one first.';
  end if;
end
$$;
comment on function auth.require_span is 'Internal. Refuses what is no stretch of time.';
