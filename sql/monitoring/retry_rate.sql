-- How refreshes are answered: the share of retries, replays and refusals since the statistics were reset.
--
-- A retry is the same token again within auth_sessions.retry_window: the answer was lost, or several tabs share it. It is
-- harmless; a share that grows says that answers get lost (a proxy's time-out, a client that does not wait).
-- Normal: retried below 5 %, unknown below 1 %. Counted in shared memory: all null without shared_preload_libraries.
select s.stats_reset, s.rotated, s.retried, s.replayed, s.expired, s.revoked, s.unknown,
       round(100.0 * s.retried / nullif(s.rotated + s.retried, 0), 2) as retried_percent,
       round(100.0 * s.replayed / nullif(s.rotated + s.retried, 0), 4) as replayed_percent,
       round(100.0 * s.unknown / nullif(s.rotated + s.retried + s.unknown, 0), 2) as unknown_percent,
       round((s.rotation_time / nullif(s.rotated + s.retried, 0))::numeric, 3) as milliseconds_each,
       s.note
  from auth.session_statistics s;
