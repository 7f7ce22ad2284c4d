-- The months of the audit log: whether the next ones are there, and whether the old ones are sealed.
--
-- Normal: this month and the next three have a partition, months that ended more than a day ago are sealed, and
-- audit_log_default is empty but for the days before the first maintenance. Rows that come into it say that nobody makes
-- partitions: select auth.maintain_audit_partitions();
select c.relname as partition, pg_get_expr(c.relpartbound, c.oid) as bounds, s.n_live_tup as rows,
       pg_size_pretty(pg_total_relation_size(c.oid)) as size, x.number as seal, x.sealed_at
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
  left join pg_stat_user_tables s on s.relid = c.oid
  left join auth.audit_seals x on x.partition = c.relname and c.relname <> 'audit_log_default'
 where i.inhparent = 'auth.audit_log'::regclass
 order by c.relname;
