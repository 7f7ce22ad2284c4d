-- Worked example 1, the old side: one row per token. A refresh inserts a row that names the one before (rotated_from).
-- Users and sessions have ids of their own making. `psql -f auth_sessions.sql` makes it in any database.
--
-- Who holds what:   refresh-token-of-ada-phone-3    Ada's phone, refreshed twice: …-1 and …-2 are consumed
--                   refresh-token-of-ada-laptop-1   Ada's laptop
--                   refresh-token-of-bob-1          Bob
--                   (Eve's token was revoked, Max's has expired, Ida is not active any more)
-- Ada's password is argon2id, Bob's bcrypt, of both: correct horse battery staple

create table public.users (
  id varchar(32) primary key,
  email varchar(255) not null,
  full_name varchar(100),
  password_hash varchar(255),
  email_verified boolean not null default false,
  is_active boolean not null default true,
  created_at timestamptz not null default now()
);
insert into public.users (id, email, full_name, password_hash, email_verified, is_active, created_at) values
  ('usr_ada', 'ada@example.org', 'Ada Lovelace', '$argon2id$v=19$m=256,t=2,p=2$qq8JVKW6ncOD637kB7ACzw$ac3YFnLF4dYbobn69nF57yfOi6ak+uIuyIYWhqdLfKE', true, true, now() - interval '2 years'),
  ('usr_bob', 'Bob@Example.org', 'Bob', '$2b$05$BEvYILrob/R4kRvuwH4vY.bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK', false, true, now() - interval '1 year'),
  ('usr_eve', 'eve@example.org', null, 'md5:5f4dcc3b5aa765d61d8327deb882cf99', true, true, now() - interval '1 year'),
  ('usr_max', 'max@example.org', 'Max', null, true, true, now() - interval '1 year'),
  ('usr_ida', 'ida@example.org', 'Ida', null, true, false, now() - interval '1 year'),
  ('usr_odd', 'no address', 'Odd', null, true, true, now() - interval '1 year');

create table public.auth_sessions (
  id varchar(32) primary key,
  user_id varchar(32),
  refresh_token_hash varchar(64),
  family_id varchar(36),
  current_jti varchar(36),
  rotated_from varchar(32),
  user_agent text,
  ip varchar(45),
  created_at timestamptz not null default now(),
  last_used timestamptz,
  expires_at timestamptz not null,
  revoked_at timestamptz
);
create index auth_sessions_user_id_idx on public.auth_sessions (user_id);
create index auth_sessions_refresh_token_hash_idx on public.auth_sessions (refresh_token_hash);
insert into public.auth_sessions
  (id, user_id, refresh_token_hash, family_id, current_jti, rotated_from, user_agent, ip, created_at, last_used, expires_at, revoked_at)
select s.id, s.user_id, encode(sha256(convert_to('refresh-token-of-' || s.token, 'UTF8')), 'hex'), s.family_id, 'jti-' || s.id, s.rotated_from, s.user_agent, s.ip,
       now() - s.age, now() - s.age, now() - s.age + interval '7 days', case when s.is_revoked then now() - interval '1 hour' end
  from (values
    ('t1', 'usr_ada', 'ada-phone-1', '7d1b0c52-8f6e-4c1f-9a53-0b9f4c7d2e11', null, 'Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1', '203.0.113.7', interval '40 days', true),
    ('t2', 'usr_ada', 'ada-phone-2', '7d1b0c52-8f6e-4c1f-9a53-0b9f4c7d2e11', 't1', 'Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1', '203.0.113.7', interval '3 days', true),
    ('t3', 'usr_ada', 'ada-phone-3', '7d1b0c52-8f6e-4c1f-9a53-0b9f4c7d2e11', 't2', 'Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1', '2001:db8:17:9::1', interval '2 hours', false),
    ('t4', 'usr_ada', 'ada-laptop-1', 'family-of-t4', null, 'Mozilla/5.0 (X11; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0', '::ffff:198.51.100.20', interval '1 day', false),
    ('t5', 'usr_bob', 'bob-1', 'family-of-t5', null, 'back\slash "agent"', 'unknown', interval '5 minutes', false),
    ('t6', 'usr_eve', 'eve-1', 'family-of-t6', null, null, null, interval '1 day', true),
    ('t7', 'usr_max', 'max-1', 'family-of-t7', null, null, null, interval '60 days', false),
    ('t8', 'usr_ida', 'ida-1', 'family-of-t8', null, null, null, interval '1 day', false),
    ('t9', 'usr_odd', 'odd-1', 'family-of-t9', null, null, null, interval '1 day', false)
  ) s (id, user_id, token, family_id, rotated_from, user_agent, ip, age, is_revoked);
