//! What owners, administrators and operators oversee, and end: each within their reach and not a row beyond it.

use std::collections::BTreeSet;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{let_authentication_age, refusal, revoked_reason, run, value, values};
use auth_sessions_tests::tenants::{Tenant, TwoTenants, act_as, names, outcome_of};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, Secret, log_in, random_bytes, rotate, rotate_times, try_sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

struct Scene {
    db: TestDb,
    admin: Client,
    service: Client,
    ours: Tenant,
    theirs: Tenant,
    operator: Outcome,
    stranger: Outcome,
}

async fn scene() -> Scene {
    let TwoTenants { db, admin, service, ours, theirs } = TwoTenants::found().await;
    let operator = try_sign_up(&service, "operator@example.org", None).await.unwrap();
    let stranger = try_sign_up(&service, "stranger@example.org", None).await.unwrap();
    run(&db.connect_as("auth_operator").await, "select auth.appoint_operator($1)", &[&operator.user_id]).await;
    run(&admin, "update auth.sessions set last_ip_cidr = '198.51.100.0/24', device_name = 'Chrome on Linux'", &[])
        .await;
    Scene { db, admin, service, ours, theirs, operator, stranger }
}

/// Everything that a session's holder is shown, one JSON text a row.
const EVERYTHING: [&str; 8] = [
    "select to_jsonb(o)::text from auth.oversight() o",
    "select to_jsonb(o)::text from auth.oversee_figures() o",
    "select to_jsonb(o)::text from auth.oversee_activity(null, now() - interval '1 day', '1 day') o",
    "select to_jsonb(o)::text from auth.oversee_incidents() o",
    "select to_jsonb(o)::text from auth.oversee_lockouts() o",
    "select to_jsonb(o)::text from auth.oversee_sessions() o",
    "select to_jsonb(o)::text from auth.oversee_upkeep() o",
    "select o::text from auth.oversee_news(null, now() - interval '1 hour') o where o is not null",
];

impl Scene {
    async fn texts(&self, who: &Outcome, sql: &str) -> Vec<String> {
        let rows = act_as(&self.service, who, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Whose sessions somebody is shown, of a search or (empty) all.
    async fn shown(&self, who: &Outcome, search: &str) -> BTreeSet<String> {
        let sql = "select email from auth.oversee_sessions(search => $1)";
        let rows =
            act_as(&self.service, who, sql, &[&search]).await.unwrap_or_else(|error| panic!("{search}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Makes a token of the session's first generation be shown again.
    async fn replay(&self, who: &Outcome) {
        let tokens = rotate_times(&self.service, who.clone().token(), 3).await;
        assert_eq!(rotate(&self.service, &tokens[0]).await.outcome, "replayed");
    }
}

fn emails(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn everybody_oversees_what_they_answer_for_and_nothing_else() {
    let scene = scene().await;
    // A replay and a lock-out in each tenant.
    for tenant in [&scene.ours, &scene.theirs] {
        scene.replay(&tenant.member).await;
        for _ in 0..10 {
            log_in(&scene.service, &format!("owner@{}.example", tenant.slug), "wrong").await;
        }
    }
    let theirs = names(&scene.admin, scene.theirs.id).await;
    let mut seen = Vec::new();
    for sql in EVERYTHING {
        for (name, who) in [("owner", &scene.ours.owner), ("admin", &scene.ours.admin)] {
            let told = scene.texts(who, sql).await;
            for other in &theirs {
                assert!(!told.iter().any(|row| row.contains(other)), "{name} is told of {other} by {sql}: {told:?}");
            }
            seen.push((name, told.len()));
        }
        assert_eq!(scene.texts(&scene.stranger, sql).await, Vec::<String>::new(), "a stranger: {sql}");
        assert_eq!(refusal(scene.service.query(sql, &[]).await).code, "28000", "nobody: {sql}");
    }
    let of = |name: &str| seen.iter().filter(|(who, _)| *who == name).map(|(_, rows)| *rows).collect::<Vec<_>>();
    // Two days begin within the last 24 hours. The lock-out is the owner's: no business of an administrator.
    assert_eq!(of("owner"), [1, 1, 2, 1, 1, 2, 0, 1]);
    assert_eq!(of("admin"), [1, 1, 2, 1, 0, 1, 0, 1]);

    let told = scene.texts(&scene.operator, EVERYTHING[5]).await.join(" ");
    assert!(told.contains("owner@ours.example") && told.contains("owner@theirs.example"), "{told}");
    assert_eq!(scene.texts(&scene.operator, EVERYTHING[3]).await.len(), 2);
    assert_eq!(scene.texts(&scene.operator, EVERYTHING[6]).await.len(), 5);
    // Another organization by name: for operators.
    let of_theirs = "select email from auth.oversee_sessions($1)";
    let asked = async |who: &Outcome| act_as(&scene.service, who, of_theirs, &[&scene.theirs.id]).await.unwrap().len();
    assert_eq!(asked(&scene.operator).await, 2, "the member's was burnt");
    assert_eq!(asked(&scene.ours.owner).await, 0);
    // An owner who becomes a member sees nothing from the next statement on.
    let demote = "update auth.organization_members set role = 'ORGANIZATION_MEMBER' where user_id = $1";
    run(&scene.admin, demote, &[&scene.ours.owner.user_id]).await;
    for sql in EVERYTHING {
        assert_eq!(scene.texts(&scene.ours.owner, sql).await, Vec::<String>::new(), "{sql}");
    }
}

#[tokio::test]
async fn a_personal_access_token_oversees_nothing() {
    let scene = scene().await;
    for (who, organization) in [(&scene.operator, None), (&scene.ours.owner, Some(scene.ours.id))] {
        let (lookup_id, secret) = (random_bytes(16), Secret::random());
        let make = "insert into auth.personal_access_tokens (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
                    values ($1, $2, 'siem', $3, $4, '{organization:read,organization:write,sessions:read,sessions:write}', now() + interval '1 day')";
        run(&scene.admin, make, &[&who.user_id, &organization, &lookup_id, &secret.verifier()]).await;
        let family = scene.ours.member.family_id.unwrap();
        let ending = format!("select outcome from auth.end_overseen_family('{family}', 'x')");
        for sql in EVERYTHING.into_iter().chain([ending.as_str()]) {
            scene.service.batch_execute("begin").await.unwrap();
            let assume = "select from auth.assume_personal_access_token(lookup_id => $1, token_proof => $2)";
            assert_eq!(run(&scene.service, assume, &[&lookup_id, &secret.proof()]).await, 1);
            assert_eq!(refusal(scene.service.query(sql, &[]).await).code, "42501", "{sql}");
            scene.service.batch_execute("rollback").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_session_is_found_by_whatever_is_known_of_it() {
    let scene = scene().await;
    let member = &scene.ours.member;
    let (first, session) = (member.jti.unwrap().to_string(), member.session_id.unwrap().to_string());
    let rotated = rotate(&scene.service, &member.clone().token()).await;
    let second = rotated.jti.unwrap().to_string();
    let rotated = rotate(&scene.service, &rotated.token()).await;
    let third = rotated.jti.unwrap().to_string();
    let user = member.user_id.unwrap().to_string();
    for known in [&session, &user, &first, &second, &third, &session.to_uppercase(), &session.replace('-', "")] {
        for who in [&scene.ours.owner, &scene.ours.admin, &scene.operator] {
            assert_eq!(scene.shown(who, known).await, emails(&["member@ours.example"]), "{known}");
        }
        for who in [&scene.theirs.owner, &scene.stranger, &scene.ours.member] {
            assert_eq!(scene.shown(who, known).await, emails(&[]), "{known}");
        }
    }
    let everybody = ["owner@ours.example", "admin@ours.example", "member@ours.example"];
    let owner = &scene.ours.owner;
    for network in ["198.51.100.7", "198.51.0.0/16", "198.51.100.0/24"] {
        assert_eq!(scene.shown(owner, network).await, emails(&everybody), "{network}");
    }
    assert_eq!(scene.shown(owner, "198.51.101.0/24").await, emails(&[]));
    assert_eq!(scene.shown(owner, "").await, emails(&everybody));
    assert_eq!(scene.shown(owner, " ADMIN@ ").await, emails(&["admin@ours.example"]));
    assert_eq!(scene.shown(owner, "lovelace").await, emails(&everybody), "a name");
    assert_eq!(scene.shown(&scene.ours.admin, "").await, emails(&everybody[1..]), "not the owner's");
    assert_eq!(scene.shown(&scene.operator, "owner@").await, emails(&["owner@ours.example", "owner@theirs.example"]));
    assert_eq!(scene.shown(&scene.operator, "wner@").await, emails(&[]), "of everybody by the beginning");
    for nothing in [
        "%",
        "_",
        "10.0.0.",
        "::::",
        "ada.",
        "' or true --",
        "\\",
        "00000000-0000-8000-8000-000000000000",
        &"x".repeat(254),
    ] {
        assert_eq!(scene.shown(owner, nothing).await, emails(&[]), "{nothing}");
    }
    let too_long =
        act_as(&scene.service, owner, "select from auth.oversee_sessions(search => repeat('x', 255))", &[]).await;
    scene.service.batch_execute("rollback").await.unwrap();
    assert_eq!(refusal(too_long).code, "22023");
    // What is over is found, and not listed.
    run(&scene.admin, "select auth.revoke_session_family($1)", &[&member.family_id]).await;
    assert_eq!(scene.shown(owner, &session).await, emails(&["member@ours.example"]));
    assert_eq!(scene.shown(owner, "").await, emails(&everybody[..2]));
    // Pages.
    let page =
        "select session_id, created_at from auth.oversee_sessions(page_size => 1, after_time => $1, after_id => $2)";
    let mut seen: Vec<Uuid> = Vec::new();
    let mut after: (Option<std::time::SystemTime>, Option<Uuid>) = (None, None);
    while let Some(row) = act_as(&scene.service, &scene.operator, page, &[&after.0, &after.1]).await.unwrap().first() {
        after = (row.get(1), row.get(0));
        seen.extend(after.1);
    }
    let all = "select id from auth.sessions where revoked_at is null order by created_at desc, id desc";
    assert_eq!(seen, values::<Uuid>(&scene.admin, all, &[]).await);
}

const END_FAMILY: &str = "select outcome from auth.end_overseen_family($1, $2, correlation_id => 'request-1')";
const END_USER: &str = "select outcome from auth.end_overseen_sessions($1, $2, correlation_id => 'request-1')";

#[tokio::test]
async fn a_family_is_ended_with_a_reason_by_who_oversees_it() {
    let scene = scene().await;
    let (ours, note) = (&scene.ours, "Phone stolen, ticket 4711");
    let end = async |who: &Outcome, whose: &Outcome| {
        outcome_of(&scene.service, who, END_FAMILY, &[&whose.family_id, &note]).await
    };
    for (who, whose) in [
        (&ours.admin, &ours.owner),
        (&ours.owner, &scene.theirs.member),
        (&ours.owner, &scene.operator),
        (&scene.theirs.owner, &ours.member),
    ] {
        assert_eq!(end(who, whose).await, "session_not_found");
    }
    for who in [&ours.member, &scene.stranger] {
        assert_eq!(end(who, &ours.owner).await, "insufficient_role");
    }
    assert_eq!(
        outcome_of(&scene.service, &scene.operator, END_FAMILY, &[&Uuid::nil(), &note]).await,
        "session_not_found"
    );
    let live = "select count(*) from auth.sessions where revoked_at is null";
    assert_eq!(value::<i64>(&scene.admin, live, &[]).await, 8, "nothing of that ended anything");

    let_authentication_age(&scene.admin, "1 hour").await;
    assert_eq!(end(&ours.owner, &ours.member).await, "step_up_required");
    assert_eq!(
        outcome_of(&scene.service, &scene.operator, END_USER, &[&ours.member.user_id, &note]).await,
        "step_up_required"
    );
    run(&scene.admin, "update auth.sessions set auth_time = now()", &[]).await;

    assert_eq!(end(&ours.admin, &ours.member).await, "ended");
    assert_eq!(end(&ours.admin, &ours.member).await, "session_not_found", "it is over");
    assert_eq!(
        revoked_reason(&scene.admin, ours.member.session_id.unwrap()).await.as_deref(),
        Some("ended_by_organization")
    );
    assert_eq!(end(&scene.operator, &scene.theirs.owner).await, "ended");
    let ended = scene.theirs.owner.session_id.unwrap();
    assert_eq!(revoked_reason(&scene.admin, ended).await.as_deref(), Some("ended_by_operator"));
    let trail = "select action || ' ' || severity || ' ' || (details ->> 'reason') || ': ' || (details ->> 'note') from auth.audit_log
                  where correlation_id = 'request-1' and user_id = $1 and actor_user_id = $2";
    let told: Vec<String> = values(&scene.admin, trail, &[&scene.theirs.owner.user_id, &scene.operator.user_id]).await;
    assert_eq!(told, ["session_family_revoked warning ended_by_operator: Phone stolen, ticket 4711"]);

    let before = scene.db.row_counts().await;
    for note in ["", "  ", "two\nlines", &"x".repeat(201)] {
        for (sql, id) in [(END_FAMILY, ours.owner.family_id), (END_USER, ours.owner.user_id)] {
            let refused = refusal(act_as(&scene.service, &scene.operator, sql, &[&id, &note]).await);
            assert_eq!((refused.code.as_str(), refused.hint.is_empty()), ("22023", false), "{note:?}");
        }
    }
    assert_eq!(scene.db.row_counts().await, before);
}

#[tokio::test]
async fn an_organization_ends_what_acts_for_it_and_an_operator_everything() {
    let scene = scene().await;
    let ours = &scene.ours;
    let private = log_in(&scene.service, "member@ours.example", PASSWORD).await.session_id.unwrap();
    run(&scene.admin, "update auth.sessions set organization_id = null where id = $1", &[&private]).await;
    let end = async |who: &Outcome, whose: &Outcome| {
        let rows =
            act_as(&scene.service, who, "select * from auth.end_overseen_sessions($1, 'left us')", &[&whose.user_id])
                .await;
        let rows = rows.unwrap();
        (rows[0].get::<_, String>(0), rows[0].get::<_, Option<i32>>(1))
    };
    assert_eq!(end(&scene.theirs.owner, &ours.member).await, ("member_not_found".into(), None));
    assert_eq!(end(&ours.admin, &ours.owner).await, ("member_not_found".into(), None));
    assert_eq!(end(&ours.member, &ours.member).await, ("insufficient_role".into(), None));
    assert_eq!(end(&ours.owner, &ours.member).await, ("ended".into(), Some(1)));
    assert_eq!(revoked_reason(&scene.admin, private).await, None, "not the organization's business");
    assert_eq!(end(&scene.operator, &ours.member).await, ("ended".into(), Some(1)));
    assert_eq!(revoked_reason(&scene.admin, private).await.as_deref(), Some("ended_by_operator"));
    assert_eq!(end(&scene.operator, &ours.member).await, ("ended".into(), Some(0)));
    // It is the member's own story, and what was written into it they can read: the page says so to who writes.
    let again = log_in(&scene.service, "member@ours.example", PASSWORD).await;
    for told in ["auth.user_history($1)", "auth.audit_log where user_id = $1"] {
        let sql = format!("select details ->> 'note' from {told}").replace("where", "a where a.details ? 'note' and");
        let rows = act_as(&scene.service, &again, &sql, &[&ours.member.user_id]).await.unwrap();
        let notes: BTreeSet<String> = rows.iter().filter_map(|row| row.get(0)).collect();
        assert_eq!(notes, emails(&["left us"]), "{told}");
    }
}

#[tokio::test]
async fn a_lockout_is_told_to_an_organization_without_where_it_came_from() {
    let scene = scene().await;
    let fail =
        "select auth.complete_login($1, 1, sha256('wrong'), sha256('x'), ip => '203.0.113.9', user_agent => 'guesser')";
    for email in ["member@ours.example", "nobody@example.org"] {
        for _ in 0..10 {
            run(&scene.service, fail, &[&email]).await;
        }
    }
    let lockouts = "select coalesce(email, '-') || ' ' || failures || ' ' || is_locked || ' ' || coalesce(network, '-') || ' ' || coalesce(user_agent, '-')
                      from auth.oversee_lockouts()";
    for who in [&scene.ours.owner, &scene.ours.admin] {
        assert_eq!(scene.texts(who, lockouts).await, ["member@ours.example 10 true - -"]);
    }
    assert_eq!(scene.texts(&scene.theirs.owner, lockouts).await, Vec::<String>::new());
    let all = ["- 10 true 203.0.113.0/24 guesser", "member@ours.example 10 true 203.0.113.0/24 guesser"];
    assert_eq!(scene.texts(&scene.operator, lockouts).await, all);
    let figures = "select sum(failed_logins) || ' ' || sum(lockouts) from auth.oversee_activity(null, now() - interval '1 hour', '15 minutes')";
    assert_eq!(scene.texts(&scene.ours.owner, figures).await, ["10 1"]);
    assert_eq!(scene.texts(&scene.operator, figures).await, ["20 2"]);
    assert_eq!(scene.texts(&scene.theirs.owner, figures).await, ["0 0"]);
    run(&scene.db.connect_as("auth_operator").await, "select auth.unlock_account('member@ours.example')", &[]).await;
    assert_eq!(scene.texts(&scene.ours.owner, lockouts).await, ["member@ours.example 10 false - -"]);
}

#[tokio::test]
async fn figures_of_everything_come_from_samples_and_the_log_since() {
    let scene = scene().await;
    run(
        &scene.admin,
        "insert into auth.samples select t, live, live - 3, 2, 5, 1000 * live, 500, 10, 3, 4, 1, 1, reset, rotated, 1, 7
           from (values (now() - interval '125 minutes', 40, '2026-01-01'::timestamptz, 100),
                        (now() - interval '65 minutes', 50, '2026-01-01', 150),
                        (now() - interval '5 minutes', 60, '2026-02-02', 20)) v (t, live, reset, rotated)",
        &[],
    )
    .await;
    // In the log since the newest sample: what the scene did. What it did before that, the samples have told.
    run(&scene.admin, "insert into auth.audit_log (created_at, action, severity, success) values (now() - interval '1 hour', 'auth_session_created', 'info', true)", &[]).await;
    let sums = "select concat_ws(' ', sum(opened), sum(ended), sum(failed_logins), sum(replays), sum(refreshed), sum(refused),
                                 (array_agg(live_sessions || ' ' || live_families order by since desc) filter (where live_sessions is not null))[1])
                  from auth.oversee_activity(null, now() - interval '6 hours', '1 hour')";
    // Refreshes: of the first sample nobody knows since when, and before the last the counters began anew.
    assert_eq!(scene.texts(&scene.operator, sums).await, ["38 9 12 3 50 0 60 57"]);
    let figures = "select concat_ws(' ', live_sessions, live_families, used_in_last_hour) from auth.oversee_figures()";
    assert_eq!(scene.texts(&scene.operator, figures).await, ["60 57 2"]);
    assert_eq!(scene.texts(&scene.ours.owner, figures).await, ["3 3 3"], "an organization's are counted");
    run(&scene.admin, "delete from auth.samples", &[]).await;
    assert_eq!(scene.texts(&scene.operator, figures).await, ["8 8 8"], "without a sample they are counted");
    // As a take-over leaves them: two sessions of a family whose first lives, and two of one whose first is over.
    let fork = "update auth.sessions set family_id = $1 where id = any ($2)";
    let [first, second, third] = [&scene.ours.owner, &scene.ours.admin, &scene.ours.member].map(|who| who.session_id);
    let [fourth, fifth] = [&scene.theirs.admin, &scene.theirs.member].map(|who| who.session_id);
    run(&scene.admin, fork, &[&first, &vec![second, third]]).await;
    run(&scene.admin, fork, &[&scene.theirs.owner.session_id, &vec![fourth, fifth]]).await;
    run(
        &scene.admin,
        "update auth.sessions set revoked_at = now(), revoked_reason = 'x' where id = $1",
        &[&scene.theirs.owner.session_id],
    )
    .await;
    assert_eq!(scene.texts(&scene.operator, figures).await, ["7 4 7"]);
    assert_eq!(scene.texts(&scene.ours.owner, figures).await, ["3 1 3"]);
    for (arguments, code) in [
        ("null, null, '1 hour'", "22004"),
        ("null, now(), null", "22004"),
        ("null, now() - interval '1 day', '1 minute'", "22023"),
        ("null, now() - interval '99 days', '1 hour'", "22023"),
        ("null, now() - interval '101 days', '7 days'", "22023"),
        ("null, now() + interval '1 day', '1 hour'", "22023"),
        ("null, now(), '1 month'", "22023"),
    ] {
        let sql = format!("select from auth.oversee_activity({arguments})");
        assert_eq!(refusal(act_as(&scene.service, &scene.operator, &sql, &[]).await).code, code, "{arguments}");
    }

    // Maintenance takes them, one a quarter of an hour, and forgets the old ones.
    let operator = scene.db.connect_as("auth_operator").await;
    let taken = "select amount from auth.run_maintenance() where task = 'samples'";
    run(
        &scene.admin,
        "insert into auth.samples select now() - interval '101 days', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
        &[],
    )
    .await;
    assert_eq!(values::<i64>(&operator, taken, &[]).await.into_iter().sum::<i64>(), 0, "the log's months first");
    while values::<i64>(&operator, taken, &[]).await != [1] {}
    assert_eq!(values::<i64>(&operator, taken, &[]).await, [0]);
    let kept: Vec<String> = values(
        &scene.admin,
        "select concat_ws(' ', live_sessions, live_families, kept_sessions, opened, replays) from auth.samples",
        &[],
    )
    .await;
    assert_eq!(kept, ["7 4 1 9 0"]);
}

#[tokio::test]
async fn news_are_counted_for_who_they_are_for() {
    let scene = scene().await;
    let news = async |who: &Outcome| -> Option<i64> {
        let sql = "select auth.oversee_news(null, now() - interval '1 hour')";
        act_as(&scene.service, who, sql, &[]).await.unwrap()[0].get(0)
    };
    let before = (news(&scene.ours.owner).await, news(&scene.theirs.owner).await, news(&scene.operator).await);
    scene.replay(&scene.ours.member).await;
    let after = (news(&scene.ours.owner).await, news(&scene.theirs.owner).await, news(&scene.operator).await);
    assert_eq!(after, (before.0.map(|n| n + 2), before.1, before.2.map(|n| n + 2)), "the replay and the revocation");
    assert_eq!(news(&scene.stranger).await, None);
}

/// What a page asks for again at every live update does not read the log, however much is in it.
#[tokio::test]
async fn what_is_looked_at_all_the_time_reads_little() {
    let scene = scene().await;
    scene.replay(&scene.ours.member).await;
    // A day of logins, in the order of their time, as it is in a log.
    scene
        .admin
        .batch_execute(
            "insert into auth.audit_log (created_at, action, severity, success)
             select now() - n * interval '1 second', 'auth_session_created', 'info', true from generate_series(86000, 1, -1) n;
             insert into auth.audit_log (created_at, action, severity, success, details)
             select now() - n * interval '1 hour', 'user_account_locked', 'warning', false, '{\"failures\": 10, \"locked_for\": \"1 minute\"}'
               from generate_series(20, 1, -1) n",
        )
        .await
        .unwrap();
    // So that the blocks are summarized, as autovacuum does.
    scene.admin.batch_execute("vacuum analyze auth.audit_log").await.unwrap();
    let read = "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint from pg_stat_user_tables
                 where schemaname = 'auth' and relname ~ '^audit_log'";
    for (sql, most) in [
        ("select email from auth.oversee_incidents(page_size => 5)", 50),
        ("select locked_at::text from auth.oversee_lockouts(page_size => 50)", 200),
        // By blocks of a hundred pages, two of them.
        ("select auth.oversee_news(null, now() - interval '1 minute')::text", 40_000),
    ] {
        run(&scene.admin, "select pg_stat_reset()", &[]).await;
        assert!(!scene.texts(&scene.operator, sql).await.is_empty(), "{sql}");
        scene.service.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
        run(&scene.admin, "select pg_stat_clear_snapshot()", &[]).await;
        let read: i64 = value(&scene.admin, read, &[]).await;
        assert!(read <= most, "{sql}: {read} rows read");
    }
}

/// Of one organization among many, nothing is read from end to end: neither all sessions nor a month of the log.
#[tokio::test]
async fn what_an_organization_is_shown_is_found_by_indexes() {
    let scene = scene().await;
    scene
        .admin
        .batch_execute(
            "insert into auth.organizations (slug, name) select 'org-' || n, 'Org' from generate_series(1, 300) n;
             insert into auth.users (email, name) select 'u' || n || '@example.com', 'U' from generate_series(1, 6000) n;
             insert into auth.organization_members (organization_id, user_id, role)
             select o.id, u.id, 'ORGANIZATION_MEMBER'
               from (select id, row_number() over () n from auth.users where email like 'u%@example.com') u
               join (select id, row_number() over () n from auth.organizations where slug like 'org-%') o on o.n = 1 + u.n % 300;
             insert into auth.sessions (family_id, user_id, organization_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                                        last_used_at, idle_expires_at, token_verifier)
             select gen_random_uuid(), m.user_id, m.organization_id, now(), now(), now() + interval '30 days', '7 days', '{pwd}', sha256('key'),
                    now(), now() + interval '7 days', sha256('token') from auth.organization_members m, generate_series(1, 3);
             insert into auth.audit_log (action, severity, success, user_id, organization_id)
             select (array['auth_session_created', 'session_revoked', 'user_logged_in'])[1 + n % 3], 'info', true, m.user_id, m.organization_id
               from auth.organization_members m, generate_series(1, 10) n;
             analyze",
        )
        .await
        .unwrap();
    let read = "select relname::text from pg_stat_user_tables where schemaname = 'auth' and relname ~ '^(sessions|users|audit_log_[d2].*)$'
                   and seq_scan > 0 and n_live_tup > 1000 order by 1";
    let searches =
        ["00000000-6b02-83dc-88ac-14c71f740149", "member@", "198.51.100.0/24", "00000000-0000-4000-8000-000000000000"]
            .map(|text| format!("select to_jsonb(o)::text from auth.oversee_sessions(search => '{text}') o"));
    for who in [&scene.ours.owner, &scene.ours.admin] {
        let lists = EVERYTHING.into_iter().filter(|sql| !sql.contains("lockouts"));
        for sql in lists.chain(searches.iter().map(String::as_str)) {
            run(&scene.admin, "select pg_stat_reset()", &[]).await;
            run(&scene.admin, "analyze auth.sessions", &[]).await;
            scene.texts(who, sql).await;
            scene.service.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
            run(&scene.admin, "select pg_stat_clear_snapshot()", &[]).await;
            assert_eq!(values::<String>(&scene.admin, read, &[]).await, Vec::<String>::new(), "{sql}");
        }
    }
}

/// A jti is kept nowhere: a key after the other makes it again, but only keys of sessions that can have made it.
#[tokio::test]
async fn only_keys_that_can_have_made_a_jti_are_tried() {
    let scene = scene().await;
    let rows = "insert into auth.sessions (family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                                           last_used_at, idle_expires_at, token_verifier, generation, rotated_at)
                select gen_random_uuid(), $1, now() - opened, now(), now() + interval '30 days', '7 days', '{pwd}', sha256(n::text::bytea),
                       now(), now() + interval '7 days', sha256('token'), generation, now() - rotated
                  from generate_series(1, 1000) n cross join
                       (values (interval '9 days', 70, interval '3 days'), ('9 days', 8, '1 minute'), ('1 day', 70, '1 minute')) v (opened, generation, rotated)";
    run(&scene.admin, rows, &[&scene.stranger.user_id]).await;
    run(&scene.admin, "analyze auth.sessions", &[]).await;
    // Of a session that goes on: two days old, of generation 40.
    let find = "with this as (update auth.sessions set generation = 50, created_at = now() - interval '5 days', rotated_at = now()
                               where id = $1 returning lineage_key)
                select auth.make_jti(lineage_key, 40, now() - interval '2 days')::text from this";
    let jti: String = value(&scene.admin, find, &[&scene.ours.member.session_id]).await;
    let track = format!("alter database \"{}\" set track_functions = 'all'", scene.db.name());
    run(&scene.admin, &track, &[]).await;
    let service = scene.db.connect_as("auth_service").await;
    let sql = "select email from auth.oversee_sessions(search => $1)";
    let found = act_as(&service, &scene.operator, sql, &[&jti]).await.unwrap();
    assert_eq!(found.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["member@ours.example"]);
    // One that nobody made, of that generation and time: its search does not end early.
    let nobodys = format!("{}{:012x}", &jti[..24], 0);
    assert_eq!(act_as(&service, &scene.operator, sql, &[&nobodys]).await.unwrap().len(), 0);
    service.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
    let tried = "select calls from pg_stat_user_functions where schemaname = 'auth' and funcname = 'make_jti'";
    assert_eq!(value::<i64>(&scene.admin, tried, &[]).await, 2, "one each, of 3,008 sessions");
}
