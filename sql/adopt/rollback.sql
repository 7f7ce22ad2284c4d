-- The way back. First, in one short transaction, the old table returns to its place: from then on the old application
-- works again. Then, in batches, what the adoption brought is taken out of schema auth.

-- What would be lost: what people did here since. Each row that counts something needs --force.
create function auth_adoption.losses() returns table (what text, many bigint)
  language plpgsql stable
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  hanging record;
begin
  if a.kept_digest is not null then
    return query select 'rows of the old table that were changed since it was taken over (or some were: they stay as they are now)',
                        case when d.digest = a.kept_digest then 0 else d.rows end
                   from auth_adoption.digest_old_table() d;
  end if;
  return query select 'adopted sessions that were refreshed here (their holders have no old token any more)', count(*)
    from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id
   where r.outcome = 'current' and s.generation > 0;
  return query select 'adopted sessions that were ended here (they are live again in the old table)', count(*)
    from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id
   where r.outcome = 'current' and s.revoked_at is not null;
  return query select 'adopted users whose password was changed or renewed here', count(*)
    from auth_adoption.users m join auth.users u on u.id = m.user_id where m.made and u.verifier_version > 1;
  for hanging in
    select c.conrelid::regclass as hanging_table, t.attname as column_name
      from pg_constraint c join pg_attribute t on t.attrelid = c.conrelid and t.attnum = c.conkey[1]
     where c.confrelid = 'auth.users'::regclass and c.contype = 'f' and c.confdeltype = 'c'
     order by 1::text
  loop
    what := format('rows of %s that belong to adopted users and were made here', hanging.hanging_table);
    execute format('select count(*) from %s x join auth_adoption.users m on m.made and m.user_id = x.%I%s', hanging.hanging_table, hanging.column_name,
                   case when hanging.hanging_table = 'auth.sessions'::regclass
                     then ' where not exists (select from auth_adoption.old_rows r where r.outcome = ''current'' and r.session_id = x.id)' else '' end)
       into many;
    return next;
  end loop;
end
$$;

-- Copies what take_out will delete: a schema of its own, for looking things up afterwards.
create function auth_adoption.back_up() returns text
  language plpgsql
  as $$
declare
  into_schema text := 'auth_undone_' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD_HH24MISS');
  hanging record;
begin
  execute format('create schema %I', into_schema);
  execute format('revoke all on schema %I from public', into_schema);
  execute format('comment on schema %I is %L', into_schema,
                 'What auth-api rollback took out of schema auth: rows of adopted users and sessions. Drop it when nobody asks for them any more.');
  execute format('create table %I.users as select u.* from auth.users u join auth_adoption.users m on m.user_id = u.id and m.made', into_schema);
  execute format('create table %I.adopted_users as select m.* from auth_adoption.users m', into_schema);
  for hanging in
    select k.relname, t.attname as column_name
      from pg_constraint c join pg_class k on k.oid = c.conrelid join pg_attribute t on t.attrelid = c.conrelid and t.attnum = c.conkey[1]
     where c.confrelid = 'auth.users'::regclass and c.contype = 'f' and c.confdeltype = 'c'
  loop
    execute format('create table %I.%I as select x.* from auth.%2$I x where exists (select from auth_adoption.users m where m.made and m.user_id = x.%I)%s',
                   into_schema, hanging.relname, hanging.column_name,
                   case when hanging.relname = 'sessions'
                     then ' or exists (select from auth_adoption.old_rows r where r.outcome = ''current'' and r.session_id = x.id)' else '' end);
  end loop;
  return into_schema;
end
$$;

create function auth_adoption.give_back() returns void
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
begin
  if a.taken_over_at is not null then
    perform auth_adoption.lock_old_table();
    execute format('drop view %I.%I', a.sessions_schema, a.sessions_table);
    execute format('alter table auth_kept.%I set schema %I', a.sessions_table, a.sessions_schema);
    drop schema auth_kept;
  end if;
  update auth_adoption.adoption x set given_back_at = clock_timestamp();
  insert into auth_adoption.steps (step, total)
  values ('take out sessions', (select coalesce(max(r.n), 0) from auth_adoption.old_rows r)),
         ('take out users', (select count(*) from auth_adoption.users m where m.made));
end
$$;

create function auth_adoption.take_out_sessions_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  progress auth_adoption.steps := (select s from auth_adoption.steps s where s.step = 'take out sessions');
begin
  delete from auth.sessions s using auth_adoption.old_rows r
   where s.id = r.session_id and r.outcome = 'current' and r.n > progress.done and r.n <= progress.done + batch_size;
  return auth_adoption.advance('take out sessions', least(batch_size, progress.total - progress.done), null,
                               progress.done + batch_size >= progress.total);
end
$$;

create function auth_adoption.take_out_users_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  gone bigint;
  last text;
begin
  with batch as materialized (
    select m.old_id, m.user_id from auth_adoption.users m
     where m.made and m.old_id > coalesce((select s.last_key from auth_adoption.steps s where s.step = 'take out users'), '')
     order by m.old_id limit batch_size),
  removed as (
    delete from auth.users u using batch b where u.id = b.user_id)
  select count(*), max(b.old_id) into gone, last from batch b;
  return auth_adoption.advance('take out users', gone, last, gone < batch_size);
end
$$;
