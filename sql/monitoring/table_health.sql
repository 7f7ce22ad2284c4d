-- Dead rows, and whether refreshes are HOT updates.
--
-- A refresh changes no indexed column, so nearly all updates of auth.sessions are HOT: no index is touched, and the old
-- version is cleared away by the next visitor of the page. Normal: hot_percent above 95 in auth.sessions, dead_percent
-- below 20. Lower: something holds an old snapshot (a long transaction, a stale replication slot), the table's fillfactor
-- was changed, or an index was added on a column that a refresh changes.
select s.relid::regclass as table, s.n_live_tup as rows, s.n_dead_tup as dead,
       round(100.0 * s.n_dead_tup / nullif(s.n_live_tup + s.n_dead_tup, 0), 1) as dead_percent,
       s.n_tup_upd as updates, round(100.0 * s.n_tup_hot_upd / nullif(s.n_tup_upd, 0), 1) as hot_percent,
       greatest(s.last_vacuum, s.last_autovacuum) as last_vacuum, greatest(s.last_analyze, s.last_autoanalyze) as last_analyze
  from pg_stat_user_tables s
 where s.schemaname = 'auth' and s.n_live_tup + s.n_dead_tup > 0
 order by s.n_dead_tup desc;
