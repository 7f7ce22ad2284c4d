//! The audit log: months of it that are long over, for tests of what is done with them; and whether it is as documented.

use tokio_postgres::Client;

use crate::sql::{run, value, values};

/// Makes the partition of the month that lies so many months back, as the upkeep of that time would have; its name. Any
/// month from two back on is over long enough to be sealed, whatever day it is today.
pub async fn make_past_month(admin: &Client, months_back: i32) -> String {
    let make = "select auth.make_audit_partition(now() - make_interval(months => $1))";
    admin.batch_execute("set role auth_owner").await.expect("set role");
    assert!(value::<bool>(admin, make, &[&months_back]).await, "{months_back} months back");
    admin.batch_execute("reset role").await.expect("reset role");
    value(admin, "select auth.audit_partition_name(now() - make_interval(months => $1))", &[&months_back]).await
}

/// Writes so many events of the month that lies so many months back.
pub async fn write_past_events(admin: &Client, months_back: i32, events: i32) {
    let insert = "insert into auth.audit_log (action, severity, success, created_at, user_id, correlation_id, ip_cidr, user_agent, details)
                  select 'past_event', 'info', true, auth.month_of(now() - make_interval(months => $1)) + n * interval '1 second',
                         gen_random_uuid(), 'request ' || n, '2001:db8::/64', e'Mozilla \"\\\\ \\n \\u00e9\\U0001F511', jsonb_build_object('n', n, 'share', n / 3.0)
                    from generate_series(1, $2) n";
    run(admin, insert, &[&months_back, &events]).await;
}

/// What of the audit log is not as `auth.audit_event_types` says, one line a kind of problem: an action that is not in it,
/// a member of the details that is not, or that is missing, or of another type. Rows that a test wrote by hand, past
/// `auth.record_event`, have no actor, and are passed over.
pub async fn undocumented(admin: &Client) -> Vec<String> {
    values(
        admin,
        r#"with events as (select distinct a.action, a.details from auth.audit_log a where a.actor is not null),
                members as (
                  select t.action, d.key, rtrim(d.value, '?') as kind, d.value like '%?' as is_optional
                    from auth.audit_event_types t, jsonb_each_text(t.details) d),
                said as (
                  select e.action, d.key, d.value from events e, jsonb_each(e.details) d
                   where d.key not in ('trace_id', 'version'))
           select distinct format('%s is not documented', e.action) from events e
            where not exists (select from auth.audit_event_types t where t.action = e.action)
           union
           select format('%s: %s is missing in %s', e.action, m.key, e.details) from events e join members m using (action)
            where not m.is_optional and coalesce(jsonb_typeof(e.details -> m.key), 'null') = 'null'
           union
           select format('%s: %s is not documented', s.action, s.key) from said s
            where not exists (select from members m where m.action = s.action and m.key = s.key)
           union
           select format('%s: %s is no %s: %s', s.action, s.key, m.kind, s.value) from said s join members m using (action, key)
            where jsonb_typeof(s.value) <> 'null' and not case m.kind
                    when 'text' then jsonb_typeof(s.value) = 'string'
                    when 'interval' then jsonb_typeof(s.value) = 'string'
                    when 'int' then s.value::text ~ '^-?[0-9]+$'
                    when 'boolean' then jsonb_typeof(s.value) = 'boolean'
                    when 'object' then jsonb_typeof(s.value) = 'object'
                    when 'uuid' then s.value::text ~ '^"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"$'
                    when 'timestamptz' then s.value::text ~ '^"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.+-]+"$'
                    when 'text[]' then s.value::text ~ '^\[("([^"\\]|\\.)*"(, )?)*\]$'
                    when 'uuid[]' then s.value::text ~ '^\[("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"(, )?)+\]$'
                    else false end
            order by 1"#,
        &[],
    )
    .await
}
