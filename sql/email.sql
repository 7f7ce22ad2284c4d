-- The e-mail of an account: verifying it, and changing it. What is mailed goes to the address alone; the answers tell
-- nobody who has an account.

-- So many mails of a kind to an address, and no more, whoever asks: a mailbox must not be filled from here. The same
-- for an address that nobody has. Three at once, then one every ten minutes.
create function auth.may_mail(kind text, address text, ip inet, user_agent text, correlation_id text) returns boolean
  language plpgsql volatile parallel unsafe
  as $$
begin
  return (select l.allowed
            from auth.take_rate_limit('mail_' || kind, lower(address collate "C"), 3, interval '30 minutes',
                                      ip, user_agent, correlation_id) l);
end
$$;
comment on function auth.may_mail is 'Internal. Whether one more mail of this kind may go to this address, and counts it.';

create function auth.require_address(email text) returns void
  language plpgsql immutable parallel safe
  as $$
begin
  if email is null then
    raise exception 'email must not be null' using errcode = 'null_value_not_allowed',
      hint = 'For example: ada@example.org.';
  elsif email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' or octet_length(email) > 254 then
    raise exception 'email is no address that mail can be sent to' using errcode = 'invalid_parameter_value',
      hint = 'For example: ada@example.org, of at most 254 bytes.';
  end if;
end
$$;
comment on function auth.require_address is 'Internal. Refuses what is no e-mail address.';

-- Nothing that a stranger chose is in this mail: a sign-up with somebody else's address must not carry a message.
create function auth.mail_verification(user_id uuid, email text) returns void
  language plpgsql volatile parallel unsafe
  as $$
declare
  lifetime interval := auth.setting('email_verification_ttl')::interval;
begin
  perform auth.queue_mail(
    'verify_email', email,
    jsonb_build_object('token', auth.new_one_time_token(user_id, 'verify_email', lifetime, email),
                       'expires_at', clock_timestamp() + lifetime),
    user_id, lifetime);
end
$$;
comment on function auth.mail_verification is 'Internal. Queues the mail that lets a user prove an address.';

create function auth.verify_email(
  token text, ip inet default null, user_agent text default null, correlation_id text default null
) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  shown auth.one_time_tokens := auth.find_one_time_token(token, 'verify_email');
  u auth.users;
begin
  -- Who shows a real token may lock its user; the token itself comes after, in the order of all locks.
  select x.* into u from auth.users x where x.id = shown.user_id and x.disabled_at is null for no key update;
  if u.id is not null then
    shown := auth.use_one_time_token(token, 'verify_email');
  end if;
  -- It proves the address that it was mailed to, which may not be the account's any more.
  if u.id is null or shown.id is null or lower(shown.email collate "C") <> lower(u.email collate "C") then
    return 'invalid_token';
  end if;
  if u.email_verified_at is null then
    update auth.users x set email_verified_at = clock_timestamp() where x.id = u.id;
    perform auth.record_event('email_verified', 'info', true, u.id, correlation_id => correlation_id, ip => ip,
                              user_agent => user_agent);
  end if;
  return 'verified';
end
$$;
comment on function auth.verify_email is 'Takes the token of a verification mail, once: verified, or invalid_token for every other.';

create function auth.resend_verification(
  email text default null, ip inet default null, user_agent text default null, correlation_id text default null
) returns void
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  address text := email;
  u auth.users;
begin
  if address is null then
    select x.email into address from auth.users x where x.id = auth.require_identity();
  else
    perform auth.require_address(address);
  end if;
  if not auth.may_mail('verify_email', address, ip, user_agent, correlation_id) then
    return;
  end if;
  -- This much of a lock only, and only against the account's deletion meanwhile: whoever asks has proved nothing.
  select x.* into u from auth.users x
   where lower(x.email collate "C") = lower(address collate "C") and x.disabled_at is null and x.email_verified_at is null
     for key share;
  if found then
    perform auth.mail_verification(u.id, u.email);
  end if;
end
$$;
comment on function auth.resend_verification is 'Mails the verification again, to the address of the proved session''s user, or to the one given. Does nothing for an address that nobody has, that is verified already, or that was mailed too often; and never tells.';

create function auth.request_email_change(
  new_email text, ip inet default null, user_agent text default null, correlation_id text default null
) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  lifetime interval := auth.setting('email_verification_ttl')::interval;
  u auth.users;
begin
  perform auth.require_address(new_email);
  if not auth.recently_authenticated() then
    return 'step_up_required';
  end if;
  -- A mailbox is not filled from here, neither the new one's nor, by asking for ever other new ones, the user's own.
  if not auth.may_mail('change_email', new_email, ip, user_agent, correlation_id)
     or not auth.may_mail('change_email_by', caller::text, ip, user_agent, correlation_id) then
    return 'requested';
  end if;
  select x.* into u from auth.users x where x.id = caller for no key update;
  perform auth.record_event('email_change_requested', 'info', true, u.id, auth.current_organization_id(),
                            auth.current_session_id(), correlation_id => correlation_id, ip => ip, user_agent => user_agent);
  if exists (select from auth.users x where lower(x.email collate "C") = lower(new_email collate "C") and x.id <> u.id) then
    -- Told to whom it belongs, not to who asks.
    perform auth.queue_mail('email_in_use', new_email, '{}');
  else
    perform auth.queue_mail(
      'change_email', new_email,
      jsonb_build_object('token', auth.new_one_time_token(u.id, 'change_email', lifetime, new_email),
                         'expires_at', clock_timestamp() + lifetime),
      u.id, lifetime);
  end if;
  perform auth.queue_mail('email_change_requested', u.email, '{}', u.id);
  return 'requested';
end
$$;
comment on function auth.request_email_change is 'Mails a link to the new address and a notice to the old one; nothing changes until the link is used. The answer is requested also for an address that another account has: that one is told. Outcome step_up_required when the proved session''s user has not authenticated lately.';

-- The link alone is not enough: who mistypes the new address mails it to a stranger, who must not get the account.
create function auth.confirm_email_change(
  token text, ip inet default null, user_agent text default null, correlation_id text default null
) returns text
  language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  caller uuid := auth.require_identity();
  shown auth.one_time_tokens := auth.find_one_time_token(token, 'change_email');
  u auth.users;
  violated text;
begin
  if shown.user_id is distinct from caller then
    return 'invalid_token';
  end if;
  select x.* into u from auth.users x where x.id = caller for no key update;
  shown := auth.use_one_time_token(token, 'change_email');
  if shown.id is null then
    return 'invalid_token';
  end if;
  begin
    update auth.users x set email = shown.email, email_verified_at = clock_timestamp() where x.id = u.id;
  exception when unique_violation then
    get stacked diagnostics violated = constraint_name;
    if violated <> 'users_email_key' then
      raise;
    end if;
    return 'email_taken';
  end;
  -- Links that went to the old address end with it. No session does: nobody's password has changed.
  delete from auth.one_time_tokens t where t.user_id = u.id and t.purpose in ('verify_email', 'reset_password');
  perform auth.record_event('user_email_changed', 'warning', true, u.id, auth.current_organization_id(),
                            auth.current_session_id(), correlation_id => correlation_id, ip => ip, user_agent => user_agent);
  perform auth.queue_mail('email_changed', u.email, '{}', u.id);
  return 'email_changed';
end
$$;
comment on function auth.confirm_email_change is 'Takes the token that was mailed to the new address, once, from a session of the same user: email_changed, and the address is verified; email_taken when another account took it meanwhile; invalid_token for every other token. The old address is told.';
