//! There is always an owner, whatever races; and what a change, or the end, of a membership brings about. Who may do
//! what to whom is in `ranks.rs`.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{
    audit_trail, connections, let_time_pass, race, refusal, revoked_reason, run, value, values,
};
use auth_sessions_tests::tenants::{Tenant, TwoTenants, act_as, join, outcome_of, role_of};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, log_in, rotate, sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

const REMOVE: &str = "select outcome from auth.remove_member($1, $2, correlation_id => 'request-1')";
const CHANGE: &str = "select outcome from auth.change_member_role($1, $2, $3, correlation_id => 'request-1')";
const LEAVE: &str = "select outcome from auth.leave_organization($1, correlation_id => 'request-1')";

#[tokio::test]
async fn the_last_owner_stays() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let (owner, id) = (&ours.owner, ours.id);
    assert_eq!(outcome_of(&service, owner, LEAVE, &[&id]).await, "last_owner");
    for role in ["ORGANIZATION_ADMIN", "ORGANIZATION_MEMBER"] {
        assert_eq!(outcome_of(&service, owner, CHANGE, &[&id, &owner.user_id, &role]).await, "last_owner");
    }
    assert_eq!(outcome_of(&service, owner, CHANGE, &[&id, &owner.user_id, &"ORGANIZATION_OWNER"]).await, "changed");
    assert_eq!(role_of(&admin, id, owner).await.as_deref(), Some("ORGANIZATION_OWNER"));

    // A second owner who cannot log in is none.
    let second = join(&admin, &service, id, "second@ours.example", "ORGANIZATION_OWNER").await;
    run(&admin, "update auth.users set disabled_at = now() where id = $1", &[&second.user_id]).await;
    assert_eq!(outcome_of(&service, owner, LEAVE, &[&id]).await, "last_owner");
    run(&admin, "update auth.users set disabled_at = null where id = $1", &[&second.user_id]).await;
    assert_eq!(outcome_of(&service, owner, LEAVE, &[&id]).await, "left");
    assert_eq!(role_of(&admin, id, owner).await, None);
}

/// Two owners against each other, many rounds; `first` and `second` are what each does to the other.
async fn duel(first: &'static str, second: &'static str) {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let racers = connections(&db, "auth_service", 2).await;
    for round in 0..60 {
        let tenant = Tenant::found(&admin, &service, &format!("duel-{round}")).await;
        let rival =
            join(&admin, &service, tenant.id, &format!("rival-{round}@example.org"), "ORGANIZATION_OWNER").await;
        let owners = [(tenant.owner.clone(), rival.clone()), (rival, tenant.owner.clone())];
        let outcomes = race(&racers, |n, racer| {
            let ((me, other), id, statement) = (owners[n].clone(), tenant.id, [first, second][n]);
            async move {
                racer.batch_execute("begin").await.unwrap();
                // Whoever was faster may have ended this session already.
                let assume = "select from auth.assume_session($1, $2)";
                if run(&racer, assume, &[&me.session_id, &me.jti]).await == 0 {
                    racer.batch_execute("rollback").await.unwrap();
                    return "logged out".to_owned();
                }
                let outcome: String = match statement {
                    LEAVE => value(&racer, statement, &[&id]).await,
                    CHANGE => value(&racer, statement, &[&id, &other.user_id, &"ORGANIZATION_MEMBER"]).await,
                    _ => value(&racer, statement, &[&id, &other.user_id]).await,
                };
                racer.batch_execute("commit").await.unwrap();
                outcome
            }
        })
        .await;
        let owners =
            "select count(*) from auth.organization_members where organization_id = $1 and role = 'ORGANIZATION_OWNER'";
        assert_eq!(value::<i64>(&admin, owners, &[&tenant.id]).await, 1, "round {round}: {outcomes:?}");
        let done = outcomes.iter().filter(|outcome| ["removed", "changed", "left"].contains(&outcome.as_str()));
        assert_eq!(done.count(), 1, "round {round}: {outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_who_remove_each_other_one_stays() {
    duel(REMOVE, REMOVE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_who_demote_each_other_one_stays() {
    duel(CHANGE, CHANGE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_who_leave_at_once_one_stays() {
    duel(LEAVE, LEAVE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_one_of_whom_leaves_while_the_other_removes_one_stays() {
    duel(LEAVE, REMOVE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_deleted_by_hand_while_the_other_leaves_is_waited_for() {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let tenant = Tenant::found(&admin, &service, "ours").await;
    let rival = join(&admin, &service, tenant.id, "rival@example.org", "ORGANIZATION_OWNER").await;
    admin.batch_execute("begin").await.unwrap();
    run(&admin, "delete from auth.users where id = $1", &[&rival.user_id]).await;
    let (owner, id) = (tenant.owner.clone(), tenant.id);
    let leaving = tokio::spawn(async move { outcome_of(&service, &owner, LEAVE, &[&id]).await });
    let watcher = db.superuser().await;
    auth_sessions_tests::sql::until_waiting_for_locks(&watcher, 1).await;
    admin.batch_execute("commit").await.unwrap();
    assert_eq!(leaving.await.unwrap(), "last_owner");
}

async fn is_live(admin: &Client, who: &Outcome) -> bool {
    revoked_reason(admin, who.session_id.unwrap()).await.is_none()
}

#[tokio::test]
async fn removing_a_member_ends_what_acts_for_the_organization_and_nothing_else() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let elsewhere = log_in(&service, "member@ours.example", PASSWORD).await;
    let nowhere = "update auth.sessions set organization_id = null where id = $1";
    run(&admin, nowhere, &[&elsewhere.session_id]).await;

    let removed = act_as(
        &service,
        &ours.admin,
        "select outcome, ended_sessions from auth.remove_member($1, $2, correlation_id => 'request-1')",
        &[&ours.id, &ours.member.user_id],
    )
    .await
    .unwrap();
    assert_eq!((removed[0].get::<_, &str>(0), removed[0].get::<_, i32>(1)), ("removed", 1));
    assert_eq!(revoked_reason(&admin, ours.member.session_id.unwrap()).await.as_deref(), Some("membership_removed"));
    assert!(is_live(&admin, &elsewhere).await && is_live(&admin, &ours.admin).await);
    assert_eq!(rotate(&service, &ours.member.clone().token()).await.outcome, "revoked");
    assert_eq!(role_of(&admin, ours.id, &ours.member).await, None);
    // Once each, with the request's id, by whom.
    let rows: Vec<String> = values(
        &admin,
        "select action || ' ' || actor_user_id from auth.audit_log where correlation_id = 'request-1' order by id",
        &[],
    )
    .await;
    let by = ours.admin.user_id.unwrap();
    assert_eq!(rows, [format!("session_revoked {by}"), format!("user_role_removed {by}")]);
    let all: i64 = value(
        &admin,
        "select count(*) from auth.audit_log where action in ('session_revoked', 'user_role_removed')",
        &[],
    )
    .await;
    assert_eq!(all, 2);
}

#[tokio::test]
async fn removing_a_member_takes_a_recent_authentication() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let stale = "update auth.sessions set auth_time = auth_time - interval '5 minutes 1 second' where id = $1";
    run(&admin, stale, &[&ours.owner.session_id]).await;
    assert_eq!(outcome_of(&service, &ours.owner, REMOVE, &[&ours.id, &ours.member.user_id]).await, "step_up_required");
    assert_eq!(role_of(&admin, ours.id, &ours.member).await.as_deref(), Some("ORGANIZATION_MEMBER"));
    let fresh = "update auth.sessions set auth_time = clock_timestamp() where id = $1";
    run(&admin, fresh, &[&ours.owner.session_id]).await;
    assert_eq!(outcome_of(&service, &ours.owner, REMOVE, &[&ours.id, &ours.member.user_id]).await, "removed");
}

#[tokio::test]
async fn leaving_keeps_this_session_and_ends_the_others_that_act_for_the_organization() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let other = log_in(&service, "member@ours.example", PASSWORD).await;
    assert_eq!(other.organization_id, Some(ours.id));
    assert_eq!(outcome_of(&service, &ours.member, LEAVE, &[&ours.id]).await, "left");
    assert!(is_live(&admin, &ours.member).await && !is_live(&admin, &other).await);
    let acts_for = "select organization_id from auth.sessions where id = $1";
    assert_eq!(value::<Option<Uuid>>(&admin, acts_for, &[&ours.member.session_id]).await, None);
    assert_eq!(outcome_of(&service, &ours.member, LEAVE, &[&ours.id]).await, "not_found", "twice");
    assert_eq!(rotate(&service, &ours.member.clone().token()).await.outcome, "rotated");
    assert!(audit_trail(&admin, other.session_id.unwrap()).await.contains(&"session_revoked".to_owned()));
}

#[tokio::test]
async fn a_role_counts_at_once_and_is_written_down_once() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let roles = "select auth.current_roles()";
    let now = async |who| act_as(&service, who, roles, &[]).await.unwrap()[0].get::<_, Vec<String>>(0);
    assert_eq!(now(&ours.member).await, ["ORGANIZATION_MEMBER"]);
    for (role, changes) in [("ORGANIZATION_ADMIN", 1), ("ORGANIZATION_ADMIN", 1), ("ORGANIZATION_OWNER", 2)] {
        assert_eq!(
            outcome_of(&service, &ours.owner, CHANGE, &[&ours.id, &ours.member.user_id, &role]).await,
            "changed"
        );
        assert_eq!(now(&ours.member).await, [role]);
        let rows =
            "select count(*) from auth.audit_log where action = 'user_role_changed' and correlation_id = 'request-1'";
        assert_eq!(value::<i64>(&admin, rows, &[]).await, changes, "{role}");
    }
    assert!(is_live(&admin, &ours.member).await, "a change of role ends nothing");
    let details = "select details::text from auth.audit_log where action = 'user_role_changed' order by id limit 1";
    assert_eq!(
        value::<String>(&admin, details, &[]).await,
        r#"{"to": "ORGANIZATION_ADMIN", "from": "ORGANIZATION_MEMBER"}"#
    );
}

#[tokio::test]
async fn what_sql_by_hand_does_to_memberships_is_written_down() {
    let TwoTenants { db: _db, admin, ours, theirs, .. } = TwoTenants::found().await;
    let events = "select action from auth.audit_log where action like 'user_role_%' and action <> 'user_role_created'
                     or action = 'organization_without_owner' order by id";
    run(
        &admin,
        "update auth.organization_members set role = 'ORGANIZATION_ADMIN' where user_id = $1",
        &[&ours.member.user_id],
    )
    .await;
    run(&admin, "delete from auth.users where id = $1", &[&ours.owner.user_id]).await;
    assert_eq!(
        values::<String>(&admin, events, &[]).await,
        ["user_role_changed", "user_role_removed", "organization_without_owner"]
    );
    // With the whole organization nobody is missed.
    run(&admin, "delete from auth.organizations where id = $1", &[&ours.id]).await;
    assert_eq!(values::<String>(&admin, events, &[]).await[3..], ["user_role_removed", "user_role_removed"]);
    // Moving a membership is removing one.
    let other = "select organization_id, user_id from auth.organization_members where user_id = $1";
    assert_eq!(run(&admin, other, &[&theirs.member.user_id]).await, 1);
    let organization: Uuid =
        value(&admin, "insert into auth.organizations (slug, name) values ('third', 'Third') returning id", &[]).await;
    run(
        &admin,
        "update auth.organization_members set organization_id = $1 where user_id = $2",
        &[&organization, &theirs.member.user_id],
    )
    .await;
    assert!(!is_live(&admin, &theirs.member).await);
}

#[tokio::test]
async fn members_and_sessions_come_in_pages() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    for n in 0..5 {
        join(&admin, &service, ours.id, &format!("more-{n}@example.org"), "ORGANIZATION_MEMBER").await;
    }
    // Of the same microsecond: the id decides.
    run(
        &admin,
        "update auth.organization_members set created_at = '2026-01-01' where user_id <> $1",
        &[&ours.owner.user_id],
    )
    .await;
    run(&admin, "update auth.sessions set created_at = '2026-01-01'", &[]).await;
    for (list, id, time) in [
        ("auth.list_members", "user_id", "member_since"),
        ("auth.list_organization_sessions", "session_id", "created_at"),
    ] {
        let (mut seen, mut after): (Vec<Uuid>, Option<(std::time::SystemTime, Uuid)>) = (vec![], None);
        loop {
            let sql = format!("select {id}, {time} from {list}($1, 3, $2, $3)");
            let (time, last) = after.unzip();
            let rows = act_as(&service, &ours.owner, &sql, &[&ours.id, &time, &last]).await.unwrap();
            seen.extend(rows.iter().map(|row| row.get::<_, Uuid>(0)));
            match rows.last() {
                Some(row) if rows.len() == 3 => after = Some((row.get(1), row.get(0))),
                _ => break,
            }
        }
        assert_eq!(seen.len(), 8, "{list}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 8, "{list}");
    }
    for arguments in ["$1, 0", "$1, 201", "$1, null", "$1, 1, now()", "$1, 1, null, gen_random_uuid()"] {
        let listed =
            act_as(&service, &ours.owner, &format!("select from auth.list_members({arguments})"), &[&ours.id]).await;
        assert_eq!(refusal(listed).code, "22023", "{arguments}");
    }
}

#[tokio::test]
async fn only_live_sessions_of_the_organization_are_listed_and_ended() {
    let TwoTenants { db: _db, admin, service, ours, .. } = TwoTenants::found().await;
    let list = "select session_id from auth.list_organization_sessions($1)";
    let listed = async |who| {
        let rows = act_as(&service, who, list, &[&ours.id]).await.unwrap();
        let mut ids: Vec<Option<Uuid>> = rows.iter().map(|row| row.get(0)).collect();
        ids.sort();
        ids
    };
    let sorted = |mut ids: Vec<Option<Uuid>>| {
        ids.sort();
        ids
    };
    let (owner, admins, member) = (ours.owner.session_id, ours.admin.session_id, ours.member.session_id);
    assert_eq!(listed(&ours.owner).await, sorted(vec![owner, admins, member]));
    assert_eq!(listed(&ours.admin).await, sorted(vec![admins, member]), "those whom one manages, and one's own");
    let elsewhere = sign_up(&service, "elsewhere@example.org").await.session_id;
    let end = "select auth.end_organization_session($1, $2)";
    assert_eq!(outcome_of(&service, &ours.owner, end, &[&ours.id, &elsewhere]).await, "session_not_found");

    // A member's own session that acts for something else is the member's own affair.
    let at_home = log_in(&service, "member@ours.example", PASSWORD).await.session_id;
    run(&admin, "update auth.sessions set organization_id = null where id = $1", &[&at_home]).await;
    assert_eq!(listed(&ours.owner).await, sorted(vec![owner, admins, member]));
    assert_eq!(outcome_of(&service, &ours.owner, end, &[&ours.id, &at_home]).await, "session_not_found");
    assert_eq!(revoked_reason(&admin, at_home.unwrap()).await, None);

    let_time_pass(&admin, member.unwrap(), "8 days").await;
    assert_eq!(listed(&ours.owner).await, sorted(vec![owner, admins]), "expired");
    assert_eq!(outcome_of(&service, &ours.owner, end, &[&ours.id, &member]).await, "session_not_found");
    assert_eq!(outcome_of(&service, &ours.owner, end, &[&ours.id, &admins]).await, "ended");
    assert_eq!(outcome_of(&service, &ours.owner, end, &[&ours.id, &admins]).await, "session_not_found", "again");
    assert_eq!(listed(&ours.owner).await, [owner]);
    assert_eq!(revoked_reason(&admin, admins.unwrap()).await.as_deref(), Some("ended_by_organization"));
}
