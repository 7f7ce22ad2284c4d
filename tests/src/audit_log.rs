//! Months of the audit log that are long over, for tests of what is done with them.

use tokio_postgres::Client;

use crate::sql::{run, value};

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
