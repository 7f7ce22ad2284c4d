//! Whether a slug is free: remembered for some seconds by each process, and never by whoever takes it.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Answer, Api, Server, TestDb};
use serde_json::{Value, json};

const CHECK: &str = "/api/auth/organizations/slug-available";

async fn check(api: &Api, slug: &str) -> Value {
    api.get(&format!("{CHECK}/{slug}"), "").await.expect(200).json()
}

async fn sign_up(api: &Api, email: &str, slug: &str) -> Answer {
    let organization = json!({"name": "Engines", "slug": slug});
    let body = json!({"email": email, "password": PASSWORD, "name": "Ada", "organization": organization});
    api.post("/api/auth/signup", &body, "").await
}

async fn questions(db: &TestDb) -> i64 {
    db.statements().await.iter().filter(|(statement, _)| statement.contains("check_slug")).map(|(_, calls)| calls).sum()
}

#[tokio::test]
async fn a_remembered_answer_misleads_a_form_at_most_never_a_sign_up() {
    let db = TestDb::create().await;
    let one = Server::start(&db, &[("SLUG_CACHE_SECONDS", "60")]).await;
    let other = Server::start(&db, &[("SLUG_CACHE_SECONDS", "60")]).await;
    let (one, other) = (one.api(), other.api());
    assert_eq!(check(&one, "engines").await["available"], true);

    // By another process: this one does not know, and says so to the form; but takes nothing that is taken.
    sign_up(&other, "ada@example.org", "engines").await.expect(201);
    assert_eq!(check(&other, "engines").await["available"], false);
    assert_eq!(check(&one, "engines").await["available"], true, "remembered");
    sign_up(&one, "bob@example.org", "engines").await.expect_problem(409, "slug_taken");
    assert_eq!(check(&one, "engines").await["available"], false, "it has been told");

    // What was remembered as taken may be had as soon as it is free.
    let admin = db.superuser().await;
    admin.execute("delete from auth.organizations", &[]).await.expect("deleted");
    assert_eq!(check(&one, "engines").await["available"], false, "remembered");
    sign_up(&one, "bob@example.org", "engines").await.expect(201);
}

#[tokio::test]
async fn what_this_process_takes_it_knows_at_once() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("SLUG_CACHE_SECONDS", "60")]).await;
    let api = server.api();
    for slug in ["engines", "looms"] {
        assert_eq!(check(&api, slug).await["available"], true);
    }
    let ada = sign_up(&api, "ada@example.org", "engines").await.expect(201).session();
    assert_eq!(check(&api, "engines").await["available"], false, "by signing up");
    let body = json!({"name": "Looms", "slug": "looms"});
    api.post("/api/auth/organizations", &body, &ada.access_token).await.expect(201);
    assert_eq!(check(&api, "looms").await["available"], false, "by founding");
}

#[tokio::test]
async fn many_questions_are_one_for_the_database_and_a_failure_is_not_remembered() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("SLUG_CACHE_SECONDS", "60")]).await;
    let answers = auth_sessions_tests::all_at_once(50, |_, start| {
        let api = server.api();
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            check(&api, "engines").await
        }
    });
    for answer in answers.await {
        assert_eq!(answer["available"], true);
    }
    assert_eq!(questions(&db).await, 1);

    let admin = db.superuser().await;
    admin.batch_execute("alter function auth.check_slug rename to check_slug_away").await.expect("renamed");
    server.api().get(&format!("{CHECK}/looms"), "").await.expect(503);
    admin.batch_execute("alter function auth.check_slug_away rename to check_slug").await.expect("renamed");
    assert_eq!(check(&server.api(), "looms").await["available"], true);
}

#[tokio::test]
async fn without_a_memory_every_question_is_asked() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("SLUG_CACHE_SECONDS", "0")]).await;
    for _ in 0..3 {
        check(&server.api(), "engines").await;
    }
    assert_eq!(questions(&db).await, 3);
}
