-- What the service tells Prometheus of its database (its /metrics). For its role, which reads almost nothing: so figures
-- only, of the whole, and nothing of anybody.

-- Cheap however large the tables are: by an index, bounded, from statistics or from shared memory. The service asks four
-- times a minute at most.
create function auth.service_figures() returns table (figure text, label text, value double precision)
  language plpgsql stable parallel restricted security definer rows 60 set search_path = pg_catalog, pg_temp
  as $$
declare
  clock constant timestamptz := clock_timestamp();
  due_before constant timestamptz := clock - auth.setting('session_retention')::interval;
  counted constant auth.session_statistics := (select s from auth.session_statistics s);
begin
  return query
  select 'extension_info', e.extversion, 1::float8 from pg_extension e where e.extname = 'auth_sessions'
  union all select 'library_info', auth.extension_version(), 1
  union all select 'standby', null, pg_is_in_recovery()::int
  union all select 'recovery_windows_open', null, count(*) from auth.recovery_windows w where w.closes_at > clock;

  -- By the index of what is not sent.
  return query
  select f.figure, s.state, f.value
    from (values ('waiting'), ('sending'), ('retrying')) s (state)
    left join (select case when m.leased_until > clock then 'sending' when m.attempts > 0 then 'retrying' else 'waiting' end as state,
                      count(*) as mails, min(m.created_at) as oldest
                 from (select m.leased_until, m.attempts, m.created_at from auth.mail_outbox m
                        where m.sent_at is null and m.failed_at is null limit 100000) m
                group by 1) q on q.state = s.state
   cross join lateral (values ('outbox_mails', coalesce(q.mails, 0)::float8),
                              ('outbox_oldest_seconds', coalesce(extract(epoch from clock - q.oldest), 0)::float8)) f (figure, value);

  return query
  select f.figure, s.state, f.value
    from (values ('held'), ('waiting'), ('sending'), ('retrying')) s (state)
    left join (select case when a.leased_until > clock then 'sending' when a.attempts > 0 then 'retrying'
                           when a.released_at > clock then 'held' else 'waiting' end as state,
                      count(*) as webhooks, min(a.first_at) as oldest
                 from (select o.leased_until, o.attempts, o.released_at, o.first_at from auth.alert_outbox o
                        where o.sent_at is null and o.failed_at is null limit 100000) a
                group by 1) q on q.state = s.state
   cross join lateral (values ('outbox_webhooks', coalesce(q.webhooks, 0)::float8),
                              ('outbox_webhooks_oldest_seconds', coalesce(extract(epoch from clock - q.oldest), 0)::float8)) f (figure, value);

  -- What cleaning takes next: the first that was revoked, and of those that expired the first of the first week (whose
  -- order is not known: of a thousand of it).
  return query
  select 'cleanup_lag_seconds', null::text, greatest(coalesce(extract(epoch from due_before - least(
           (select s.revoked_at from auth.sessions s where s.revoked_at is not null order by s.revoked_at limit 1),
           (select min(x.ended_at)
              from (select least(s.idle_expires_at, s.expires_at) as ended_at from auth.sessions s
                     where s.revoked_at is null and s.cleanup_week <= (due_before at time zone 'UTC')::date
                     order by s.cleanup_week limit 1000) x))), 0), 0)::float8;

  return query
  select f.figure, null::text, f.value
    from (select count(*) filter (where c.relname ~ '\d$') as months,
                 count(*) filter (where c.relname ~ '\d$' and c.relname > 'audit_log_' || to_char(clock at time zone 'UTC', 'YYYY_MM')) as ahead,
                 sum(pg_stat_get_live_tuples(c.oid)) filter (where c.relname !~ '\d$') as default_rows
            from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'auth.audit_log'::regclass) p
   cross join lateral (values ('audit_partitions', p.months::float8), ('audit_months_ahead', p.ahead), ('audit_default_rows', coalesce(p.default_rows, 0)),
                              ('audit_unsealed_seconds', (select coalesce(extract(epoch from clock - max(s.to_time)), 0) from auth.audit_seals s))) f (figure, value);

  return query
  select f.figure, t.name, f.value
    from (select case when c.relname like 'audit\_log%' then 'audit_log' else c.relname end::text as name,
                 sum(pg_stat_get_live_tuples(c.oid)) as rows, sum(pg_total_relation_size(c.oid)) as bytes
            from pg_class c
           where c.relnamespace = 'auth'::regnamespace and c.relkind = 'r'
             and (c.relname in ('users', 'organizations', 'sessions', 'mail_outbox') or c.relname like 'audit\_log\_%')
           group by 1) t
   cross join lateral (values ('table_rows', t.rows::float8), ('table_bytes', t.bytes)) f (figure, value);

  -- Counted in shared memory, or not at all: then there is no row.
  return query
  select f.figure, f.label, f.value
    from (values ('statistics_counted', null, counted.is_counting::int::float8),
                 ('refreshes', 'rotated', counted.rotated), ('refreshes', 'retried', counted.retried),
                 ('refreshes', 'retained', counted.retained), ('refreshes', 'replayed', counted.replayed),
                 ('refreshes', 'overtaken', counted.overtaken), ('refreshes', 'revoked', counted.revoked),
                 ('refreshes', 'expired', counted.expired), ('refreshes', 'unknown', counted.unknown),
                 ('refreshes', 'ahead', counted.ahead), ('refreshes', 'limited', counted.limited),
                 ('refreshes', 'device_mismatch', counted.device_mismatch),
                 ('rotation_seconds', null, counted.rotation_time / 1000), ('sessions_cleaned', null, counted.cleaned),
                 ('maintenance_runs', null, counted.maintenance_runs), ('maintenance_failures', null, counted.maintenance_failures),
                 ('maintenance_last_run_timestamp_seconds', null, extract(epoch from counted.last_maintenance_at))) f (figure, label, value)
   where f.value is not null;
end
$$;
comment on function auth.service_figures is 'Figures of this database for the metrics of the service, and nothing of anybody: versions, mail that waits, how far cleaning is behind, the audit log''s months, sizes, and, with the library preloaded, counters. Cheap however large the tables are. sql/monitoring/README.md says what each is, as auth_api_database_….';
