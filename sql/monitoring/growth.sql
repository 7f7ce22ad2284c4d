-- How large everything is, and what one session or event costs.
--
-- A session is one row however often it is refreshed, so auth.sessions grows with logins and shrinks by cleaning; the
-- audit log grows until retention drops its months. Normal: well below 1,500 bytes a session, indexes included. More, and
-- growing, is bloat: see table_health.sql.
select c.oid::regclass as table, pg_size_pretty(pg_total_relation_size(c.oid)) as size,
       pg_size_pretty(pg_indexes_size(c.oid)) as of_it_indexes, s.n_live_tup as rows,
       round(pg_total_relation_size(c.oid)::numeric / nullif(s.n_live_tup, 0)) as bytes_per_row,
       s.n_tup_ins as inserted, s.n_tup_del as deleted
  from pg_class c join pg_stat_user_tables s on s.relid = c.oid
 where c.relnamespace = 'auth'::regnamespace
 order by pg_total_relation_size(c.oid) desc;
