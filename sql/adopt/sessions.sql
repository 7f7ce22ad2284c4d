-- Current tokens become sessions, and all tokens that somebody may still show become rows of auth.adopted_tokens.

-- Null for what is no address. An IPv4 address in IPv6's clothes is the IPv4 address, as everywhere here.
create function auth_adoption.as_network(address text) returns cidr
  language plpgsql immutable
  as $$
declare
  ip inet;
begin
  ip := btrim(address)::inet;
  if ip << '::ffff:0:0/96' then
    -- Its last 32 bits.
    ip := '0.0.0.0'::inet + (set_masklen(ip, 128) - '::ffff:0:0'::inet);
  end if;
  return auth.network_of(ip);
exception when data_exception then
  return null;
end
$$;

-- Names come from the service, which parses user agents: see name_devices.
create function auth_adoption.list_devices() returns void
  language plpgsql
  as $$
begin
  execute format(
    'insert into auth_adoption.devices (user_agent)
     select distinct auth.cut_user_agent(%s) from %s o join auth_adoption.old_rows r on r.old_id = o.%I::text
      where r.outcome = ''current'' and %1$s is not null',
    auth_adoption.expression('sessions', 'user_agent', 'text'), auth_adoption.source('sessions'), auth_adoption.mapped('sessions', 'id'));
  update auth_adoption.steps s set total = (select count(*) from auth_adoption.devices) where s.step = 'devices';
end
$$;

create function auth_adoption.read_devices(batch_size int) returns setof text
  language sql stable
  begin atomic
    select d.user_agent from auth_adoption.devices d join auth_adoption.steps s on s.step = 'devices'
     where s.last_key is null or d.user_agent > s.last_key
     order by d.user_agent limit batch_size;
  end;

create function auth_adoption.name_devices(user_agents text[], hashes bytea[], names text[], is_last boolean) returns auth_adoption.steps
  language plpgsql
  as $$
begin
  update auth_adoption.devices d set device_hash = n.hash, device_name = n.name
    from unnest(user_agents, hashes, names) n (user_agent, hash, name) where n.user_agent = d.user_agent;
  return auth_adoption.advance('devices', cardinality(user_agents), user_agents[cardinality(user_agents)], is_last);
end
$$;

-- created_at and auth_time are when the family began. A token keeps the life that it was promised; what the session is
-- renewed to after that is this system's to say, up to session_max_age from now on: nobody is logged out for having
-- logged in long ago.
create function auth_adoption.sessions_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  id text := auth_adoption.mapped('sessions', 'id');
  progress auth_adoption.steps := (select s from auth_adoption.steps s where s.step = 'sessions');
  ip text := auth_adoption.expression('sessions', 'ip', 'text');
begin
  execute format(
    $q$
    with taken as materialized (
      select r.*, o.address, auth_adoption.as_network(o.address) as network, o.agent, o.called,
             coalesce(o.used, o.created) as used,
             o.created is null as lacks_created, o.created > $3 as is_of_the_future,
             least($3 + auth.setting('session_max_age')::interval, o.ends) as absolute_end
        from auth_adoption.old_rows r
        join (select o.%1$I as id, nullif(btrim(%2$s), '') as address, auth.cut_user_agent(%3$s) as agent,
                     nullif(left(btrim(regexp_replace(%4$s, '[[:cntrl:]]+', ' ', 'g')), 200), '') as called,
                     %5$s as used, %6$s as created, %7$s as ends
                from %8$s o) o on o.id = r.old_id::%9$s
       where r.n > $1 and r.n <= $1 + $2 and r.outcome = 'current'),
    opened as (
      insert into auth.sessions
        (id, family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key, device_hash, device_name,
         user_agent, last_ip_cidr, last_used_at, idle_expires_at, token_verifier)
      select t.session_id, t.family_id, t.user_id, t.auth_time, t.auth_time, t.absolute_end,
             auth.setting('refresh_idle_ttl')::interval, $4, auth.random_bytes(32), d.device_hash, coalesce(t.called, d.device_name),
             t.agent, t.network, greatest(least(coalesce(t.used, t.auth_time), $3), t.auth_time),
             least(coalesce(t.expires_at, $3 + auth.setting('refresh_idle_ttl')::interval), t.absolute_end), t.token_verifier
        from taken t left join auth_adoption.devices d on d.user_agent = t.agent)
    insert into auth_adoption.problems (source, old_id, problem, detail, outcome)
    select 'sessions', t.old_id, p.problem, p.detail, 'mended'
      from taken t, lateral (values
        ('malformed_address', left(t.address, 100), t.address is not null and t.network is null),
        ('no_created_at', 'taken for an authentication of long ago', t.lacks_created),
        ('created_in_the_future', 'taken for now', t.is_of_the_future),
        ('no_expires_at', 'given the idle time of a new session', t.expires_at is null)) p (problem, detail, applies)
     where p.applies
    $q$,
    id, ip, auth_adoption.expression('sessions', 'user_agent', 'text'), auth_adoption.expression('sessions', 'device_name', 'text'),
    auth_adoption.expression('sessions', 'last_used_at', 'time'), auth_adoption.expression('sessions', 'created_at', 'time'),
    auth_adoption.expression('sessions', 'absolute_expires_at', 'time'), auth_adoption.source('sessions'),
    auth_adoption.column_type('sessions', id))
    using progress.done, batch_size, a.clock, array(select jsonb_array_elements_text(a.mapping -> 'sessions' -> 'amr'));
  return auth_adoption.advance('sessions', least(batch_size, progress.total - progress.done), null, progress.done + batch_size >= progress.total);
end
$$;

create function auth_adoption.old_tokens_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  progress auth_adoption.steps := (select s from auth_adoption.steps s where s.step = 'old tokens');
begin
  insert into auth.adopted_tokens (token_verifier, session_id, is_current)
  select r.token_verifier, r.session_id, r.outcome = 'current'
    from auth_adoption.old_rows r
   where r.n > progress.done and r.n <= progress.done + batch_size and r.outcome in ('current', 'consumed');
  return auth_adoption.advance('old tokens', least(batch_size, progress.total - progress.done), null, progress.done + batch_size >= progress.total);
end
$$;
