-- The newest seal of the audit log, to be kept outside of the database.
--
-- Send it daily to where the database's superuser cannot change it (another team's log, a ticket, a time-stamping
-- service): the digest stands for everything before it. Later, auth.verify_audit_log() says whether the log is what was
-- sealed, and this row, found again in auth.audit_seals with the digest that you kept, that the seals are.
select s.number, s.partition, s.to_time, s.row_count, encode(s.digest, 'hex') as digest, s.sealed_at,
       clock_timestamp() - s.to_time as sealed_until
  from auth.audit_seals s
 order by s.number desc
 limit 1;
