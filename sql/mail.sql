-- One-time tokens and the outbox. A mail is queued in the transaction of its cause, and the link in it is nowhere else:
-- whoever calls these functions gets no token back.

create function auth.link_secret() returns text
  language sql volatile parallel safe
  return 'aso_' || rtrim(translate(encode(auth.random_bytes(32), 'base64'), '+/', '-_'), '=');
comment on function auth.link_secret is 'Internal. A new token for the link in a mail: 256 random bits. Only its verifier is kept.';

create function auth.one_time_token_verifier(token text) returns bytea
  language sql immutable parallel safe
  return sha256(sha256(convert_to(one_time_token_verifier.token, 'UTF8')));
comment on function auth.one_time_token_verifier is 'Internal. What is kept of a one-time token.';

-- Replaces by ON CONFLICT: of two who ask at once, the later one's token is the one that works, and nobody's user row
-- is locked by a stranger.
create function auth.new_one_time_token(
  user_id uuid, purpose text, lifetime interval, email text default null, details jsonb default null
) returns text
  language plpgsql volatile parallel unsafe
  as $$
#variable_conflict use_column
declare
  clock timestamptz := clock_timestamp();
  token text := auth.link_secret();
  verifier bytea := auth.one_time_token_verifier(token);
begin
  insert into auth.one_time_tokens as t (user_id, purpose, token_verifier, email, details, created_at, expires_at)
  values (new_one_time_token.user_id, new_one_time_token.purpose, verifier, new_one_time_token.email,
          new_one_time_token.details, clock, clock + lifetime)
  on conflict (user_id, purpose) do update
    set id = excluded.id, token_verifier = excluded.token_verifier, email = excluded.email, details = excluded.details,
        created_at = excluded.created_at, expires_at = excluded.expires_at, used_at = null;
  return token;
end
$$;
comment on function auth.new_one_time_token is 'Internal. Makes a token for a mail, and ends the one before of the same user and purpose.';

-- Without a lock: whose it is, so that the locks can be taken in their order before it is used.
create function auth.find_one_time_token(token text, purpose text) returns auth.one_time_tokens
  language plpgsql volatile parallel unsafe
  as $$
declare
  found_token auth.one_time_tokens;
begin
  if token is null then
    raise exception 'token must not be null' using errcode = 'null_value_not_allowed',
      hint = 'It is in the link of a mail: aso_…';
  end if;
  select t.* into found_token from auth.one_time_tokens t
   where t.token_verifier = auth.one_time_token_verifier(find_one_time_token.token)
     and t.purpose = find_one_time_token.purpose and t.used_at is null and t.expires_at > clock_timestamp();
  return found_token;
end
$$;
comment on function auth.find_one_time_token is 'Internal. The row of a token that could be used now, or null.';

-- One statement: of two who present it at once, the second waits, looks again, and finds it used.
create function auth.use_one_time_token(token text, purpose text) returns auth.one_time_tokens
  language plpgsql volatile parallel unsafe
  as $$
declare
  used auth.one_time_tokens;
begin
  update auth.one_time_tokens t set used_at = clock_timestamp()
   where t.token_verifier = auth.one_time_token_verifier(use_one_time_token.token)
     and t.purpose = use_one_time_token.purpose and t.used_at is null and t.expires_at > clock_timestamp()
  returning t.* into used;
  return used;
end
$$;
comment on function auth.use_one_time_token is 'Internal. Marks a token used and returns its row; null when it is unknown, used, expired, replaced, or for something else. The caller holds its user''s lock.';

create function auth.queue_mail(
  kind text, recipient text, variables jsonb, user_id uuid default null, lifetime interval default '1 day'
) returns uuid
  language plpgsql volatile parallel unsafe
  as $$
declare
  clock timestamptz := clock_timestamp();
  new_id uuid := gen_random_uuid();
begin
  insert into auth.mail_outbox (id, kind, user_id, recipient, variables, created_at, expires_at, next_attempt_at)
  values (new_id, kind, user_id, recipient, coalesce(variables, '{}'), clock, clock + lifetime, clock);
  -- A hint to the mailers that are up; the others look every few seconds.
  perform pg_notify('auth_mail', '');
  return new_id;
end
$$;
comment on function auth.queue_mail is 'Internal. Puts a mail into the outbox; it is sent after the commit, or not at all once its lifetime is over.';

-- How long to wait after so many attempts: ten seconds, doubling up to an hour, and each time up to a quarter more or
-- less, so that what failed together does not come back together. Null: that was the last one, after about half a day.
create function auth.mail_backoff(attempts int) returns interval
  language sql volatile parallel safe
  return case when mail_backoff.attempts < 20
    then least(interval '10 seconds' * 2 ^ least(mail_backoff.attempts - 1, 12), interval '1 hour') * (0.75 + random() / 2) end;
comment on function auth.mail_backoff is 'Internal. How long after its n-th attempt a mail is tried again; null: never.';

-- Both outboxes have these columns. The planner puts it in the place of its call, so that the index over what is not over
-- serves it.
create function auth.is_due(
  sent_at timestamptz, failed_at timestamptz, next_attempt_at timestamptz, leased_until timestamptz, clock timestamptz
) returns boolean
  language sql immutable parallel safe
  return is_due.sent_at is null and is_due.failed_at is null and is_due.next_attempt_at <= is_due.clock
     and (is_due.leased_until is null or is_due.leased_until <= is_due.clock);
comment on function auth.is_due is 'Internal. Whether a row of an outbox is to be taken now: it is not over, its time has come, and nobody has it.';

-- What a mail server or a receiver says may quote what it was shown: the link of a mail, or a secret of ours.
create function auth.delivery_error(said text) returns text
  language sql immutable parallel safe
  return left(regexp_replace(regexp_replace(delivery_error.said, '(aso_|whsec_)[A-Za-z0-9+/=_-]+', '\1…', 'g'),
                             '[[:cntrl:]]+', ' ', 'g'), 500);
comment on function auth.delivery_error is 'Internal. Why a delivery failed, as an outbox keeps it: in one line of at most 500 letters, without secrets of ours.';

create function auth.claim_mail(batch int, lease interval)
  returns table (id uuid, kind text, recipient text, variables jsonb, attempt int, created_at timestamptz)
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
#variable_conflict use_column
declare
  clock timestamptz := clock_timestamp();
begin
  if batch is null or lease is null then
    raise exception 'batch and lease must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: claim_mail(10, ''1 minute'').';
  end if;
  if batch not between 1 and 1000 or lease not between interval '1 second' and interval '1 hour' then
    raise exception 'batch must be between 1 and 1000, lease between a second and an hour'
      using errcode = 'invalid_parameter_value', hint = 'A mailer that dies holds its mail up for as long as the lease.';
  end if;
  -- What nobody could use any more, and what ended every mailer that touched it.
  update auth.mail_outbox m
     set failed_at = clock, variables = null, leased_until = null,
         last_error = case when m.expires_at <= clock then 'expired before it could be sent' else 'tried too often' end
   where m.id = any (array(
     select x.id from auth.mail_outbox x
      where auth.is_due(x.sent_at, x.failed_at, x.next_attempt_at, x.leased_until, clock)
        and (x.expires_at <= clock or auth.mail_backoff(x.attempts) is null)
      order by x.next_attempt_at limit claim_mail.batch for update skip locked));
  return query
    update auth.mail_outbox m
       set attempts = m.attempts + 1, leased_until = clock + claim_mail.lease
     where m.id = any (array(
       select x.id from auth.mail_outbox x
        where auth.is_due(x.sent_at, x.failed_at, x.next_attempt_at, x.leased_until, clock)
        order by x.next_attempt_at limit claim_mail.batch for update skip locked))
    returning m.id, m.kind, m.recipient, m.variables, m.attempts, m.created_at;
end
$$;
comment on function auth.claim_mail is 'Gives the mailer up to batch mails that are due, for the lease: nobody else is given them meanwhile. Report each with finish_mail or fail_mail; what is not reported is due again when the lease ends.';

-- Whoever reports it: it was sent, and must not be sent again.
create function auth.finish_mail(id uuid) returns boolean
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if id is null then
    raise exception 'id must not be null' using errcode = 'null_value_not_allowed', hint = 'claim_mail tells it.';
  end if;
  update auth.mail_outbox m
     set sent_at = clock_timestamp(), recipient = null, variables = null, leased_until = null, last_error = null
   where m.id = finish_mail.id and m.sent_at is null and m.failed_at is null;
  return found;
end
$$;
comment on function auth.finish_mail is 'A mail was taken by the mail server: its recipient and body are erased. False when it was over already.';

create function auth.fail_mail(id uuid, attempt int, error text, permanent boolean) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  clock timestamptz := clock_timestamp();
  backoff interval := case when not permanent then auth.mail_backoff(attempt) end;
begin
  if id is null or attempt is null or permanent is null then
    raise exception 'id, attempt and permanent must not be null' using errcode = 'null_value_not_allowed',
      hint = 'claim_mail tells id and attempt.';
  end if;
  update auth.mail_outbox m
     set leased_until = null, last_error = auth.delivery_error(error),
         next_attempt_at = coalesce(clock + backoff, m.next_attempt_at),
         failed_at = case when backoff is null then clock end,
         variables = case when backoff is not null then m.variables end
   -- Only by who still has it: a mailer whose lease is over does not hasten, or give up, what another one is sending.
   where m.id = fail_mail.id and m.attempts = fail_mail.attempt and m.leased_until is not null
     and m.sent_at is null and m.failed_at is null;
  return case when not found then 'lost' when backoff is null then 'given_up' else 'retried' end;
end
$$;
comment on function auth.fail_mail is 'A mail could not be sent: tried again later (retried), or, after a permanent refusal or the last attempt, given up and its body erased (given_up). Lost: it is not this attempt''s any more.';

create function auth.forget_mail(batch_size int) returns bigint
  language plpgsql volatile parallel unsafe
  as $$
declare
  mails bigint;
  tokens bigint;
begin
  delete from auth.mail_outbox m
   where m.id = any (array(
     select x.id from auth.mail_outbox x
      where (x.sent_at is not null or x.failed_at is not null) and x.created_at < clock_timestamp() - interval '30 days'
      order by x.created_at limit batch_size for update skip locked));
  get diagnostics mails = row_count;
  delete from auth.one_time_tokens t
   where t.id = any (array(
     select x.id from auth.one_time_tokens x
      where x.expires_at < clock_timestamp() - interval '1 day'
      order by x.expires_at limit batch_size for update skip locked));
  get diagnostics tokens = row_count;
  return mails + tokens;
end
$$;
comment on function auth.forget_mail is 'Internal. A part of the cleaning: deletes what is left of mails that were over a month ago, and expired tokens; returns how many.';
