//! Another system's users and sessions, taken over by the three worked examples: nobody is logged out, passwords go on
//! working, and old queries go on reading.

use auth_sessions_tests::adoption::{OLD_PASSWORD, adopt, example, load_example};
use auth_sessions_tests::sql::{refusal, revoked_reason, value, values};
use auth_sessions_tests::{Api, Server, TestDb};
use reqwest::Method;
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

/// The key of the third example's HMAC.
const HMAC_KEY: &str = "hex:6f1c29b0a4d87e53c1902b5fe68d3a74b9e2075dd14f8cc6530ae97b28f461d9";

struct Adopted {
    db: TestDb,
    admin: Client,
    server: Server,
    api: Api,
}

/// The example's old side, taken over, and the service in front of it.
async fn adopted(name: &str, settings: &[(&str, &str)]) -> Adopted {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, name).await;
    adopt(&db, &example(&format!("{name}.toml")), &[]).await.expect();
    let server = Server::start(&db, settings).await;
    let api = server.api();
    Adopted { db, admin, server, api }
}

fn token(holder: &str) -> String {
    format!("refresh-token-of-{holder}")
}

/// Everybody's token gives a new pair, a retry the same one, and the new one goes on.
async fn expect_logged_in(adopted: &Adopted, holders: &[(&str, &str)]) {
    for (holder, email) in holders {
        let refreshed = adopted.api.refresh(&token(holder)).await.expect(200);
        assert_eq!(refreshed.json()["user"]["email"], *email, "{holder}");
        let session = refreshed.session();
        let again = adopted.api.refresh(&token(holder)).await.expect(200).session();
        assert_eq!(again.refresh_token, session.refresh_token, "{holder}: the answer was lost");
        adopted.api.get("/api/auth/me", &session.access_token).await.expect(200);
        adopted.api.refresh(&session.refresh_token).await.expect(200);
    }
}

async fn expect_refused(adopted: &Adopted, holders: &[&str]) {
    for holder in holders {
        adopted.api.refresh(&token(holder)).await.expect_problem(401, "invalid_refresh_token");
    }
}

/// Who had a password there has it here, renewed to what this service makes.
async fn expect_passwords(adopted: &Adopted, emails: &[&str]) {
    for email in emails {
        adopted.api.login(email, "another password entirely").await.expect_problem(401, "invalid_credentials");
        adopted.api.login(email, OLD_PASSWORD).await.expect(200);
        let sql = "select password_params from auth.users where lower(email) = lower($1)";
        let params: String = value(&adopted.admin, sql, &[email]).await;
        assert_eq!(params, "m=64,t=1,p=1", "{email}");
        adopted.api.login(email, OLD_PASSWORD).await.expect(200);
    }
}

async fn reason_of(adopted: &Adopted, old_id: &str) -> Option<String> {
    let sql = "select session_id from auth_adoption.old_rows where old_id = $1";
    revoked_reason(&adopted.admin, value::<Uuid>(&adopted.admin, sql, &[&old_id]).await).await
}

#[tokio::test]
async fn one_row_per_token_with_sha256() {
    let adopted = adopted("auth_sessions", &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    expect_passwords(&adopted, &["ada@example.org", "bob@example.org"]).await;
    adopted.api.login("eve@example.org", "password").await.expect_problem(401, "invalid_credentials");
    adopted.api.login("ida@example.org", OLD_PASSWORD).await.expect_problem(401, "invalid_credentials");
    expect_logged_in(
        &adopted,
        &[("ada-phone-3", "ada@example.org"), ("ada-laptop-1", "ada@example.org"), ("bob-1", "Bob@Example.org")],
    )
    .await;
    expect_refused(&adopted, &["eve-1", "max-1", "ida-1", "odd-1"]).await;
    // A token that was consumed there, two refreshes ago: its family ends, and nothing else.
    assert_eq!(reason_of(&adopted, "t3").await, None);
    expect_refused(&adopted, &["ada-phone-1"]).await;
    assert_eq!(reason_of(&adopted, "t3").await.as_deref(), Some("token_replay"));
    assert_eq!(reason_of(&adopted, "t4").await, None);

    let sessions: Vec<String> = values(
        &adopted.admin,
        "select concat_ws(' / ', r.old_id, s.device_name, s.last_ip_cidr, s.user_agent like '%back\\\\slash%', s.auth_time = r.auth_time)
           from auth_adoption.old_rows r join auth.sessions s on s.id = r.session_id where r.outcome = 'current' order by 1",
        &[],
    )
    .await;
    assert_eq!(
        sessions,
        [
            "t3 / Safari 17 on iPhone / 127.0.0.0/24 / f / t",
            "t4 / Firefox 122 on Linux / 127.0.0.0/24 / f / t",
            "t5 / Unknown client / 127.0.0.0/24 / t / t",
        ]
    );
}

#[tokio::test]
async fn plain_tokens_with_numbers_for_ids() {
    let adopted = adopted("refresh_tokens", &[("ADOPTED_TOKEN_FORMAT", "plain")]).await;
    let networks: Vec<String> =
        values(&adopted.admin, "select concat(device_name, ' ', last_ip_cidr) from auth.sessions order by 1", &[])
            .await;
    assert_eq!(networks, [" ", "Carol's phone 192.0.2.0/24", "Tablet with a tab 2001:db8::/64"]);
    expect_passwords(&adopted, &["carol@example.org", "dave@example.org"]).await;
    expect_logged_in(
        &adopted,
        &[
            ("carol-phone-2", "carol@example.org"),
            ("carol-tablet-1", "carol@example.org"),
            ("dave-1", "dave@example.org"),
        ],
    )
    .await;
    expect_refused(&adopted, &["dave-0", "carol-again-1", "carol-phone-1"]).await;
    assert_eq!(reason_of(&adopted, "2").await.as_deref(), Some("token_replay"));
    assert_eq!(reason_of(&adopted, "3").await, None);
    // No token of the old system is in any log, nor in anything that this one keeps.
    let log = format!("{} {}", adopted.server.log(), adopted.db.log());
    assert!(!log.contains("refresh-token-of-"), "{log}");
}

#[tokio::test]
async fn one_row_per_session_with_hmac() {
    let settings = [("ADOPTED_TOKEN_FORMAT", "hmac-sha256"), ("ADOPTED_TOKEN_KEY", HMAC_KEY)];
    let adopted = adopted("sessions", &settings).await;
    let kept: i64 = value(
        &adopted.admin,
        "select count(*) from auth.sessions s join public.sessions o on o.id = s.id join auth.users u on u.id = o.person_id",
        &[],
    )
    .await;
    assert_eq!(kept, 3, "uuids are kept");
    expect_passwords(&adopted, &["grace@example.org", "alan@example.org"]).await;
    expect_logged_in(
        &adopted,
        &[
            ("grace-laptop", "grace@example.org"),
            ("grace-phone", "grace@example.org"),
            ("alan-laptop", "alan@example.org"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_browser_that_logged_in_there_is_the_same_device_here() {
    let db = TestDb::create().await;
    db.set("auth_sessions.device_mismatch", "reject").await;
    load_example(&db.superuser().await, "auth_sessions").await;
    adopt(&db, &example("auth_sessions.toml"), &[]).await.expect();
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    let api = server.api();
    let refresh = async |user_agent: &str| {
        let body = json!({"refreshToken": token("ada-laptop-1")});
        let request = api.request(Method::POST, "/api/auth/refresh").header("user-agent", user_agent).json(&body);
        api.send(request).await
    };
    refresh("curl/8.5.0").await.expect_problem(401, "invalid_refresh_token");
    // It was updated since.
    refresh("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0").await.expect(200);
}

/// What the old application asks, in its own words.
const OLD_QUERY: &str = "select string_agg(format('%s %s %s %s %s', id, user_id, user_agent is null, revoked_at is null, refresh_token_hash), '; ' order by id)
                           from public.auth_sessions where user_id = $1 and expires_at > now()";

#[tokio::test]
async fn old_queries_go_on_reading_and_nothing_writes() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "auth_sessions").await;
    // The old application's own login, in the shape of one: it may read, and write.
    admin
        .batch_execute(
            "grant usage on schema public to auth_watcher; grant select, insert, update, delete on public.auth_sessions to auth_watcher",
        )
        .await
        .unwrap();
    let old_application = db.connect_as("auth_watcher").await;
    let before: String = value(&old_application, OLD_QUERY, &[&"usr_ada"]).await;
    let all = "select array_agg(id::text order by id) from public.auth_sessions";
    let ids: Vec<String> = value(&old_application, all, &[]).await;
    adopt(&db, &example("auth_sessions.toml"), &[]).await.expect();

    let hidden: String = value(&old_application, OLD_QUERY, &[&"usr_ada"]).await;
    let without_hash = |text: &str| {
        let rows = text.split("; ").map(|row| row.rsplit_once(' ').map_or(row, |(row, _)| row).to_owned());
        rows.collect::<Vec<_>>()
    };
    assert_eq!(without_hash(&hidden), without_hash(&before));
    assert!(hidden.split("; ").all(|row| row.ends_with(' ')), "hashes are not shown: {hidden}");
    assert_eq!(value::<Vec<String>>(&old_application, all, &[]).await, ids, "every row of before");

    // It follows what happens here: a session that ends, one that begins, and who came later.
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    let api = server.api();
    api.login("bob@example.org", OLD_PASSWORD).await.expect(200);
    api.signup("later@example.org").await;
    api.refresh(&token("ada-phone-1")).await.expect_problem(401, "invalid_refresh_token");
    let live = "select string_agg(user_id, ' ' order by user_id) from public.auth_sessions where revoked_at is null and expires_at > now() and id <> 't8' and id <> 't9'";
    let live: String = value(&old_application, live, &[]).await;
    let later: String = value(&admin, "select id::text from auth.users where email = 'later@example.org'", &[]).await;
    let mut expected = ["usr_ada", "usr_bob", "usr_bob", &later];
    expected.sort_unstable();
    assert_eq!(live, expected.join(" "), "t4, t5, and two since");
    // A user's sessions and a session are found by the indexes that there were.
    admin.batch_execute("set enable_seqscan = off").await.unwrap();
    let plan = "explain select * from public.auth_sessions where id = 't4'";
    let plan: Vec<String> = values(&admin, plan, &[]).await;
    assert!(plan.join("\n").contains("auth_sessions_pkey"), "{plan:#?}");

    for write in [
        "insert into public.auth_sessions (id, expires_at) values ('x', now())",
        "update public.auth_sessions set revoked_at = now() where id = 't4'",
        "delete from public.auth_sessions where id = 't1'",
    ] {
        let refused = refusal(old_application.batch_execute(write).await);
        assert_eq!(refused.code, "55000", "{write}: {refused:?}");
        assert!(refused.hint.contains("auth-api"), "{refused:?}");
    }
    for around in [
        "select from auth_kept.auth_sessions",
        "select from auth_adoption.adopted_sessions",
        "select from auth_adoption.users",
    ] {
        assert_eq!(refusal(old_application.batch_execute(around).await).code, "42501", "{around}");
    }
}
