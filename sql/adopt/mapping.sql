-- The mapping file, checked against the catalogue, and how its columns are read.

-- Where the old table is now. Null when it is gone.
create function auth_adoption.source(section text) returns regclass
  language sql stable
  begin atomic
    select to_regclass(case
      when section = 'users' then a.mapping -> 'users' ->> 'table'
      when a.taken_over_at is null or a.given_back_at is not null then format('%I.%I', a.sessions_schema, a.sessions_table)
      else format('auth_kept.%I', a.sessions_table) end)
      from auth_adoption.adoption a;
  end;

create function auth_adoption.mapped(section text, role text) returns text
  language sql stable
  begin atomic
    select a.mapping -> section -> 'columns' ->> role from auth_adoption.adoption a;
  end;
comment on function auth_adoption.mapped is 'The old column that has this role; null when the mapping names none.';

create function auth_adoption.column_type(section text, column_name text) returns text
  language sql stable
  begin atomic
    select format_type(t.atttypid, t.atttypmod) from pg_attribute t
     where t.attrelid = auth_adoption.source(section) and t.attname = column_name and t.attnum > 0 and not t.attisdropped;
  end;

-- SQL that reads a role of row `o`: as text, as a time, or as the time of something that may be just a yes or no.
create function auth_adoption.expression(section text, role text, reading text) returns text
  language plpgsql stable
  as $$
declare
  column_name text := auth_adoption.mapped(section, role);
  column_type text := auth_adoption.column_type(section, column_name);
  a auth_adoption.adoption;
begin
  if column_name is null then
    return case reading when 'text' then 'null::text' else 'null::timestamptz' end;
  elsif reading = 'text' then
    return format('o.%I::text', column_name);
  end if;
  select x.* into a from auth_adoption.adoption x;
  return case
    when column_type = 'boolean' then format('case when o.%I then %L::timestamptz end', column_name, a.clock)
    when column_type like 'timestamp%without time zone' then format('(o.%I at time zone %L)', column_name, a.mapping -> section ->> 'time_zone')
    else format('o.%I', column_name) end;
end
$$;

create function auth_adoption.as_uuid(old text) returns uuid
  language sql immutable
  return case when old ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then old::uuid end;

-- Refuses a mapping that does not fit, before anything is touched.
create function auth_adoption.require_mapping() returns void
  language plpgsql
  as $$
declare
  m jsonb := (select a.mapping from auth_adoption.adoption a);
  given record;
  found_type text;
  allowed text;
begin
  for given in
    select s.section, c.key as role, c.value as column_name
      from unnest(array['users', 'sessions']) s (section), jsonb_each_text(m -> s.section -> 'columns') c
     where m ? s.section
    union all
    select 'sessions', 'hide', h from jsonb_array_elements_text(m -> 'sessions' -> 'hide') h
  loop
    found_type := auth_adoption.column_type(given.section, given.column_name);
    if found_type is null then
      raise exception 'table % has no column "%"', auth_adoption.source(given.section), given.column_name
        using errcode = 'undefined_column', hint = format('It is named as %s.%s in the mapping file.', given.section, given.role);
    end if;
    allowed := case
      when given.role in ('created_at', 'last_used_at', 'expires_at', 'absolute_expires_at') then '^timestamp'
      when given.role in ('revoked', 'disabled', 'email_verified') then '^(timestamp|boolean)'
      when given.role = 'active' then '^boolean'
      when given.role = 'ip' then '^(character|text|inet|cidr)'
      when given.role = 'token' then '^(character|text|bytea)'
      else '' end;
    if found_type !~ allowed then
      raise exception 'column "%" of % is %, which cannot be read as %', given.column_name,
        auth_adoption.source(given.section), found_type, given.role
        using errcode = 'datatype_mismatch',
              hint = 'Times are timestamp or timestamptz; revoked, disabled and email_verified may be boolean too; a token is text or bytea.';
    end if;
  end loop;
  -- A zone that does not exist is refused here, not half-way.
  perform now() at time zone (x.value ->> 'time_zone') from jsonb_each(m) x;
  perform auth_adoption.require_unique('sessions');
  if m ? 'users' then
    perform auth_adoption.require_unique('users');
  end if;
end
$$;

-- Batches go from id to id: a second row of the same id, or one without, would be lost between them.
create function auth_adoption.require_unique(section text) returns void
  language plpgsql
  as $$
declare
  source regclass := auth_adoption.source(section);
  id text := auth_adoption.mapped(section, 'id');
  is_unique boolean;
begin
  if exists (select from pg_index i join pg_attribute t on t.attrelid = i.indrelid and t.attnum = i.indkey[0]
              where i.indrelid = source and t.attname = id and i.indisunique and i.indnkeyatts = 1 and i.indpred is null
                and t.attnotnull) then
    return;
  end if;
  execute format('select count(*) = count(distinct o.%I) from %s o', id, source) into is_unique;
  if not is_unique then
    raise exception 'column "%" of % is not unique, or null somewhere', id, source
      using errcode = 'unique_violation', hint = 'Name the primary key, or add one: alter table … add column … bigserial primary key.';
  end if;
end
$$;

-- The first thing of all. An error leaves nothing behind: it is one transaction with the schema.
create function auth_adoption.start(mapping jsonb) returns void
  language plpgsql
  as $$
declare
  old regclass := to_regclass(mapping -> 'sessions' ->> 'table');
  old_users regclass := to_regclass(mapping -> 'users' ->> 'table');
  c pg_class;
begin
  if to_regclass('auth.adopted_tokens') is null then
    raise exception 'the extension auth_sessions is missing here, or older than this program'
      using errcode = 'object_not_in_prerequisite_state', hint = 'create extension auth_sessions; or alter extension auth_sessions update;';
  end if;
  if old is null or (mapping ? 'users' and old_users is null) then
    raise exception 'there is no table %', case when old is null then mapping -> 'sessions' ->> 'table' else mapping -> 'users' ->> 'table' end
      using errcode = 'undefined_table', hint = 'Name it with its schema, as in public.sessions; "Mixed Case" in quotes.';
  end if;
  select x.* into c from pg_class x where x.oid = old;
  if c.relkind <> 'r' or c.relispartition or c.relpersistence = 't' or c.relnamespace = 'auth'::regnamespace
     or exists (select from pg_inherits i where old in (i.inhparent, i.inhrelid))
     or exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = old and d.deptype = 'e') then
    raise exception '% is not an ordinary table', old
      using errcode = 'wrong_object_type',
            hint = 'Views, partitioned tables and tables of extensions cannot be moved aside. Copy it: create table … as table …; and add its primary key.';
  end if;
  if to_regclass(format('auth_kept.%I', c.relname)) is not null then
    raise exception 'schema auth_kept has a table "%" already', c.relname
      using errcode = 'duplicate_table', hint = 'It is left of another adoption: move it, or drop it.';
  end if;
  insert into auth_adoption.adoption (mapping, sessions_schema, sessions_table)
  values (mapping, (select n.nspname from pg_namespace n where n.oid = c.relnamespace), c.relname);
  perform auth_adoption.require_mapping();
  insert into auth_adoption.steps (step)
  select s.step
    from unnest(array['users', 'take over', 'tokens', 'families', 'devices', 'sessions', 'old tokens', 'verify'])
         with ordinality s (step, position)
   where s.step <> 'users' or mapping ? 'users'
   order by s.position;
end
$$;
