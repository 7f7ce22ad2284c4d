-- Worked example 3, the old side: one row per session, rotated in place; HMAC-SHA-256 of the token (hex); uuids.
-- The key of the HMAC: 6f1c29b0a4d87e53c1902b5fe68d3a74b9e2075dd14f8cc6530ae97b28f461d9
-- Who holds what:   refresh-token-of-grace-laptop, …-of-grace-phone, …-of-alan-laptop
-- Grace's password is argon2id, Alan's bcrypt, of both: correct horse battery staple

create table public.people (
  id uuid primary key,
  email text not null unique,
  name text not null,
  password_hash text,
  email_verified_at timestamptz,
  disabled_at timestamptz
);
insert into public.people (id, email, name, password_hash, email_verified_at) values
  ('11111111-2222-4333-8444-555555555501', 'grace@example.org', 'Grace Hopper', '$argon2id$v=19$m=256,t=2,p=2$qq8JVKW6ncOD637kB7ACzw$ac3YFnLF4dYbobn69nF57yfOi6ak+uIuyIYWhqdLfKE', '2024-05-01'),
  ('11111111-2222-4333-8444-555555555502', 'alan@example.org', 'Alan Turing', '$2b$05$BEvYILrob/R4kRvuwH4vY.bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK', null);

create table public.sessions (
  id uuid primary key,
  person_id uuid not null references public.people (id) on delete cascade,
  refresh_token_hash text not null unique,
  previous_refresh_token_jti text,
  user_agent text,
  ip_address text,
  created_at timestamptz not null,
  last_used_at timestamptz,
  expires_at timestamptz not null,
  revoked_at timestamptz
);
insert into public.sessions values
  ('aaaaaaaa-0000-4000-8000-000000000001', '11111111-2222-4333-8444-555555555501', '75ab2cd989e12f6bd33002a1861646fcb692eca921eefdcaa4acf1bd56ace887', 'jti-6', 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36', '203.0.113.7', now() - interval '90 days', now() - interval '1 hour', now() + interval '20 days', null),
  ('aaaaaaaa-0000-4000-8000-000000000002', '11111111-2222-4333-8444-555555555501', 'dee2c5f7f309facad98b121b8fc2b2b59e87b0e13654d068bc6e5df5c31db1c0', null, 'MyApp/1.2 CFNetwork/1490.0.4 Darwin/23.2.0', null, now() - interval '1 day', null, now() + interval '29 days', null),
  ('aaaaaaaa-0000-4000-8000-000000000003', '11111111-2222-4333-8444-555555555502', 'f0e1fd6bfd4fa31a65c368b62c920d8b1aa5101eb732f941e1fa6cdf29800397', 'jti-2', null, '10.0.0.1, 203.0.113.9', now() - interval '3 days', now() - interval '2 days', now() + interval '27 days', null),
  ('aaaaaaaa-0000-4000-8000-000000000004', '11111111-2222-4333-8444-555555555502', 'not a hash', 'jti-9', null, null, now() - interval '3 days', null, now() + interval '27 days', null);
