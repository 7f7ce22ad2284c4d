-- Old tokens: read row by row, then put into families. One row of the old table is one token; of a session that was
-- rotated there may be many, and the family's newest is the one that somebody holds.

-- What can be seen of a row alone. Its token's verifier is SHA-256 of the hash that the old system kept (of a plain token
-- it kept, in effect, SHA-256): see auth.adopted_tokens.
create function auth_adoption.tokens_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  old regclass := auth_adoption.source('sessions');
  id text := auth_adoption.mapped('sessions', 'id');
  token text := auth_adoption.mapped('sessions', 'token');
  progress auth_adoption.steps := (select s from auth_adoption.steps s where s.step = 'tokens');
  read bigint;
  last text;
begin
  if progress.total is null then
    update auth_adoption.adoption x set (kept_rows, kept_digest) = (select d.rows, d.digest from auth_adoption.digest_old_table() d);
    update auth_adoption.steps s set total = x.kept_rows from auth_adoption.adoption x where s.step in ('tokens', 'families');
  end if;
  execute format(
    $q$
    with batch as materialized (
      select o.*, o.%1$I::text as "auth_adoption id", %2$s as "auth_adoption user",
             %3$s as "auth_adoption created", %4$s as "auth_adoption used", %5$s as "auth_adoption expires", %6$s as "auth_adoption revoked"
        from %7$s o where %8$s order by o.%1$I limit $1),
    judged as (
      select o."auth_adoption id" as old_id, o."auth_adoption user" as old_user_id, x.user_id, %9$s as family, %10$s as link,
             case when %11$s then %12$s end as token_verifier,
             greatest(least(coalesce(o."auth_adoption created", o."auth_adoption used", 'epoch'), $2), 'epoch') as created_at,
             o."auth_adoption expires" as expires_at, o."auth_adoption revoked" is not null as revoked,
             coalesce(o."auth_adoption revoked" is not null or o."auth_adoption expires" <= $2, false) as ended,
             case when o."auth_adoption user" is null then 'no_user'
                  when x.user_id is null then 'unknown_user'
                  when %13$s is null then 'no_token'
                  when not %11$s then 'malformed_token' end as problem
        from batch o %14$s),
    written as (
      insert into auth_adoption.tokens select * from judged)
    select count(*), (select "auth_adoption id" from batch b order by %15$s desc limit 1) from batch
    $q$,
    id, auth_adoption.expression('sessions', 'user_id', 'text'), auth_adoption.expression('sessions', 'created_at', 'time'),
    auth_adoption.expression('sessions', 'last_used_at', 'time'), auth_adoption.expression('sessions', 'expires_at', 'time'),
    auth_adoption.expression('sessions', 'revoked', 'flag'), old,
    case when progress.last_key is null then 'true' else format('o.%I > %L::%s', id, progress.last_key, auth_adoption.column_type('sessions', id)) end,
    auth_adoption.expression('sessions', 'family_id', 'text'),
    case when auth_adoption.mapped('sessions', 'replaced_by') is not null then auth_adoption.expression('sessions', 'replaced_by', 'text')
         else auth_adoption.expression('sessions', 'rotated_from', 'text') end,
    auth_adoption.token_is_sound(), auth_adoption.token_verifier(),
    format('nullif(o.%I::text, %L)', token, ''),
    case when a.mapping ? 'users'
      then 'left join auth_adoption.users x on x.old_id = o."auth_adoption user"'
      else 'left join (select u.id as user_id from auth.users u) x on x.user_id = auth_adoption.as_uuid(o."auth_adoption user")' end,
    format('b.%I', id))
    into read, last using batch_size, a.clock;
  return auth_adoption.advance('tokens', read, last, read < batch_size);
end
$$;

-- SQL: whether the token column of row `o` holds what the mapping says, and the verifier it gives.
create function auth_adoption.token_is_sound() returns text
  language sql stable
  begin atomic
    select case
      when auth_adoption.column_type('sessions', auth_adoption.mapped('sessions', 'token')) = 'bytea' then format('octet_length(o.%I) = 32', auth_adoption.mapped('sessions', 'token'))
      when a.mapping -> 'sessions' ->> 'token_format' = 'plain' then
        -- What the service looks at, and no shorter.
        format('octet_length(o.%I) between 16 and 4096', auth_adoption.mapped('sessions', 'token'))
      else format('o.%I ~ %L', auth_adoption.mapped('sessions', 'token'), '^[0-9A-Fa-f]{64}$') end
      from auth_adoption.adoption a;
  end;

create function auth_adoption.token_verifier() returns text
  language sql stable
  begin atomic
    select format(case
      when auth_adoption.column_type('sessions', auth_adoption.mapped('sessions', 'token')) = 'bytea' then 'sha256(o.%I)'
      when a.mapping -> 'sessions' ->> 'token_format' = 'plain' then 'sha256(sha256(convert_to(o.%I, ''UTF8'')))'
      else 'sha256(decode(o.%I, ''hex''))' end, auth_adoption.mapped('sessions', 'token'))
      from auth_adoption.adoption a;
  end;

-- Families, and what becomes of each row. All rows in one transaction: a family knows no batches.
create function auth_adoption.families_batch(batch_size int) returns auth_adoption.steps
  language plpgsql
  as $$
declare
  names_successor boolean := auth_adoption.mapped('sessions', 'replaced_by') is not null;
  is_linked boolean := names_successor or auth_adoption.mapped('sessions', 'rotated_from') is not null;
  moved bigint;
begin
  analyze auth_adoption.tokens;
  -- Without a family column a family is a chain of links. Each pass takes every row twice as far along its chain; a
  -- chain that runs in a circle never ends, and has no current token either.
  create temporary table heads on commit drop as
    select t.old_id, coalesce(p.old_id, t.old_id) as head
      from auth_adoption.tokens t left join auth_adoption.tokens p on p.old_id = t.link
     where t.family is null;
  create unique index on heads (old_id);
  analyze heads;
  for pass in 1 .. case when is_linked then 40 else 0 end loop
    update heads h set head = p.head from heads p where p.old_id = h.head and p.head <> h.head;
    get diagnostics moved = row_count;
    exit when moved = 0;
  end loop;

  -- Who has a successor was consumed. Where nothing links rows, who was revoked in a family that lives on was.
  create temporary table judged on commit drop as
    select t.old_id, t.old_user_id, t.user_id, t.family as old_family, t.token_verifier, t.created_at, t.expires_at, t.problem,
           concat(t.old_user_id, chr(1), coalesce(t.family, h.head), case when t.family is null then chr(1) end) as family,
           case when s.link is not null or (not is_linked and t.revoked) then 'consumed'
                when t.ended or u.disabled_at is not null then 'ended'
                when t.problem is not null then 'refused' else 'current' end as outcome,
           null::text as twin, false as is_ambiguous
      from auth_adoption.tokens t
      left join heads h on h.old_id = t.old_id
      left join auth.users u on u.id = t.user_id
      left join (select distinct case when names_successor then y.old_id else y.link end as link
                   from auth_adoption.tokens y where y.link is not null) s on s.link = t.old_id;
  create index on judged (family);
  analyze judged;

  -- One token in two rows: it can be one session's only. Of one user the current, newest one; of several users, nobody
  -- can tell whose.
  with twins as (
    select j.old_id,
           first_value(j.old_id) over w as first_of_them,
           min(j.old_user_id) over v is distinct from max(j.old_user_id) over v as is_ambiguous
      from judged j
     where j.outcome in ('current', 'consumed') and j.token_verifier in (
             select y.token_verifier from judged y where y.outcome in ('current', 'consumed')
              group by y.token_verifier having count(*) > 1)
    window v as (partition by j.token_verifier),
           w as (partition by j.token_verifier order by (j.outcome = 'current') desc, j.created_at desc, j.old_id))
  update judged j
     set twin = t.first_of_them, is_ambiguous = t.is_ambiguous,
         problem = case when t.is_ambiguous then 'token_of_several_users' else 'duplicate_token' end,
         outcome = case j.outcome when 'current' then 'refused' else j.outcome end
    from twins t where t.old_id = j.old_id and (t.is_ambiguous or t.first_of_them <> j.old_id);

  -- A family of several current tokens (two tabs refreshed at once) is several sessions that are revoked together. The
  -- first one is called as the family was, where that is a uuid that nobody has.
  create temporary table opened on commit drop as
    select c.*, first_value(c.new_id) over (partition by c.family order by c.leaf) as family_id
      from (select w.*, case when w.wished is not null and row_number() over (partition by w.wished order by w.old_id) = 1
                              and not exists (select from auth.sessions s where s.id = w.wished or s.family_id = w.wished)
                             then w.wished else gen_random_uuid() end as new_id
              from (select l.*, case when l.leaf = 1 then coalesce(auth_adoption.as_uuid(l.old_family), auth_adoption.as_uuid(l.old_id))
                                     else auth_adoption.as_uuid(l.old_id) end as wished
                      from (select j.old_id, j.family, j.old_family,
                                   row_number() over (partition by j.family order by j.created_at desc, j.old_id) as leaf
                              from judged j where j.outcome = 'current') l) w) c;
  create unique index on opened (old_id);
  analyze opened;

  insert into auth_adoption.old_rows (old_id, old_user_id, user_id, outcome, session_id, family_id, auth_time, expires_at, token_verifier)
  select j.old_id, j.old_user_id, j.user_id, x.outcome,
         case when x.outcome in ('current', 'consumed') then coalesce(o.new_id, f.new_id) end,
         case when x.outcome in ('current', 'consumed') then f.family_id end,
         coalesce(b.auth_time, j.created_at), j.expires_at,
         case when x.outcome in ('current', 'consumed') then j.token_verifier end
    from judged j
    left join opened o on o.old_id = j.old_id
    left join opened f on f.family = j.family and f.leaf = 1
    left join (select y.family, min(y.created_at) as auth_time from judged y group by y.family) b on b.family = j.family
   cross join lateral (select case
     when j.outcome <> 'consumed' then j.outcome
     when f.family is null then 'ended'
     when j.token_verifier is null or j.problem is not null then 'refused'
     else 'consumed' end) x (outcome)
   order by j.created_at, j.old_id;

  insert into auth_adoption.problems (source, old_id, problem, detail, outcome)
  select 'sessions', r.old_id, j.problem, case when j.twin is not null and not j.is_ambiguous then format('the same token as in row %s', j.twin) end, 'refused'
    from auth_adoption.old_rows r join judged j on j.old_id = r.old_id where r.outcome = 'refused';
  drop table heads, judged, opened;
  analyze auth_adoption.old_rows;
  select count(*) into moved from auth_adoption.old_rows;
  -- What is past this point counts by old_rows.
  update auth_adoption.steps s set total = (select coalesce(max(r.n), 0) from auth_adoption.old_rows r) where s.step in ('sessions', 'old tokens');
  truncate auth_adoption.tokens;
  return auth_adoption.advance('families', moved, null, true);
end
$$;
