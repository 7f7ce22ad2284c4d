-- Worked example 2, the old side: a table of plain tokens, one row per token, numbers for ids, times without a zone.
-- Who holds what:   refresh-token-of-carol-phone-2    Carol's phone; …-of-carol-phone-1 was replaced by it
--                   refresh-token-of-carol-tablet-1   Carol's tablet
--                   refresh-token-of-dave-1           Dave
-- Carol's password is bcrypt, Dave's argon2id, of both: correct horse battery staple

create table public.accounts (
  id bigint primary key,
  mail text not null,
  display_name text,
  password text,
  confirmed_at timestamp,
  blocked_at timestamp,
  created_at timestamp not null default (now() at time zone 'UTC')
);
insert into public.accounts (id, mail, display_name, password, confirmed_at, created_at) values
  (17, 'carol@example.org', 'Carol', '$2b$05$BEvYILrob/R4kRvuwH4vY.bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK', '2025-01-01', '2025-01-01'),
  (18, 'dave@example.org', 'Dave', '$argon2id$v=19$m=256,t=2,p=2$qq8JVKW6ncOD637kB7ACzw$ac3YFnLF4dYbobn69nF57yfOi6ak+uIuyIYWhqdLfKE', null, '2025-02-01'),
  (19, 'Carol@Example.org', 'Carol again', null, null, '2025-03-01');

create table public.refresh_tokens (
  id bigserial primary key,
  account_id bigint not null references public.accounts (id) on delete cascade,
  token text not null,
  device_name text,
  device_fingerprint text,
  ip_address inet,
  created_at timestamp not null,
  expires_at timestamp not null,
  is_revoked boolean not null default false,
  replaced_by bigint references public.refresh_tokens (id)
);
insert into public.refresh_tokens (id, account_id, token, device_name, device_fingerprint, ip_address, created_at, expires_at, is_revoked, replaced_by)
select t.id, t.account_id, 'refresh-token-of-' || t.token, t.device_name, md5(t.token), t.ip_address::inet, (now() at time zone 'UTC') - t.age,
       (now() at time zone 'UTC') - t.age + interval '14 days', t.is_revoked, t.replaced_by
  from (values
    (2, 17, 'carol-phone-2', 'Carol''s phone', '192.0.2.33', interval '1 day', false, null),
    (1, 17, 'carol-phone-1', 'Carol''s phone', '192.0.2.33', interval '9 days', true, 2),
    (3, 17, 'carol-tablet-1', E'Tablet\twith a tab', '2001:db8::33', interval '13 days', false, null),
    (4, 18, 'dave-1', null, null, interval '1 hour', false, null),
    (5, 18, 'dave-0', null, null, interval '20 days', false, null),
    (6, 19, 'carol-again-1', null, null, interval '1 hour', false, null)
  ) t (id, account_id, token, device_name, ip_address, age, is_revoked, replaced_by);
select setval('public.refresh_tokens_id_seq', 6);
