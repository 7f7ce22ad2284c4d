//! Accounts over HTTP: signing up is all or nothing, and a login tells nobody who has an account.

use std::time::{Duration, Instant};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Answer, Api, Server, TestDb, all_at_once};
use serde_json::{Value, json};

async fn start(settings: &[(&str, &str)]) -> (TestDb, Server, Api) {
    let db = TestDb::create().await;
    let server = Server::start(&db, settings).await;
    let api = server.api();
    (db, server, api)
}

fn account(email: &str, slug: Option<&str>) -> Value {
    let mut body = json!({"email": email, "password": PASSWORD, "name": "Ada Lovelace"});
    if let Some(slug) = slug {
        body["organization"] = json!({
            "name": "Analytical Engines",
            "slug": slug,
            "description": "Engines that analyse",
            "website": "https://engines.example.org",
        });
    }
    body
}

async fn sign_up(api: &Api, body: &Value) -> Answer {
    api.post("/api/auth/signup", body, "").await
}

#[tokio::test]
async fn signing_up_makes_everything_at_once() {
    let (db, _server, api) = start(&[]).await;
    let before = db.row_counts().await;

    let answer = sign_up(&api, &account("Ada@example.org", Some("analytical-engines"))).await.expect(201);
    let body = answer.json();
    assert_eq!(body["user"]["email"], "Ada@example.org");
    assert_eq!(body["user"]["userType"], "INDIVIDUAL");
    assert_eq!(body["organization"]["slug"], "analytical-engines");
    assert_eq!(body["organization"]["role"], "ORGANIZATION_OWNER");
    assert_eq!(body["token"], body["accessToken"]);
    let session = answer.session();
    let me = api.get("/api/auth/me", &session.access_token).await.expect(200).json();
    assert_eq!((&me["user"], &me["organization"]), (&body["user"], &body["organization"]));

    let after = db.row_counts().await;
    for table in ["users", "organizations", "organization_members", "sessions"] {
        assert_eq!(after[table] - before[table], 1, "{table}");
    }
    let admin = db.superuser().await;
    let rows = admin.query("select action from auth.audit_log order by action", &[]).await.expect("audit_log");
    let actions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = [
        "auth_session_created",
        "organization_created",
        "organization_signup_completed",
        "user_created",
        "user_role_created",
    ];
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn nobody_signs_up_as_an_administrator() {
    let (db, _server, api) = start(&[]).await;
    let before = db.row_counts().await;
    for (member, value) in [
        ("userType", json!("ADMIN")),
        ("userType", json!("SUPERADMIN")),
        ("userType", json!("admin")),
        ("role", json!("ORGANIZATION_OWNER")),
        ("roles", json!(["ADMIN"])),
        ("emailVerified", json!(true)),
        ("id", json!("00000000-0000-4000-8000-000000000000")),
    ] {
        let mut body = account("ada@example.org", None);
        body[member] = value;
        sign_up(&api, &body).await.expect_problem(422, "invalid_request");
    }
    assert_eq!(db.row_counts().await, before);

    let mut body = account("ada@example.org", None);
    body["userType"] = json!("BUSINESS");
    let session = sign_up(&api, &body).await.expect(201).session();
    assert_eq!(session.body["user"]["userType"], "BUSINESS");
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing() {
    let (db, _server, api) = start(&[]).await;
    sign_up(&api, &account("first@example.org", Some("first-company"))).await.expect(201);
    let admin = db.superuser().await;
    let function = "create function public.fail() returns trigger language plpgsql as
                    $$ begin raise exception 'made to fail'; end $$";
    admin.batch_execute(function).await.expect("a function");
    let before = db.row_counts().await;

    // Each table that a sign-up writes refuses in its turn; the audit log also at each of its events.
    let rows = admin.query("select distinct action from auth.audit_log", &[]).await.expect("audit_log");
    let mut steps: Vec<(String, String)> = ["users", "organizations", "organization_members", "sessions"]
        .map(|table| (format!("auth.{table}"), String::new()))
        .into();
    assert!(rows.len() >= 5, "the events of a sign-up");
    for row in &rows {
        let action: String = row.get(0);
        steps.push(("auth.audit_log".into(), format!("when (new.action = '{action}')")));
    }
    for (table, condition) in steps {
        let trigger = format!(
            "create trigger fail before insert on {table} for each row {condition} execute function public.fail()"
        );
        admin.batch_execute(&trigger).await.expect("a trigger");
        sign_up(&api, &account("ada@example.org", Some("engines"))).await.expect_problem(500, "internal_error");
        assert_eq!(db.row_counts().await, before, "{table} {condition}");
        admin.batch_execute(&format!("drop trigger fail on {table}")).await.expect("dropped");
    }

    sign_up(&api, &account("ada@example.org", Some("engines"))).await.expect(201);
}

#[tokio::test]
async fn one_account_for_an_address_whatever_its_case() {
    let (_db, _server, api) = start(&[]).await;
    sign_up(&api, &account("Ada@Example.org", None)).await.expect(201);
    for email in ["Ada@Example.org", "ada@example.org", "ADA@EXAMPLE.ORG"] {
        sign_up(&api, &account(email, None)).await.expect_problem(409, "email_taken");
        api.login(email, PASSWORD).await.expect(200);
    }
    sign_up(&api, &account("ada@example.com", None)).await.expect(201);
}

#[tokio::test]
async fn a_taken_slug_leaves_no_account() {
    let (db, _server, api) = start(&[]).await;
    sign_up(&api, &account("ada@example.org", Some("engines"))).await.expect(201);
    let before = db.row_counts().await;
    sign_up(&api, &account("bob@example.org", Some("engines"))).await.expect_problem(409, "slug_taken");
    sign_up(&api, &account("bob@example.org", Some("admin"))).await.expect_problem(422, "slug_reserved");
    for slug in ["ab", "Engines", "-engines", "engines-", "en--gines", "engines!", &"a".repeat(51)] {
        sign_up(&api, &account("bob@example.org", Some(slug))).await.expect_problem(422, "invalid_slug");
    }
    assert_eq!(db.row_counts().await, before);

    let asked = async |slug: &str| {
        let path = format!("/api/auth/organizations/slug-available/{slug}");
        api.get(&path, "").await.expect(200).json()
    };
    assert_eq!(asked("free-slug").await["available"], true);
    let taken = asked("engines").await;
    assert_eq!((&taken["available"], &taken["slug"]), (&json!(false), &json!("engines")));
    let suggestion = taken["suggestions"][0].as_str().expect("a suggestion").to_owned();
    assert_eq!(asked(&suggestion).await["available"], true);
    assert_eq!(asked("admin").await["available"], false);
    sign_up(&api, &account("bob@example.org", Some(&suggestion))).await.expect(201);
}

/// Ten rounds of eight sign-ups at once; `body(round, n)` of a round collide.
async fn collide(body: impl Fn(usize, usize) -> Value, code: &str) {
    let (_db, server, _api) = start(&[]).await;
    for round in 0..10 {
        let answers = all_at_once(8, |n, start| {
            let (api, body) = (server.api(), body(round, n));
            async move {
                api.get("/health/live", "").await; // connects
                start.wait().await;
                sign_up(&api, &body).await
            }
        });
        let (made, refused): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(|answer| answer.status == 201);
        assert_eq!(made.len(), 1, "round {round}");
        for answer in refused {
            answer.expect_problem(409, code);
        }
    }
}

#[tokio::test]
async fn of_sign_ups_for_one_address_one_wins() {
    let address =
        |round, n| if n % 2 == 0 { format!("ada{round}@example.org") } else { format!("ADA{round}@EXAMPLE.org") };
    collide(|round, n| account(&address(round, n), None), "email_taken").await;
}

#[tokio::test]
async fn of_sign_ups_for_one_slug_one_wins() {
    collide(|round, n| account(&format!("ada{round}-{n}@example.org"), Some(&format!("slug-{round}"))), "slug_taken")
        .await;
}

/// Status, headers and body but for what names the request.
fn anonymous(answer: &Answer) -> String {
    let id = answer.header("x-request-id").expect("a request id").to_owned();
    let headers: Vec<_> =
        answer.headers.iter().filter(|(name, _)| *name != "date" && *name != "x-request-id").collect();
    format!("{} {headers:?} {}", answer.status, answer.text().replace(&id, "ID"))
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_are_told_the_same() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;

    // The lock-out at the end too: nobody learns from it whether there is an account. Its Retry-After counts down, so
    // it may differ by the second that passed between the two.
    for attempt in 0..14 {
        let known = api.login("ada@example.org", "wrong password").await;
        let unknown = api.login("eve@example.org", "wrong password").await;
        if known.status == 401 {
            assert_eq!(anonymous(&known), anonymous(&unknown), "attempt {attempt}");
        } else {
            assert_eq!((known.status, unknown.status), (429, 429), "attempt {attempt}");
            assert_eq!(
                (known.problem_code(), unknown.problem_code()),
                ("account_locked".into(), "account_locked".into())
            );
            let seconds =
                |answer: &Answer| -> i64 { answer.header("retry-after").expect("wait").parse().expect("seconds") };
            assert!((seconds(&known) - seconds(&unknown)).abs() <= 1);
        }
    }
    assert_eq!(api.login("ada@example.org", PASSWORD).await.status, 429, "locked, also for the right password");
}

#[tokio::test]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    // Hashing costs about 20 ms here, so that its absence would show; everything else of a login is a millisecond or two.
    let (db, _server, api) = start(&[("ARGON2_MEMORY_KIB", "8192"), ("ARGON2_ITERATIONS", "3")]).await;
    api.signup("ada@example.org").await;
    let admin = db.superuser().await;
    let timed = async |email: &str| {
        let started = Instant::now();
        api.login(email, "wrong password").await.expect_problem(401, "invalid_credentials");
        let time = started.elapsed();
        // Or the address would be locked after ten.
        admin.execute("delete from auth.attempts", &[]).await.expect("forgotten");
        time
    };

    // In turns, so that whatever else the machine does hits both alike.
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..40 {
        known.push(timed("ada@example.org").await);
        unknown.push(timed(&format!("nobody{}@example.org", round % 5)).await);
    }
    let (known, unknown) = (Spread::of(known), Spread::of(unknown));

    let hashing = known.median;
    assert!(hashing > Duration::from_millis(8), "{hashing:?} is too little to show anything");
    let difference = known.median.abs_diff(unknown.median);
    assert!(difference < hashing / 4, "medians {:?} and {:?}", known.median, unknown.median);
    // And the bulk of both overlaps: one measurement does not tell which it was.
    assert!(known.low < unknown.high && unknown.low < known.high, "{known:?} {unknown:?}");
}

#[derive(Debug)]
struct Spread {
    low: Duration,
    median: Duration,
    high: Duration,
}

impl Spread {
    /// First quartile, median, third quartile.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |quarter: usize| times[times.len() * quarter / 4];
        Self { low: at(1), median: at(2), high: at(3) }
    }
}

#[tokio::test]
async fn many_wrong_logins_over_http_lock_the_account_and_break_nothing() {
    let (db, server, api) = start(&[("ARGON2_QUEUE", "1000")]).await;
    api.signup("ada@example.org").await;
    let answers = all_at_once(100, |_, start| {
        let api = server.api();
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            api.login("ada@example.org", "wrong password").await
        }
    });
    for answer in answers.await {
        match answer.status {
            401 => answer.expect_problem(401, "invalid_credentials"),
            _ => answer.expect_problem(429, "account_locked"),
        };
    }
    api.login("ada@example.org", PASSWORD).await.expect_problem(429, "account_locked");
    let failures = "select count(*) from auth.audit_log where action = 'user_login_failed' and not success";
    let logged: i64 = db.superuser().await.query_one(failures, &[]).await.expect("audit_log").get(0);
    assert!(logged >= 10, "{logged}");
}

#[tokio::test]
async fn when_there_is_too_much_to_hash_the_answer_is_try_again() {
    let slow = [("ARGON2_MEMORY_KIB", "65536"), ("ARGON2_CONCURRENCY", "1"), ("ARGON2_QUEUE", "1")];
    let (_db, server, api) = start(&slow).await;
    let session = api.signup("ada@example.org").await;
    let started = Instant::now();
    let answers = all_at_once(30, |n, start| {
        let api = server.api();
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            api.login(&format!("nobody{n}@example.org"), "wrong password").await
        }
    });
    let (refused, overloaded): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(|answer| answer.status == 401);
    assert!(!refused.is_empty() && overloaded.len() > 15, "{} {}", refused.len(), overloaded.len());
    for answer in overloaded {
        let answer = answer.expect_problem(503, "overloaded");
        assert!(answer.header("retry-after").is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // Who has a session never notices.
    api.refresh(&session.refresh_token).await.expect(200);
}
