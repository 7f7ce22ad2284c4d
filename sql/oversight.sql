-- What the dashboard shows, and ends. Everything is within the reach of the proved session's user: of an operator all, or
-- one organization; of an owner the active organization; of an administrator whom they manage in it, and themself. To
-- others each list is empty, like that of an organization with nothing in it. Never for personal access tokens.
--
-- Organizations are told what happened in their name. What belongs to none (a failed login, a lock-out) they are told of
-- those whom they manage, without the network and the user agent: that may be an attacker's, or a user's other life.
--
-- Each call is planned for its own arguments (plan_cache_mode): a condition that does not apply is gone before the plan is
-- chosen.

create function auth.oversight_reach(of_organization uuid, out extent text, out organization_id uuid)
  language plpgsql volatile parallel unsafe
  as $$
declare
  caller uuid := auth.require_identity();
begin
  if auth.current_user_is_operator() then
    organization_id := of_organization;
    extent := case when of_organization is null then 'all' else 'organization' end;
    return;
  end if;
  organization_id := auth.current_organization_id();
  if of_organization is null or of_organization = organization_id then
    extent := case auth.role_of(organization_id, caller)
      when 'ORGANIZATION_OWNER' then 'organization'
      when 'ORGANIZATION_ADMIN' then 'members' end;
  end if;
end
$$;
comment on function auth.oversight_reach is 'Internal. What the proved session oversees: all, an organization, or (of it) the members whom an administrator manages; null: nothing.';

create function auth.oversight(of_organization uuid default null)
  returns table (is_operator boolean, extent text, organization_id uuid, organization_slug text, organization_name text)
  language plpgsql volatile parallel unsafe security definer rows 1 set search_path = pg_catalog, pg_temp
  as $$
begin
  select r.extent, r.organization_id into extent, organization_id from auth.oversight_reach(of_organization) r;
  is_operator := auth.current_user_is_operator();
  select o.slug, o.name into organization_slug, organization_name from auth.organizations o where o.id = oversight.organization_id;
  if extent = 'all' or (extent is not null and organization_slug is not null) then
    return next;
  end if;
end
$$;
comment on function auth.oversight is 'What the proved session oversees: extent all (an operator), organization (its owner, or an operator who asks for it) or members (an administrator: whom they manage). No row: nothing.';

-- Whether a user is within an extent of an organization.
create function auth.is_overseen(extent text, organization_id uuid, user_id uuid) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
begin
  return case extent
    when 'all' then true
    when 'organization' then auth.role_of(organization_id, user_id) is not null
    when 'members' then user_id = auth.current_user_id() or auth.role_of(organization_id, user_id) = 'ORGANIZATION_MEMBER'
    else false end;
end
$$;
comment on function auth.is_overseen is 'Internal. Whether a user belongs to those of an auth.oversight_reach.';

create function auth.oversee_figures(of_organization uuid default null)
  returns table (counted_at timestamptz, live_sessions bigint, live_families bigint, used_in_last_hour bigint,
                 opened_in_last_day bigint, ended_in_last_day bigint, failed_in_last_day bigint, replays_in_last_day bigint)
  language plpgsql volatile parallel unsafe security definer rows 1
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  caller uuid := auth.require_identity();
  reach record;
begin
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return;
  end if;
  if reach.extent = 'all' then
    select s.taken_at, s.live_sessions, s.live_families, s.used_in_last_hour
      into counted_at, live_sessions, live_families, used_in_last_hour
      from auth.samples s where s.taken_at > clock - interval '20 minutes' order by s.taken_at desc limit 1;
  end if;
  if counted_at is null then
    counted_at := clock;
    select count(*), count(distinct s.family_id), count(*) filter (where s.last_used_at > clock - interval '1 hour')
      into live_sessions, live_families, used_in_last_hour
      from auth.sessions s
     where s.revoked_at is null and s.idle_expires_at > clock and s.expires_at > clock
       and (reach.extent = 'all' or s.organization_id = reach.organization_id)
       and (reach.extent <> 'members' or s.user_id = caller or s.user_id in (
              select m.user_id from auth.organization_members m
               where m.organization_id = reach.organization_id and m.role = 'ORGANIZATION_MEMBER'));
  end if;
  select coalesce(sum(a.opened), 0), coalesce(sum(a.ended), 0), coalesce(sum(a.failed_logins), 0), coalesce(sum(a.replays), 0)
    into opened_in_last_day, ended_in_last_day, failed_in_last_day, replays_in_last_day
    from auth.oversee_activity(of_organization, clock - interval '1 day', interval '1 hour') a;
  return next;
end
$$;
comment on function auth.oversee_figures is 'One row: how many sessions live, of how many families, and were used in the last hour (of everything: as the newest sample counted them, or, without one, by reading all of auth.sessions), and what happened in the last day (in whole hours).';

-- Of everything: from auth.samples, and the log since the last of them (of at most a day). Of an organization: from its
-- rows of the log, by their index.
create function auth.oversee_activity(of_organization uuid, from_time timestamptz, step interval)
  returns table (since timestamptz, opened bigint, ended bigint, failed_logins bigint, lockouts bigint, replays bigint,
                 refreshed bigint, refused bigint, live_sessions bigint, live_families bigint, bytes bigint)
  language plpgsql volatile parallel unsafe security definer rows 100
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  origin constant timestamptz := '2000-01-01 00:00:00+00';
  clock constant timestamptz := clock_timestamp();
  began timestamptz;
  sampled timestamptz;
  caller uuid := auth.require_identity();
  reach record;
begin
  if from_time is null or step is null then
    raise exception 'from_time and step must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: select * from auth.oversee_activity(null, now() - interval ''1 day'', ''1 hour'');';
  end if;
  if step not between interval '15 minutes' and interval '7 days' or extract(month from step) <> 0
     or from_time > clock or from_time < clock - 200 * step or from_time < clock - interval '100 days' then
    raise exception 'step must be between 15 minutes and 7 days, and from_time at most 200 steps, or 100 days, ago'
      using errcode = 'invalid_parameter_value', hint = 'Samples are taken every quarter of an hour, and kept for 100 days.';
  end if;
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return;
  end if;
  began := date_bin(step, from_time, origin);
  select max(s.taken_at) into sampled from auth.samples s where reach.extent = 'all';
  return query
    with sample as (
      select s.*, (s.stats_reset is distinct from lag(s.stats_reset) over w) as is_first,
             lag(s.rotated + s.retried) over w as refreshed_before, lag(s.refused) over w as refused_before
        from auth.samples s where reach.extent = 'all' and s.taken_at >= began - interval '1 day'
      window w as (order by s.taken_at)),
    event as (
      select a.created_at, a.action
        from auth.audit_log a
       where reach.extent = 'all' and a.created_at >= greatest(began, sampled, clock - interval '1 day') and a.created_at < clock
      union all
      select a.created_at, a.action
        from auth.audit_log a
       where reach.extent <> 'all' and a.organization_id = reach.organization_id and a.created_at >= began
         and a.action not in ('token_refreshed', 'token_retry_served')
         and (reach.extent <> 'members' or a.user_id = caller or a.user_id in (
                select m.user_id from auth.organization_members m
                 where m.organization_id = reach.organization_id and m.role = 'ORGANIZATION_MEMBER'))
      union all
      select a.created_at, a.action
        from auth.organization_members m join auth.audit_log a on a.user_id = m.user_id
       where reach.extent <> 'all' and m.organization_id = reach.organization_id
         and (reach.extent <> 'members' or m.user_id = caller or m.role = 'ORGANIZATION_MEMBER')
         and a.created_at >= began and a.organization_id is null
         and a.action in ('user_login_failed', 'user_account_locked')
         and a.action not in ('token_refreshed', 'token_retry_served')),
    told as (
      -- A sample is of the time before it.
      select date_bin(step, s.taken_at - interval '1 microsecond', origin) as at, s.opened, s.ended, s.failed_logins, s.lockouts, s.replays,
             case when s.is_first then null else s.rotated + s.retried - s.refreshed_before end as refreshed,
             case when s.is_first then null else s.refused - s.refused_before end as refused,
             s.live_sessions, s.live_families, s.session_bytes + s.audit_bytes as bytes, s.taken_at
        from sample s
       where s.taken_at > began
      union all
      select date_bin(step, e.created_at, origin), (e.action = 'auth_session_created')::int,
             (e.action in ('session_revoked', 'session_family_revoked', 'user_logged_out'))::int,
             (e.action = 'user_login_failed')::int, (e.action = 'user_account_locked')::int,
             (e.action = 'token_replay_detected')::int, null, null, null, null, null, null
        from event e)
    select b.since, coalesce(sum(t.opened), 0)::bigint, coalesce(sum(t.ended), 0)::bigint, coalesce(sum(t.failed_logins), 0)::bigint,
           coalesce(sum(t.lockouts), 0)::bigint, coalesce(sum(t.replays), 0)::bigint,
           sum(t.refreshed)::bigint, sum(t.refused)::bigint,
           (array_agg(t.live_sessions order by t.taken_at desc) filter (where t.live_sessions is not null))[1],
           (array_agg(t.live_families order by t.taken_at desc) filter (where t.live_families is not null))[1],
           (array_agg(t.bytes order by t.taken_at desc) filter (where t.bytes is not null))[1]
      from generate_series(began, clock, step) b (since)
      left join told t on t.at = b.since
     group by b.since order by b.since;
end
$$;
comment on function auth.oversee_activity is 'What happened from a time on, in steps: sessions opened and ended, failed logins, lock-outs and replays (audit rows: bursts of failures are aggregated); and of everything also refreshes that were answered and refused, live sessions and families, and bytes of sessions and log, as auth.samples has them (null: no sample, or nobody counts).';

create function auth.oversee_incidents(
  of_organization uuid default null, page_size int default 50, after_time timestamptz default null, after_id bigint default null
) returns table (id bigint, detected_at timestamptz, session_id uuid, family_id uuid, user_id uuid, email text, name text,
                 organization_id uuid, organization_slug text, presented_generation int, current_generation int,
                 presented_from text, last_used_from text, presented_by text, device_name text)
  language plpgsql volatile parallel unsafe security definer rows 50
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  caller uuid := auth.require_identity();
  reach record;
begin
  perform auth.require_page(page_size, after_time, case when after_id is not null then gen_random_uuid() end);
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return;
  end if;
  return query
    select a.id, a.created_at, a.session_id, a.family_id, a.user_id, u.email, u.name, a.organization_id, o.slug,
           (a.details ->> 'presented_generation')::int, (a.details ->> 'current_generation')::int,
           a.ip_cidr::text, s.last_ip_cidr::text, a.user_agent, s.device_name
      from (select x.* from auth.audit_log x
             where x.action = 'token_replay_detected' and x.action not in ('token_refreshed', 'token_retry_served')
               and (reach.extent = 'all' or x.organization_id = reach.organization_id)
               and (reach.extent <> 'members' or x.user_id = caller or x.user_id in (
                      select m.user_id from auth.organization_members m
                       where m.organization_id = reach.organization_id and m.role = 'ORGANIZATION_MEMBER'))
               and (after_id is null or (x.created_at <= after_time and (x.created_at, x.id) < (after_time, after_id)))
             order by x.created_at desc, x.id desc limit page_size) a
      left join auth.sessions s on s.id = a.session_id
      left join auth.users u on u.id = a.user_id
      left join auth.organizations o on o.id = a.organization_id
     order by a.created_at desc, a.id desc;
end
$$;
comment on function auth.oversee_incidents is 'A page of the replays, the newest first: which old generation was presented, from where, with what, and where the session was last used from. auth.session_history tells the rest.';

create function auth.oversee_lockouts(of_organization uuid default null, page_size int default 50)
  returns table (locked_at timestamptz, user_id uuid, email text, name text, failures int, locked_until timestamptz,
                 is_locked boolean, network text, user_agent text)
  language plpgsql volatile parallel unsafe security definer rows 50
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  reach record;
begin
  perform auth.require_page(page_size, null, null);
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return;
  end if;
  return query
    with lockout as (
      select a.created_at, a.user_id, (a.details ->> 'failures')::int as failures,
             a.created_at + (a.details ->> 'locked_for')::interval as until, a.ip_cidr, a.user_agent
        from auth.audit_log a
       where a.action = 'user_account_locked' and a.created_at > clock - interval '1 day'
         and (reach.extent = 'all' or auth.is_overseen(reach.extent, reach.organization_id, a.user_id))
       order by a.created_at desc limit page_size)
    select l.created_at, l.user_id, u.email, u.name, l.failures, l.until,
           l.until > clock and not exists (
             select from auth.audit_log x
              where x.user_id = l.user_id and x.created_at > l.created_at and x.action = 'user_account_unlocked'
                and x.action not in ('token_refreshed', 'token_retry_served')),
           case when reach.extent = 'all' then l.ip_cidr::text end, case when reach.extent = 'all' then l.user_agent end
      from lockout l left join auth.users u on u.id = l.user_id
     order by l.created_at desc;
end
$$;
comment on function auth.oversee_lockouts is 'Whose logins were locked in the last day, the newest first, and whether they still are. Without a user: an address that has no account. Network and user agent only of everything, not of an organization.';

-- Whether there is anything new, at little cost: for who waits for it. Logins and lock-outs of no organization are not
-- counted for one.
create function auth.oversee_news(of_organization uuid, since timestamptz) returns bigint
  language plpgsql volatile parallel unsafe security definer
  set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  as $$
declare
  began constant timestamptz := greatest(since, clock_timestamp() - interval '1 hour');
  caller uuid := auth.require_identity();
  reach record;
begin
  if since is null then
    raise exception 'since must not be null' using errcode = 'null_value_not_allowed', hint = 'A time of the last hour.';
  end if;
  select r.* into reach from auth.oversight_reach(of_organization) r;
  if reach.extent is null then
    return null;
  end if;
  return (
    select count(*) from auth.audit_log a
     where a.created_at >= began
       and a.action in ('auth_session_created', 'session_revoked', 'session_family_revoked', 'user_logged_out', 'token_replay_detected',
                        'token_ahead_of_database', 'user_account_locked', 'user_account_unlocked')
       and a.action not in ('token_refreshed', 'token_retry_served')
       and (reach.extent = 'all' or a.organization_id = reach.organization_id)
       and (reach.extent <> 'members' or a.user_id = caller or a.user_id in (
              select m.user_id from auth.organization_members m
               where m.organization_id = reach.organization_id and m.role = 'ORGANIZATION_MEMBER')));
end
$$;
comment on function auth.oversee_news is 'How many events of the dashboard''s lists there are since a time (at most an hour); null for who oversees nothing. For live updates: when the number has changed, read again.';

-- Whether what should be done regularly is done; of the whole database, so for operators alone. Cheap: by indexes, and the
-- mail of thirty days.
create function auth.oversee_upkeep() returns table (topic text, is_well boolean, value text, advice text)
  language plpgsql volatile parallel unsafe security definer rows 6 set search_path = pg_catalog, pg_temp
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  retention constant interval := auth.setting('session_retention')::interval;
  oldest timestamptz;
  counted record;
begin
  perform auth.require_identity();
  if not auth.current_user_is_operator() then
    return;
  end if;
  -- Of an expired session the week is known by an index: when all of it is over, and longer ago than the retention.
  select least(
           (select min(s.revoked_at) from auth.sessions s where s.revoked_at is not null),
           (select (s.cleanup_week + 7)::timestamp at time zone 'UTC' from auth.sessions s
             where s.revoked_at is null and s.cleanup_week < ((clock - retention) at time zone 'UTC')::date - 7
             order by s.cleanup_week limit 1))
    into oldest;
  topic := 'cleaning';
  is_well := oldest is null or oldest > clock - retention - interval '1 day';
  value := case when oldest is null then 'nothing is left lying' else 'the oldest ended session ended ' || date_trunc('minute', clock - oldest) || ' ago' end;
  advice := 'Sessions are kept for ' || retention || ' after their end. Much older: nobody cleans, or it does not keep up (sql/dba/tune.md).';
  return next;

  select s.* into counted from auth.read_session_statistics() s;
  topic := 'maintenance';
  is_well := not coalesce(counted.is_counting, false) or coalesce(counted.last_maintenance_at > clock - interval '1 hour', false)
             and coalesce(counted.last_failure_at < clock - interval '1 day', true);
  value := case when not coalesce(counted.is_counting, false) then 'not counted: auth_sessions is not preloaded'
                when counted.last_maintenance_at is null then 'not run since the server started'
                else 'ran ' || date_trunc('second', clock - counted.last_maintenance_at) || ' ago'
                     || coalesce(', last failure ' || counted.last_failure || ' ' || date_trunc('minute', clock - counted.last_failure_at) || ' ago', '') end;
  advice := 'auth.run_maintenance() is for the background worker, pg_cron or the service to call: sql/dba/tune.md. The server''s log has each failure.';
  return next;

  topic := 'audit log';
  select count(*) filter (where c.relname > auth.audit_partition_name(clock) and c.relname ~ '\d$') as ahead into counted
    from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'auth.audit_log'::regclass;
  is_well := counted.ahead > 0;
  value := counted.ahead || ' coming months have a partition';
  advice := 'auth.maintain_audit_partitions() makes three. Until then events go to audit_log_default, and none is lost.';
  return next;

  topic := 'mail';
  select count(*) filter (where m.sent_at is null and m.failed_at is null) as waiting,
         count(*) filter (where m.failed_at > clock - interval '1 day') as given_up,
         min(m.created_at) filter (where m.sent_at is null and m.failed_at is null) as oldest into counted from auth.mail_outbox m;
  is_well := counted.given_up = 0 and coalesce(counted.oldest > clock - interval '15 minutes', true);
  value := counted.waiting || ' waiting, ' || counted.given_up || ' given up in the last day';
  advice := 'auth.mail_queue says what the mail server answered.';
  return next;

  topic := 'samples';
  select max(s.taken_at) as newest into counted from auth.samples s;
  is_well := coalesce(counted.newest > clock - interval '1 hour', false);
  value := coalesce('newest ' || date_trunc('minute', clock - counted.newest) || ' ago', 'none yet');
  advice := 'Taken every quarter of an hour by auth.run_maintenance(); without them the charts of everything are empty.';
  return next;
end
$$;
comment on function auth.oversee_upkeep is 'For operators: whether cleaning, maintenance, months of the audit log, mail and samples are as they should be, and what to do when not. auth.check_installation says more, to a DBA.';
