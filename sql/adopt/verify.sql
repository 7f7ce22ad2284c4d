-- The proof: everything that was there is somewhere, once, and what was to be kept is unchanged. Reads only.

-- Of every row, in no order; the same wherever it is asked.
create function auth_adoption.digest_old_table(out rows bigint, out digest text)
  language plpgsql stable set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
  set extra_float_digits = 1 set bytea_output = 'hex'
  as $$
begin
  execute format('select count(*), coalesce(sum(hashtextextended(o::text, 0)::numeric), 0)::text from %s o', auth_adoption.source('sessions'))
     into rows, digest;
end
$$;

-- is_strict: for the run itself; later, sessions that ended were cleaned, and their tokens with them.
create function auth_adoption.verify(is_strict boolean)
  returns table (what text, expected bigint, counted bigint, is_right boolean)
  language plpgsql
  as $$
declare
  a auth_adoption.adoption := (select x from auth_adoption.adoption x);
  old regclass := auth_adoption.source('sessions');
  id text := auth_adoption.mapped('sessions', 'id');
begin
  if a.mapping ? 'users' then
    what := 'old users: taken over, or reported';
    execute format('select count(*) from %s', auth_adoption.source('users')) into expected;
    execute format('select count(*) from %s o where exists (select from auth_adoption.users u where u.old_id = o.%I::text)
                       or exists (select from auth_adoption.problems p where p.source = ''users'' and p.outcome = ''refused'' and p.old_id = o.%2$I::text)',
                   auth_adoption.source('users'), auth_adoption.mapped('users', 'id')) into counted;
    is_right := counted = expected;
    return next;
  end if;
  what := 'refused rows: reported';
  select count(*), count(*) filter (where exists (
           select from auth_adoption.problems p where p.source = 'sessions' and p.outcome = 'refused' and p.old_id = r.old_id))
    into expected, counted from auth_adoption.old_rows r where r.outcome = 'refused';
  is_right := counted = expected;
  return next;
  if old is not null then
    what := 'old rows: each has one outcome';
    execute format('select count(*), count(r.old_id) from %s o left join auth_adoption.old_rows r on r.old_id = o.%I::text', old, id)
       into expected, counted;
    is_right := counted = expected and expected = (select count(*) from auth_adoption.old_rows);
    return next;
    what := 'old table: as it was when it was taken over';
    select a.kept_rows, d.rows, d.rows = a.kept_rows and d.digest = a.kept_digest into expected, counted, is_right
      from auth_adoption.digest_old_table() d;
    return next;
    -- From the old table, not from what was remembered of it.
    what := 'old tokens: known, current or consumed';
    execute format(
      'select count(*), count(t.token_verifier) from %s o join auth_adoption.old_rows r on r.old_id = o.%I::text
         left join auth.adopted_tokens t on t.token_verifier = %s and t.session_id = r.session_id and t.is_current = (r.outcome = ''current'')
        where r.outcome in (''current'', ''consumed'')', old, id, auth_adoption.token_verifier()) into expected, counted;
    is_right := counted = expected or not is_strict;
    return next;
  end if;
  what := 'current tokens: a session of the right user';
  select count(*), count(s.id) into expected, counted
    from auth_adoption.old_rows r
    left join auth.sessions s on s.id = r.session_id and s.user_id = r.user_id and s.family_id = r.family_id
         and (s.generation > 0 or s.token_verifier = r.token_verifier)
   where r.outcome = 'current';
  is_right := counted = expected or not is_strict;
  return next;
end
$$;

create function auth_adoption.complete() returns void
  language plpgsql
  as $$
begin
  perform auth_adoption.make_view('after');
  update auth_adoption.adoption a set completed_at = clock_timestamp();
  perform auth_adoption.advance('verify', 1, null, true);
end
$$;

create function auth_adoption.record(action text) returns void
  language plpgsql
  as $$
begin
  perform auth.record_event(action, 'warning', true, details => jsonb_build_object(
    'table', (select format('%I.%I', a.sessions_schema, a.sessions_table) from auth_adoption.adoption a),
    'users', (select count(*) from auth_adoption.users u where u.made),
    'outcomes', (select jsonb_object_agg(r.outcome, r.count) from (select x.outcome, count(*) from auth_adoption.old_rows x group by x.outcome) r)));
end
$$;
