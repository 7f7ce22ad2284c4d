-- Who was given or lost power, by whom, in the last 7 days: accounts and their passwords, roles, recovery windows.
--
-- actor_user_id is the user who did it through the service; null: somebody's SQL, and actor is the database role.
select a.created_at, a.action, a.actor, a.actor_user_id, a.user_id, a.organization_id, a.details, a.correlation_id
  from auth.audit_log a
 where a.action in ('user_role_created', 'user_role_changed', 'user_role_removed', 'organization_without_owner', 'organization_deleted',
                    'user_disabled', 'user_enabled', 'user_deleted', 'user_password_changed', 'recovery_window_opened',
                    'recovery_window_closed', 'user_account_unlocked', 'operator_appointed', 'operator_dismissed', 'identity_linked', 'audit_partition_dropped')
   and a.created_at > clock_timestamp() - interval '7 days'
 order by a.created_at desc
 limit 200;
