-- Users. The service reads them, because only it can turn a password hash into a verifier (by its pepper), and writes
-- them back in the same transaction.

create function auth_adoption.count_users() returns void
  language plpgsql
  as $$
declare
  many bigint;
begin
  execute format('select count(*) from %s', auth_adoption.source('users')) into many;
  update auth_adoption.steps s set total = many where s.step = 'users';
end
$$;

create function auth_adoption.read_users(batch_size int)
  returns table (old_id text, password_hash text)
  language plpgsql
  as $$
declare
  id text := auth_adoption.mapped('users', 'id');
  last text := (select s.last_key from auth_adoption.steps s where s.step = 'users');
begin
  return query execute format(
    'select o.%1$I::text, %2$s from %3$s o where %4$s order by o.%1$I limit $1',
    id, auth_adoption.expression('users', 'password_hash', 'text'), auth_adoption.source('users'),
    case when last is null then 'true' else format('o.%I > %L::%s', id, last, auth_adoption.column_type('users', id)) end)
  using batch_size;
end
$$;

-- With what the service made of their passwords. The e-mail's rule is that of auth.users; a name is mended, not refused.
create function auth_adoption.write_users(
  old_ids text[], salts bytea[], params text[], pepper_ids int[], verifiers bytea[], password_problems text[], is_last boolean
) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  id text := auth_adoption.mapped('users', 'id');
begin
  create temporary table given on commit drop as
    select g.*, null::text as email, null::text as name, null::timestamptz as verified_at, null::timestamptz as disabled_at,
           null::timestamptz as created_at, null::uuid as user_id, null::boolean as made, null::text as problem
      from unnest(old_ids, salts, params, pepper_ids, verifiers, password_problems) g
                  (old_id, salt, params, pepper_id, verifier, password_problem);
  execute format(
    'update given g
        set email = %s, name = %s, verified_at = %s, disabled_at = coalesce(%s, %s), created_at = coalesce(%s, %L::timestamptz)
       from %s o where o.%I = g.old_id::%s',
    auth_adoption.expression('users', 'email', 'text'), auth_adoption.expression('users', 'name', 'text'),
    auth_adoption.expression('users', 'email_verified', 'flag'), auth_adoption.expression('users', 'disabled', 'flag'),
    case when auth_adoption.mapped('users', 'active') is null then 'null::timestamptz'
         else format('case when o.%I then null else %L::timestamptz end', auth_adoption.mapped('users', 'active'),
                     (select a.clock from auth_adoption.adoption a)) end,
    auth_adoption.expression('users', 'created_at', 'time'), (select a.clock from auth_adoption.adoption a),
    auth_adoption.source('users'), id, auth_adoption.column_type('users', id));
  update given g
     set user_id = coalesce(auth_adoption.as_uuid(g.old_id), gen_random_uuid()),
         email = btrim(g.email),
         created_at = greatest(least(g.created_at, clock_timestamp()), 'epoch'),
         problem = case when btrim(g.email) ~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' and octet_length(btrim(g.email)) <= 254
                        then null else 'invalid_email' end;

  -- Two old ids that are one uuid, in different letters.
  update given g set problem = 'id_taken'
   where exists (select from given other where other.user_id = g.user_id
                    and (other.created_at, other.old_id) < (g.created_at, g.old_id));

  with inserted as (
    insert into auth.users (id, email, name, email_verified_at, disabled_at, password_salt, password_params, pepper_id,
                            password_verifier, created_at)
    select g.user_id, g.email,
           -- What people read; nobody logs in by it.
           coalesce(nullif(left(btrim(regexp_replace(g.name, '[[:cntrl:]]+', ' ', 'g')), 200), ''), left(split_part(g.email, '@', 1), 200)),
           g.verified_at, g.disabled_at, g.salt, g.params, g.pepper_id, g.verifier, g.created_at
      from given g where g.problem is null
     order by g.created_at, g.old_id
    on conflict do nothing
    returning users.id)
  update given g set made = true from inserted i where i.id = g.user_id and g.problem is null;
  -- The same person was here already. Only by id and address: an equal address alone may be somebody who signed up here
  -- with it, and would be given the other's sessions.
  update given g set made = false
    from auth.users u
   where g.made is null and g.problem is null and u.id = g.user_id
     and lower(u.email collate "C") = lower(g.email collate "C")
     and not exists (select from auth_adoption.users x where x.user_id = u.id);
  insert into auth_adoption.users (old_id, user_id, made)
  select g.old_id, g.user_id, g.made from given g where g.made is not null;

  insert into auth_adoption.problems (source, old_id, problem, detail, outcome)
  select 'users', g.old_id, coalesce(g.problem, case when exists (select from auth.users u where u.id = g.user_id) then 'id_taken' else 'email_taken' end),
         case when g.problem is null then
           (select format('by user %s', coalesce(x.old_id || ' of the old table', u.id::text))
              from auth.users u left join auth_adoption.users x on x.user_id = u.id
             where u.id = g.user_id or lower(u.email collate "C") = lower(g.email collate "C") limit 1) end,
         'refused'
    from given g where g.made is null
  union all
  select 'users', g.old_id, 'password_not_taken_over', g.password_problem || '; the user needs a reset by mail', 'mended'
    from given g where g.made and g.password_problem is not null
  union all
  select 'users', g.old_id, 'name_mended', null, 'mended'
    from given g join auth.users u on u.id = g.user_id where g.made and u.name <> g.name;
  drop table given;
  if is_last then
    analyze auth_adoption.users;
  end if;
  return auth_adoption.advance('users', cardinality(old_ids), old_ids[cardinality(old_ids)], is_last);
end
$$;
