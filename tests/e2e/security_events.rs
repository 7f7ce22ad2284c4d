//! The security timeline: whose events it shows, how much of them, and how it is paged.

use std::collections::BTreeSet;

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::scene::Scene;
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::tokens::{Secret, random_bytes};
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Answer, Session};
use serde_json::{Value, json};
use uuid::Uuid;

const PATH: &str = "/api/auth/security-events";

async fn get(scene: &Scene, query: &str, session: &Session) -> Answer {
    scene.api.get(&format!("{PATH}?{query}"), &session.access_token).await
}

async fn events_of(scene: &Scene, query: &str, session: &Session) -> Vec<Value> {
    let answer = get(scene, query, session).await.expect(200).json();
    answer["events"].as_array().expect("events").clone()
}

async fn actions_of(scene: &Scene, query: &str, session: &Session) -> Vec<String> {
    events_of(scene, query, session).await.iter().map(|event| text(event, "action")).collect()
}

fn text(event: &Value, member: &str) -> String {
    event[member].as_str().unwrap_or_else(|| panic!("no {member} in {event}")).to_owned()
}

fn session_id(session: &Session) -> Uuid {
    RefreshToken::parse(&session.refresh_token).session_id
}

#[tokio::test]
async fn a_users_own_timeline_and_nobody_elses() {
    let scene = Scene::start().await;
    let bob = scene.api.signup("bob@example.org").await;
    let ada = scene.api.signup("ada@example.org").await;
    scene.api.login("ada@example.org", "wrong password").await.expect(401);
    let chrome = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
    let body = json!({"email": "ada@example.org", "password": PASSWORD});
    let request = scene.api.request(reqwest::Method::POST, "/api/auth/login").header("user-agent", chrome);
    let request = request.header("x-request-id", "login-request-1").json(&body);
    let second = scene.api.send(request).await.expect(200).session();
    let id = session_id(&second);
    let path = format!("/api/auth/sessions/{id}");
    scene.api.delete(&path, &ada.access_token).await.expect(200);

    let events = events_of(&scene, "", &ada).await;
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().expect("action")).collect();
    let known = ["session_revoked", "user_logged_in", "auth_session_created", "user_login_failed", "user_created"];
    let mine: Vec<&str> = actions.iter().copied().filter(|action| known.contains(action)).collect();
    assert_eq!(
        mine,
        [
            "session_revoked",
            "user_logged_in",
            "auth_session_created",
            "user_login_failed",
            "auth_session_created",
            "user_created"
        ],
        "the newest first"
    );
    assert!(events.iter().all(|event| event["userId"] == json!(ada.user_id())), "{events:?}");
    let login = events.iter().find(|event| event["action"] == "user_logged_in").expect("a login");
    let expected = json!({
        "id": login["id"], "createdAt": login["createdAt"], "action": "user_logged_in", "severity": "info", "success": true,
        "userId": ada.user_id(), "sessionId": id, "familyId": id, "ipNetwork": "127.0.0.0/24", "userAgent": chrome,
        "deviceName": "Chrome 120 on macOS", "details": {"method": "password"}, "requestId": "login-request-1",
        "actorUserId": ada.user_id(),
    });
    assert_eq!(*login, expected);
    let failed = events.iter().find(|event| event["action"] == "user_login_failed").expect("a failure");
    assert_eq!((&failed["success"], &failed["severity"]), (&json!(false), &json!("warning")));
    assert_eq!(failed["details"], json!({"failures": 1, "locked": false}));
    assert!(failed.get("actorUserId").is_none(), "nobody proved anything: {failed}");

    let his = events_of(&scene, "", &bob).await;
    assert!(his.iter().all(|event| event["userId"] == json!(bob.user_id())) && !his.is_empty(), "{his:?}");
    // An ended session reads nothing any more.
    get(&scene, "", &second).await.expect_problem(401, "invalid_access_token");
    scene.api.get(PATH, "").await.expect_problem(401, "authentication_required");
    scene.api.get(PATH, &ada.refresh_token).await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn details_are_for_users_not_for_operators() {
    let scene = Scene::start().await;
    let first = scene.api.signup("ada@example.org").await;
    let second = scene.api.refresh(&first.refresh_token).await.expect(200).session();
    scene.api.refresh(&second.refresh_token).await.expect(200);
    scene.api.refresh(&first.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    let other = scene.api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let planted = "insert into auth.audit_log (action, severity, success, user_id, details) values
                   ('user_role_created', 'info', true, $1,
                    '{\"role\": \"ORGANIZATION_MEMBER\", \"invited_by\": \"6f86c7e3-0000-4000-8000-000000000000\",
                      \"email\": \"bob@example.org\", \"reason\": {\"nested\": \"secret\"}, \"sessions\": [\"secret\"]}')";
    run(&scene.admin, planted, &[&first.user_id()]).await;

    let answer = get(&scene, "", &other).await.expect(200);
    let events = answer.json()["events"].clone();
    let find = |action: &str| {
        let events = events.as_array().expect("events");
        events.iter().find(|event| event["action"] == action).unwrap_or_else(|| panic!("no {action}")).clone()
    };
    let replay = find("token_replay_detected");
    assert_eq!((&replay["severity"], &replay["success"]), (&json!("critical"), &json!(false)));
    assert!(replay.get("details").is_none(), "marks and counters are for operators: {replay}");
    let revoked = find("session_family_revoked");
    assert_eq!(revoked["details"], json!({"reason": "token_replay", "sessions": [session_id(&first)]}));
    assert_eq!(find("user_role_created")["details"], json!({"role": "ORGANIZATION_MEMBER"}));
    let jti: String =
        value(&scene.admin, "select reused_jti_of::text from auth.sessions where reused_jti_of is not null", &[]).await;
    for hidden in [jti.as_str(), "bob@example.org", "secret", "6f86c7e3", "auth_service", "generation"] {
        assert!(!answer.text().contains(hidden), "{hidden}");
    }
    // Refreshes are no events.
    assert!(!answer.text().contains("token_refreshed"));
}

#[tokio::test]
async fn an_organizations_timeline_is_for_its_owners() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, others) = scene.found("bob@example.org", "rivals").await;
    let member = scene.join("carl@example.org", engines, "ORGANIZATION_MEMBER").await;
    let manager = scene.join("dora@example.org", engines, "ORGANIZATION_ADMIN").await;
    let query = format!("organizationId={engines}");

    let events = events_of(&scene, &query, &owner).await;
    let users: BTreeSet<String> = events.iter().map(|event| text(event, "userId")).collect();
    let expected = [&owner, &member, &manager].map(|session| session.user_id().to_string());
    assert_eq!(users, BTreeSet::from(expected), "everybody's, in this organization");
    let hers: BTreeSet<String> =
        events_of(&scene, "", &owner).await.iter().map(|event| text(event, "userId")).collect();
    assert_eq!(hers, BTreeSet::from([owner.user_id().to_string()]), "without the parameter her own");
    // What a member does for no organization, or for another, is not the owner's.
    let elsewhere: Vec<String> = values(
        &scene.admin,
        "select id::text from auth.audit_log where organization_id is distinct from $1",
        &[&engines],
    )
    .await;
    assert!(elsewhere.len() > 3 && events.iter().all(|event| !elsewhere.contains(&text(event, "id"))));

    get(&scene, &query, &member).await.expect_problem(403, "insufficient_role");
    get(&scene, &query, &manager).await.expect_problem(403, "insufficient_role");
    get(&scene, &query, &rival).await.expect_problem(404, "organization_not_found");
    get(&scene, &format!("organizationId={others}"), &owner).await.expect_problem(404, "organization_not_found");
    get(&scene, &format!("organizationId={}", Uuid::nil()), &owner).await.expect_problem(404, "organization_not_found");
    // A member's own timeline has what is their own, though it is in the organization's too.
    let own: BTreeSet<String> =
        events_of(&scene, "", &member).await.iter().map(|event| text(event, "userId")).collect();
    assert_eq!(own, BTreeSet::from([member.user_id().to_string()]));

    // An owner of two, whose session acts for one.
    let join =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_OWNER')";
    run(&scene.admin, join, &[&engines, &rival.user_id()]).await;
    get(&scene, &query, &rival).await.expect_problem(409, "organization_not_active");
    // Not an owner any more, from the next request on.
    let demote = "update auth.organization_members set role = 'ORGANIZATION_ADMIN' where user_id = $1";
    run(&scene.admin, demote, &[&owner.user_id()]).await;
    get(&scene, &query, &owner).await.expect_problem(403, "insufficient_role");
}

#[tokio::test]
async fn the_policies_hold_without_the_services_help() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, _) = scene.found("bob@example.org", "rivals").await;
    let member = scene.join("carl@example.org", engines, "ORGANIZATION_MEMBER").await;
    let service = scene.db.connect_as("auth_service").await;
    let visible = async |session: &Session| -> BTreeSet<Option<Uuid>> {
        let (_, claims) = auth_sessions_tests::wire::parse_jwt(&session.access_token);
        let jti: Uuid = claims["jti"].as_str().and_then(|jti| jti.parse().ok()).expect("jti");
        service.batch_execute("begin").await.expect("begin");
        run(&service, "select auth.assume_session($1, $2)", &[&session_id(session), &jti]).await;
        let users = values(&service, "select distinct user_id from auth.security_events", &[]).await;
        service.batch_execute("rollback").await.expect("rollback");
        users.into_iter().collect()
    };
    let id = |session: &Session| Some(session.user_id());
    assert_eq!(visible(&owner).await, BTreeSet::from([id(&owner), id(&member)]));
    assert_eq!(visible(&member).await, BTreeSet::from([id(&member)]));
    assert_eq!(visible(&rival).await, BTreeSet::from([id(&rival)]));
    let count = "select count(*) from auth.security_events";
    assert_eq!(value::<i64>(&service, count, &[]).await, 0);
    // A personal access token of the owner sees as much as its scopes say.
    for (scope, seen) in [("sessions:read", false), ("security_events:read", true)] {
        let (lookup_id, secret) = (random_bytes(16), Secret::random());
        run(
            &scene.admin,
            "insert into auth.personal_access_tokens
               (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
             values ($1, $2, 'siem', $3, $4, array[$5], now() + interval '1 day')",
            &[&owner.user_id(), &engines, &lookup_id, &secret.verifier(), &scope],
        )
        .await;
        service.batch_execute("begin").await.expect("begin");
        let assume = "select auth.assume_personal_access_token(lookup_id => $1, token_proof => $2)";
        run(&service, assume, &[&lookup_id, &secret.proof()]).await;
        let events: i64 = value(&service, count, &[]).await;
        service.batch_execute("rollback").await.expect("rollback");
        assert_eq!(events > 0, seen, "{scope}: {events}");
    }
}

#[tokio::test]
async fn a_personal_access_token_needs_the_scope() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    run(&scene.admin, "update auth.users set email_verified_at = now()", &[]).await;
    let make = async |scope: &str| {
        let body = json!({"name": "siem", "scopes": [scope], "expiresInDays": 30});
        let made = scene.api.post("/api/auth/personal-access-tokens", &body, &owner.access_token).await.expect(201);
        made.json()["token"].as_str().expect("token").to_owned()
    };
    let (reader, other) = (make("security_events:read").await, make("sessions:read").await);
    for path in [PATH.to_owned(), format!("{PATH}?organizationId={engines}")] {
        let told = scene.api.get(&path, &reader).await.expect(200).json();
        assert!(!told["events"].as_array().expect("events").is_empty());
        let refused = scene.api.get(&path, &other).await.expect_problem(403, "insufficient_scope");
        assert!(refused.header("www-authenticate").expect("a challenge").contains("security_events:read"));
    }
    run(&scene.admin, "update auth.personal_access_tokens set revoked_at = now(), revoked_reason = 'x'", &[]).await;
    scene.api.get(PATH, &reader).await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn filters() {
    let scene = Scene::start().await;
    let ada = scene.api.signup("ada@example.org").await;
    run(
        &scene.admin,
        "insert into auth.audit_log (created_at, action, severity, success, user_id, session_id)
         select '2026-01-01'::timestamptz + n * interval '1 hour', 'test_' || chr(97 + n % 3),
                (array['info', 'warning', 'critical'])[1 + n % 3], n % 2 = 0, $1,
                case when n < 4 then '0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162'::uuid end
           from generate_series(0, 11) n",
        &[&ada.user_id()],
    )
    .await;
    let past = "to=2026-01-02T00:00:00Z";
    let count = async |query: &str| events_of(&scene, &format!("{past}&{query}"), &ada).await.len();
    assert_eq!(count("").await, 12);
    assert_eq!(count("action=test_a").await, 4);
    assert_eq!(count("action=nothing_of_the_kind").await, 0);
    assert_eq!(count("severity=critical").await, 4);
    assert_eq!(count("success=true").await, 6);
    assert_eq!(count("success=false&severity=warning").await, 2);
    assert_eq!(count("sessionId=0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162").await, 4);
    assert_eq!(count("from=2026-01-01T10:00:00Z").await, 2, "from this time on");
    assert_eq!(count("from=2026-01-01T10:00:00.000001Z").await, 1);
    let before = events_of(&scene, "to=2026-01-01T02:00:00Z", &ada).await.len();
    assert_eq!(before, 2, "before this time");
    let zoned = events_of(&scene, "to=2026-01-01T04:00:00%2B02:00", &ada).await.len();
    assert_eq!(zoned, 2);
    assert_eq!(count("limit=5").await, 5);
    assert_eq!(actions_of(&scene, "from=2027-01-01T00:00:00Z", &ada).await, [""; 0]);
}

#[tokio::test]
async fn pages_tell_each_event_once_whatever_happens_meanwhile() {
    let scene = Scene::start().await;
    let ada = scene.api.signup("ada@example.org").await;
    let user = ada.user_id();
    // Many of one microsecond, and of months with and without a partition.
    let plant = async |time: &str, count: i32| {
        run(
            &scene.admin,
            "insert into auth.audit_log (created_at, action, severity, success, user_id)
             select $2::text::timestamptz, 'planted', 'info', true, $1 from generate_series(1, $3)",
            &[&user, &time, &count],
        )
        .await
    };
    plant("now", 10).await;
    plant("2026-01-31 23:59:59.999999Z", 11).await;
    plant("2026-02-01 00:00Z", 9).await;
    plant("2026-02-01 00:00:00.000001Z", 12).await;
    let all: Vec<String> = values(
        &scene.admin,
        "select id::text from auth.security_events where user_id = $1 order by created_at desc, id desc",
        &[&user],
    )
    .await;
    for limit in [1, 7, all.len() - 1, all.len(), 100] {
        let (mut told, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = get(&scene, &format!("limit={limit}{cursor}"), &ada).await.expect(200).json();
            told.extend(page["events"].as_array().expect("events").iter().map(|event| text(event, "id")));
            pages += 1;
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            // Somebody fails to log in, meanwhile.
            if limit == 7 {
                plant("now", 3).await;
            }
        }
        assert_eq!(told, all, "limit {limit}");
        assert_eq!(pages, all.len().div_ceil(limit), "no empty page at the end: {limit}");
        if limit == 7 {
            let later = "delete from auth.audit_log where id::text <> all ($1)";
            run(&scene.admin, "set session_replication_role = replica", &[]).await;
            run(&scene.admin, later, &[&all]).await;
        }
    }
    // A cursor goes with other filters too, and with another user reaches only that user's rows.
    let bob = scene.api.signup("bob@example.org").await;
    let page = get(&scene, "limit=1", &ada).await.json();
    let cursor = page["nextCursor"].as_str().expect("a cursor");
    let his = events_of(&scene, &format!("cursor={cursor}"), &bob).await;
    assert!(his.iter().all(|event| event["userId"] == json!(bob.user_id())));
    assert!(scene.server.log().lines().all(|line| !line.contains("ERROR")));
}

#[tokio::test]
async fn malformed_queries() {
    let scene = Scene::start().await;
    let ada = scene.api.signup("ada@example.org").await;
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "limit=99999999999",
        "cursor=x",
        "cursor=AAAAAAAAAAAAAAAAAAAAA%3D",
        "cursor=f39_f39_f38AAAAAAAAAAA",
        "severity=bad",
        "severity=INFO",
        "success=maybe",
        "action=",
        "action=a%20b",
        "action=a%00",
        "action=A",
        "sessionId=x",
        "organizationId=x",
        "from=yesterday",
        "from=2026-01-01",
        "to=2026-13-01T00:00:00Z",
        "to=0001-01-01T00:00:00Z",
        "from=%2B20000-01-01T00:00:00Z",
    ] {
        let answer = get(&scene, query, &ada).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (400, "bad_request"), "{query}");
    }
    get(&scene, "unknown=1", &ada).await.expect(200);
    scene.api.post(PATH, &json!({}), &ada.access_token).await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_page_of_a_large_log_reads_little_of_it() {
    let scene = Scene::start().await;
    let (ada, engines) = scene.found("ada@example.org", "engines").await;
    // Over five months, of which one has no partition: what others did, and in between what matters here.
    run(
        &scene.admin,
        "insert into auth.audit_log (created_at, action, severity, success, user_id, organization_id, session_id)
         select now() - interval '30 days' + n * interval '40 s', 'user_logged_in', 'info', true,
                case n % 1000 when 0 then $1 else gen_random_uuid() end,
                case n % 1000 when 1 then $2 else gen_random_uuid() end, gen_random_uuid()
           from generate_series(1, 300000) n",
        &[&ada.user_id(), &engines],
    )
    .await;
    scene.admin.batch_execute("analyze auth.audit_log").await.expect("analyze");
    let own = ["limit=50", "limit=50&from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00Z"].map(str::to_owned);
    let organizations = own.clone().map(|query| format!("organizationId={engines}&{query}"));
    // Often enough for a plan without the values (from the sixth time on), in the first pages and in the depth.
    for query in own.iter().chain(&organizations) {
        for _ in 0..4 {
            let page = get(&scene, query, &ada).await.expect(200).json();
            assert_eq!(page["events"].as_array().expect("events").len(), 50);
            let next = page["nextCursor"].as_str().expect("another page");
            let deeper = format!("{query}&cursor={next}");
            assert_eq!(events_of(&scene, &deeper, &ada).await.len(), 50);
        }
    }
    let total: i64 = value(
        &scene.admin,
        "select sum(pg_relation_size(inhrelid) / 8192)::bigint from pg_inherits where inhparent = 'auth.audit_log'::regclass",
        &[],
    )
    .await;
    let statistics = scene.db.cluster().connect("postgres", "postgres").await;
    let read: Vec<i64> = values(
        &statistics,
        "select ((s.shared_blks_hit + s.shared_blks_read) / s.calls)::bigint
           from pg_stat_statements s join pg_database d on d.oid = s.dbid
          where d.datname = $1 and s.query like '%from auth.security_events where%' and s.calls >= 16",
        &[&scene.db.name()],
    )
    .await;
    assert_eq!(read.len(), 2, "the user's and the organization's statement");
    assert!(total > 3000, "{total} blocks are not much");
    assert!(read.iter().all(|blocks| *blocks < 250), "a page reads {read:?} blocks of {total}");
}
