-- Users of the application who watch over all of it: whom a DBA (auth_admin) appointed. What an operator sees and ends, the
-- service does for them with its own role, and only in a transaction in which their session was proved; so a service that
-- was broken into gains nothing by it while no operator's access token is at hand.

create function auth.appoint_operator(user_id uuid, correlation_id text default null) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  is_new boolean;
begin
  perform auth.require_primary();
  if user_id is null then
    raise exception 'user_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select id from auth.users where email = ''ada@example.org'' tells it.';
  end if;
  perform from auth.users u where u.id = appoint_operator.user_id for no key update;
  if not found then
    raise exception 'there is no user %', user_id using errcode = 'invalid_parameter_value',
      hint = 'select id from auth.users where email = ''ada@example.org'' tells it.';
  end if;
  insert into auth.operators (user_id, appointed_by) values (user_id, auth.calling_role())
  on conflict on constraint operators_pkey do nothing;
  is_new := found;
  if is_new then
    perform auth.record_event('operator_appointed', 'warning', true, user_id, correlation_id => correlation_id);
  end if;
  return is_new;
end
$$;
comment on function auth.appoint_operator is 'Makes a user an operator: one who sees the sessions and events of all organizations on the dashboard, and ends sessions of all; true when they were none before. Counts at once, also for sessions that are open. For auth_admin.';

create function auth.dismiss_operator(user_id uuid, correlation_id text default null) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  was_one boolean;
begin
  perform auth.require_primary();
  if user_id is null then
    raise exception 'user_id must not be null' using errcode = 'null_value_not_allowed',
      hint = 'select user_id from auth.operators tells who they are.';
  end if;
  perform from auth.users u where u.id = dismiss_operator.user_id for no key update;
  delete from auth.operators o where o.user_id = dismiss_operator.user_id;
  was_one := found;
  if was_one then
    perform auth.record_event('operator_dismissed', 'warning', true, user_id, correlation_id => correlation_id);
  end if;
  return was_one;
end
$$;
comment on function auth.dismiss_operator is 'Ends that a user is an operator; true when they were one. Counts from the next statement on, and ends no session: for that, auth.revoke_session_family. For auth_admin.';

-- Asked anew at each call, as auth.current_roles. Not for personal access tokens: those are for programs, of one
-- organization. The session is looked at again, so that one that was ended while its request runs sees nothing more.
create function auth.current_user_is_operator() returns boolean
  language plpgsql stable parallel restricted security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  return auth.session_is_live() and exists (select from auth.operators o where o.user_id = auth.current_user_id());
end
$$;
comment on function auth.current_user_is_operator is 'Whether the proved session lives and its user is an operator (auth.appoint_operator); false for a personal access token and for nobody.';
