-- The old table moves aside, and a view takes its name.
--
-- Who reads the view reads as before: it belongs to the old table's owner and has the old table's grants. What it
-- shows of auth.sessions it reads through views of auth_owner's, the only role whose policies show all rows; so nobody
-- is granted anything on auth.sessions.

-- Sessions that were adopted, under the ids they had.
create view auth_adoption.adopted_sessions as
  select r.old_id, r.old_user_id, s.id as session_id, s.user_id, s.family_id, s.created_at, s.last_used_at,
         least(s.idle_expires_at, s.expires_at) as expires_at, s.revoked_at, s.user_agent, s.device_name, s.last_ip_cidr
    from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id
   where r.outcome = 'current';
comment on view auth_adoption.adopted_sessions is 'What is behind the view under the old name: adopted sessions as they are now.';

-- Sessions opened since, in the same columns.
create view auth_adoption.later_sessions as
  select s.id::text as old_id, coalesce(u.old_id, s.user_id::text) as old_user_id, s.id as session_id, s.user_id, s.family_id,
         s.created_at, s.last_used_at, least(s.idle_expires_at, s.expires_at) as expires_at, s.revoked_at, s.user_agent,
         s.device_name, s.last_ip_cidr
    from auth.sessions s left join auth_adoption.users u on u.user_id = s.user_id
   where not exists (select from auth_adoption.old_rows r where r.outcome = 'current' and r.session_id = s.id);
comment on view auth_adoption.later_sessions is 'What is behind the view under the old name: sessions opened since the adoption.';

grant select on auth_adoption.old_rows, auth_adoption.users to auth_owner;
alter view auth_adoption.adopted_sessions owner to auth_owner;
alter view auth_adoption.later_sessions owner to auth_owner;

create function auth_adoption.refuse_write() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
begin
  raise exception '% on %.% is not allowed: its sessions were taken over by auth_sessions', tg_op, tg_table_schema, tg_table_name
    using errcode = 'object_not_in_prerequisite_state',
          hint = 'This is a view for old read queries. Sessions are opened, refreshed and ended by auth-api, or by the functions of schema auth.';
end
$$;

-- How the view under the old name shows a column: of an adopted or later session (`l`, of which `is_later` tells), or of
-- an old row that is nobody's current token (`l` is not there: its own value). Secrets are never shown.
create function auth_adoption.view_column(
  column_name name, column_type text, of_session boolean, is_later boolean, has_old_row boolean
) returns text
  language plpgsql stable
  as $$
declare
  m jsonb := (select a.mapping -> 'sessions' from auth_adoption.adoption a);
  role text := (select c.key from jsonb_each_text(m -> 'columns') c where c.value = column_name order by c.key limit 1);
  is_text boolean := column_type ~ '^(character|bpchar|text)';
  is_flag boolean := column_type = 'boolean';
  shown text;
begin
  if role = 'token' or m -> 'hide' ? column_name then
    return format('null::%s', column_type);
  elsif not of_session then
    return format('o.%I::%s', column_name, column_type);
  end if;
  shown := case
    when role in ('id', 'user_id', 'family_id', 'created_at') and has_old_row then format('o.%I', column_name)
    when role = 'id' and (not is_later or is_text or column_type = 'uuid') then 'l.old_id'
    -- A user who came later has no number.
    when role = 'user_id' and (not is_later or is_text or column_type = 'uuid') then 'l.old_user_id'
    when role = 'user_id' then '(select u.old_id from auth_adoption.users u where u.user_id = l.user_id)'
    when role = 'family_id' and (is_text or column_type = 'uuid') then 'l.family_id'
    when role = 'created_at' then 'l.created_at'
    when role = 'last_used_at' then 'l.last_used_at'
    when role = 'expires_at' then 'l.expires_at'
    when role = 'revoked' then case when is_flag then '(l.revoked_at is not null)' else 'l.revoked_at' end
    when role = 'user_agent' then 'l.user_agent'
    when role = 'device_name' then 'l.device_name'
    when role = 'ip' then case when is_text then 'l.last_ip_cidr::text' else 'l.last_ip_cidr' end
    when has_old_row then format('o.%I', column_name)
    else 'null' end;
  if role in ('created_at', 'last_used_at', 'expires_at', 'revoked') and column_type like 'timestamp%without time zone'
     and shown like 'l.%' then
    shown := format('(%s at time zone %L)', shown, m ->> 'time_zone');
  end if;
  return format('%s::%s', shown, column_type);
end
$$;

-- kind: before (while batches run: the old rows as they are), after, or without_old_table (--no-backup).
create function auth_adoption.make_view(kind text) returns void
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  old regclass := auth_adoption.source('sessions');
  id text := auth_adoption.mapped('sessions', 'id');
  owner name := (select c.relowner::regrole::name from pg_class c where c.oid = old);
  columns_of record;
  parts text[];
begin
  select string_agg(auth_adoption.view_column(t.attname, x.type, false, false, true) || format(' as %I', t.attname), ', ' order by t.attnum) as history,
         string_agg(auth_adoption.view_column(t.attname, x.type, true, false, kind = 'after') || format(' as %I', t.attname), ', ' order by t.attnum) as adopted,
         string_agg(auth_adoption.view_column(t.attname, x.type, true, true, false) || format(' as %I', t.attname), ', ' order by t.attnum) as later
    into columns_of
    from pg_attribute t,
         -- Without a length, into which an id of here might not fit. With the column's own collation: a view's columns cannot
         -- change when it is made anew.
         concat(format_type(t.atttypid, -1), (select format(' collate %s', l.oid::regcollation) from pg_collation l
                                                        where l.oid = t.attcollation and l.collname <> 'default')) x (type)
   where t.attrelid = old and t.attnum > 0 and not t.attisdropped;
  parts := case kind
    when 'before' then array[format('select %s from %s o', columns_of.history, old)]
    when 'without_old_table' then array[
      format('select %s from auth_adoption.adopted_sessions l', columns_of.adopted),
      format('select %s from auth_adoption.later_sessions l', columns_of.later)]
    else array[
      format('select %s from auth_adoption.adopted_sessions l join %s o on o.%I::text = l.old_id', columns_of.adopted, old, id),
      format('select %s from auth_adoption.later_sessions l', columns_of.later),
      -- What was over before, and what was refused, as it was.
      format('select %s from %s o where not exists (select from auth_adoption.old_rows r where r.outcome = ''current'' and r.old_id = o.%I::text)',
             columns_of.history, old, id)] end;
  execute format('create or replace view %I.%I as %s', a.sessions_schema, a.sessions_table, array_to_string(parts, ' union all '));
  execute format('grant select on auth_adoption.adopted_sessions, auth_adoption.later_sessions, auth_adoption.old_rows, auth_adoption.users to %I', owner);
end
$$;

-- Nobody waits long behind us for a table that somebody else does not let go of.
create function auth_adoption.lock_old_table() returns void
  language plpgsql set lock_timeout = '5s'
  as $$
begin
  execute format('lock table %s in access exclusive mode', auth_adoption.source('sessions'));
exception when lock_not_available then
  raise exception 'table % is in use', auth_adoption.source('sessions')
    using errcode = 'lock_not_available', hint = 'Stop what uses it (select * from pg_stat_activity), and give the same command again.';
end
$$;

create function auth_adoption.take_over_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  old regclass := auth_adoption.source('sessions');
  c pg_class;
  given record;
begin
  perform auth_adoption.lock_old_table();
  select x.* into c from pg_class x where x.oid = old;
  create schema if not exists auth_kept;
  revoke all on schema auth_kept from public;
  comment on schema auth_kept is 'The old sessions table, as it was when auth-api adopt moved it here, with its indexes, rights and tokens. auth-api rollback moves it back; auth-api adopt --no-backup drops it.';
  execute format('alter table %s set schema auth_kept', old);
  update auth_adoption.adoption x set taken_over_at = clock_timestamp();

  perform auth_adoption.make_view('before');
  execute format('alter view %I.%I owner to %I', a.sessions_schema, a.sessions_table, c.relowner::regrole::name);
  execute format('comment on view %I.%I is %L', a.sessions_schema, a.sessions_table,
                 'In place of the table that auth-api adopt took over: for old read queries. Tokens and hashes are null.');
  execute format('create trigger refuse_write instead of insert or update or delete on %I.%I for each row execute function auth_adoption.refuse_write()',
                 a.sessions_schema, a.sessions_table);
  if c.relrowsecurity then
    insert into auth_adoption.problems (source, problem, detail, outcome)
    values ('adoption', 'row_level_security', 'the old table has policies, which a view cannot repeat: nobody but its owner was granted the view', 'note');
  else
    for given in
      -- The rights to write too: so that who tries is told why it is over, by refuse_write.
      select x.privilege_type, x.grantee, x.is_grantable, null as columns from aclexplode(c.relacl) x
       where x.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE') and x.grantee <> c.relowner
      union all
      select x.privilege_type, x.grantee, x.is_grantable, format('(%I)', t.attname) from pg_attribute t, aclexplode(t.attacl) x
       where t.attrelid = old and t.attnum > 0 and x.privilege_type in ('SELECT', 'INSERT', 'UPDATE') and x.grantee <> c.relowner
    loop
      execute format('grant %s %s on %I.%I to %s %s', given.privilege_type, given.columns, a.sessions_schema, a.sessions_table,
                     case given.grantee when 0 then 'public' else given.grantee::regrole::text end, case when given.is_grantable then 'with grant option' end);
    end loop;
  end if;
  insert into auth_adoption.problems (source, problem, detail, outcome)
  select 'adoption', 'foreign_key_to_old_table', format('%s of %s refers to the old table, and does not know sessions opened since', k.conname, k.conrelid::regclass), 'note'
    from pg_constraint k where k.confrelid = old and k.contype = 'f' and k.conrelid <> old
  union all
  select distinct 'adoption', 'view_of_old_table', format('%s goes on reading the old table as it was: make it anew', w.ev_class::regclass), 'note'
    from pg_depend d join pg_rewrite w on w.oid = d.objid
   where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = old
     and w.ev_class not in (old, to_regclass(format('%I.%I', a.sessions_schema, a.sessions_table)));
  return auth_adoption.advance('take over', 1, null, true);
end
$$;

-- adopt --no-backup: from here on there is no rollback.
create function auth_adoption.drop_kept() returns void
  language plpgsql
  as $$
begin
  perform auth_adoption.lock_old_table();
  perform auth_adoption.make_view('without_old_table');
  execute format('drop table %s', auth_adoption.source('sessions'));
  update auth_adoption.adoption a set kept_dropped_at = clock_timestamp();
  drop schema auth_kept;
end
$$;
