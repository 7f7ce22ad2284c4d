-- What was done since the server started, from shared memory (pg_ext/src/stats.rs): nothing of it is on disk.

create function auth.count_cleaned(sessions bigint) returns void
  language c volatile strict parallel unsafe as 'MODULE_PATHNAME', 'count_cleaned_wrapper';
comment on function auth.count_cleaned is 'Internal. So many sessions were cleaned away.';

create function auth.count_maintenance(microseconds bigint, failures text[]) returns void
  language c volatile strict parallel unsafe as 'MODULE_PATHNAME', 'count_maintenance_wrapper';
comment on function auth.count_maintenance is 'Internal. A call of auth.run_maintenance: how long it took, and the SQLSTATEs of the tasks that failed.';

create function auth.read_session_statistics(
  out is_counting boolean, out note text, out stats_reset timestamptz,
  out rotated bigint, out retried bigint, out retained bigint, out replayed bigint, out overtaken bigint, out revoked bigint,
  out expired bigint, out unknown bigint, out ahead bigint, out limited bigint, out device_mismatch bigint, out rotation_time float8,
  out cleaned bigint, out maintenance_runs bigint, out maintenance_failures bigint, out maintenance_time float8,
  out last_maintenance_at timestamptz, out last_failure_at timestamptz, out last_failure text
) returns setof record
  language c volatile parallel unsafe rows 1 as 'MODULE_PATHNAME', 'read_session_statistics_wrapper';
comment on function auth.read_session_statistics is 'What auth.session_statistics shows.';

create function auth.reset_session_statistics() returns void
  language c volatile parallel unsafe as 'MODULE_PATHNAME', 'reset_session_statistics_wrapper';
comment on function auth.reset_session_statistics is 'Sets the counters of auth.session_statistics of this database to zero. For operators (auth_admin).';

create view auth.session_statistics with (security_invoker = true) as
  select s.is_counting, s.note, s.stats_reset,
         s.rotated, s.retried, s.retained, s.replayed, s.overtaken, s.revoked, s.expired, s.unknown, s.ahead,
         s.limited, s.device_mismatch, s.rotation_time, s.cleaned, s.maintenance_runs, s.maintenance_failures, s.maintenance_time,
         s.last_maintenance_at, s.last_failure_at, s.last_failure
    from auth.read_session_statistics() s;
comment on view auth.session_statistics is 'One row: how auth.rotate_session_token answered in this database since stats_reset (a restart of the server, or auth.reset_session_statistics()), and what maintenance did. Counted in shared memory, so only with auth_sessions in shared_preload_libraries; without it, is_counting is false, note says so, and the rest is null.';
comment on column auth.session_statistics.rotated is 'Answers by outcome, whether or not the caller committed: see auth.rotate_session_token.';
comment on column auth.session_statistics.rotation_time is 'Milliseconds spent in auth.rotate_session_token, waiting for locks included; commits are not.';
comment on column auth.session_statistics.cleaned is 'Sessions that were deleted after their retention.';
comment on column auth.session_statistics.maintenance_runs is 'Calls of auth.run_maintenance that did something or found nothing to do, by whoever made them.';
comment on column auth.session_statistics.maintenance_failures is 'Tasks of it that failed, and turns of the background worker that ended with an error. The server''s log has each.';
comment on column auth.session_statistics.maintenance_time is 'Milliseconds spent in auth.run_maintenance.';
comment on column auth.session_statistics.last_failure is 'The SQLSTATE of the last failure.';
