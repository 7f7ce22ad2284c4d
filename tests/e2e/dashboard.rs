//! The dashboard by HTTP: who is let in, how others' sessions are ended, and live updates. (What it looks like, and what it
//! does in a browser: `tests/browser/dashboard.mjs`.)

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::sql::{let_authentication_age, revoked_reason, run, values};
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Answer, Api, Server, Session, TestDb};
use reqwest::{Method, Response};
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

const PAGES: [&str; 6] = [
    "/dashboard",
    "/dashboard/now",
    "/dashboard/sessions",
    "/dashboard/incidents",
    "/dashboard/events",
    "/dashboard/families/00000000-0000-4000-8000-000000000000",
];

struct Scene {
    db: TestDb,
    admin: Client,
    server: Server,
    api: Api,
}

impl Scene {
    async fn start() -> Self {
        let db = TestDb::create().await;
        let (admin, server) = (db.superuser().await, Server::start(&db, &[]).await);
        run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
        let api = server.api();
        Self { db, admin, server, api }
    }

    async fn found(&self, email: &str, slug: &str) -> (Session, Uuid) {
        let body =
            json!({"email": email, "password": PASSWORD, "name": slug, "organization": {"name": slug, "slug": slug}});
        let session = self.api.post("/api/auth/signup", &body, "").await.expect(201).session();
        let id = session.body["organization"]["id"].as_str().expect("organization").parse().expect("a uuid");
        (session, id)
    }

    async fn join(&self, email: &str, organization: Uuid) -> Session {
        let user = self.api.signup(email).await.user_id();
        let join = "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_MEMBER')";
        run(&self.admin, join, &[&organization, &user]).await;
        self.api.login(email, PASSWORD).await.expect(200).session()
    }

    /// As a browser asks: with the access token in its cookie.
    async fn browse(&self, path: &str, session: &Session) -> Answer {
        let cookie = format!("__Host-auth_access={}", session.access_token);
        self.api.send(self.api.request(Method::GET, path).header("cookie", cookie)).await
    }

    /// Live updates, of a browser that stays.
    async fn listen(&self, session: &Session) -> Events {
        let cookie = format!("__Host-auth_access={}", session.access_token);
        let asked = self.api.request(Method::GET, "/dashboard/events").header("cookie", cookie).send();
        let response = asked.await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let mut events = Events { response, text: String::new() };
        assert_eq!(events.next().await.as_deref(), Some("retry: 5000"));
        assert_eq!(events.next().await.as_deref(), Some("event: changed data: 1"), "since the page was made");
        events
    }

    async fn replay(&self, email: &str) {
        let first = self.api.login(email, PASSWORD).await.expect(200).session();
        let second = self.api.refresh(&first.refresh_token).await.expect(200).session();
        self.api.refresh(&second.refresh_token).await.expect(200);
        self.api.refresh(&first.refresh_token).await.expect(401);
    }

    async fn end(&self, who: &Session, what: &str, id: Uuid, reason: &str) -> Answer {
        self.api
            .post(&format!("/api/auth/oversight/{what}/{id}/end"), &json!({"reason": reason}), &who.access_token)
            .await
    }
}

struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next event (heartbeats are passed over), in one line; none: the stream has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.replace('\n', " ");
                self.text = rest.to_owned();
                if event != ":" {
                    return Some(event);
                }
                continue;
            }
            let chunk = self.response.chunk().await.expect("the stream ends well")?;
            self.text += std::str::from_utf8(&chunk).expect("UTF-8");
        }
    }
}

fn family(session: &Session) -> Uuid {
    RefreshToken::parse(&session.refresh_token).session_id
}

#[tokio::test]
async fn pages_are_for_browsers_of_those_who_oversee_something() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let member = scene.join("mary@example.org", engines).await;
    let stranger = scene.api.signup("eve@example.org").await;
    for path in PAGES {
        for nobody in [&member, &stranger] {
            let refused = scene.browse(path, nobody).await.expect(403);
            assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        }
        scene.api.get(path, "").await.expect(401);
        scene.api.get(path, &owner.access_token).await.expect(401);
    }
    for path in &PAGES[..4] {
        let page = scene.browse(path, &owner).await.expect(200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(page.text().contains("mary@example.org") || !path.ends_with("sessions"));
        assert!(!page.text().contains("style=") && !page.text().contains("onclick"), "{path}: nothing inline");
        assert_eq!(page.header("cache-control"), Some("no-store"));
    }
    for bad in [
        "/dashboard?organization=x",
        "/dashboard?range=year",
        "/dashboard/sessions?cursor=x",
        "/dashboard/incidents?after=x",
        "/dashboard/families/x",
    ] {
        let refused = scene.browse(bad, &owner).await;
        assert!([400, 404].contains(&refused.status), "{bad}: {}", refused.status);
    }
    // Its session ends: the page is one for signing in.
    run(&scene.admin, "select auth.revoke_session_family($1)", &[&family(&owner)]).await;
    for path in PAGES {
        let refused = scene.browse(path, &owner).await.expect(401);
        assert!(refused.text().contains("/sign-in?returnTo=%2Fdashboard"), "{path}");
    }
    assert!(!scene.server.log().contains("mary@example.org"));
}

#[tokio::test]
async fn sessions_of_others_are_ended_for_a_reason() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, _) = scene.found("bob@example.org", "rivals").await;
    let member = scene.join("mary@example.org", engines).await;
    let reason = "Phone stolen, ticket 4711";
    scene.end(&rival, "families", family(&member), reason).await.expect_problem(404, "session_not_found");
    scene.end(&rival, "users", member.user_id(), reason).await.expect_problem(404, "member_not_found");
    scene.end(&member, "families", family(&owner), reason).await.expect_problem(403, "insufficient_role");
    scene.end(&owner, "families", Uuid::nil(), reason).await.expect_problem(404, "session_not_found");
    for reason in ["", "   ", "two\nlines", &"x".repeat(201)] {
        scene.end(&owner, "families", family(&member), reason).await.expect_problem(422, "invalid_request");
    }
    scene.end(&rival, "users", rival.user_id(), "my own").await.expect(200);
    let_authentication_age(&scene.admin, "1 hour").await;
    for (what, id) in [("families", family(&member)), ("users", member.user_id())] {
        let refused = scene.end(&owner, what, id, reason).await.expect_problem(401, "step_up_required");
        assert!(refused.header("www-authenticate").expect("a challenge").contains("insufficient_user_authentication"));
    }
    run(&scene.admin, "update auth.sessions set auth_time = now()", &[]).await;
    let ended = scene.end(&owner, "families", family(&member), reason).await.expect(200).json();
    assert_eq!(ended, json!({"revokedSessions": 1}));
    assert_eq!(revoked_reason(&scene.admin, family(&member)).await.as_deref(), Some("ended_by_organization"));
    scene.api.get("/api/auth/me", &member.access_token).await.expect_problem(401, "invalid_access_token");
    let notes: Vec<String> =
        values(&scene.admin, "select details ->> 'note' from auth.audit_log where details ? 'note' order by id", &[])
            .await;
    assert_eq!(notes, ["my own", reason]);
    // Who overlooks it is told, and the user is not.
    let again = scene.api.login("mary@example.org", PASSWORD).await.expect(200).session();
    let timeline = scene.api.get("/api/auth/security-events", &again.access_token).await.expect(200).text();
    assert!(timeline.contains("ended_by_organization") && !timeline.contains("4711"), "{timeline}");
    let story = scene.browse(&format!("/dashboard/families/{}", family(&member)), &owner).await.expect(200).text();
    assert!(story.contains("ticket 4711"), "{story}");
    let many = scene.end(&owner, "users", member.user_id(), reason).await.expect(200).json();
    assert_eq!(many, json!({"revokedSessions": 1}), "the one of the sign-up acts for nothing of hers");
}

#[tokio::test]
async fn live_updates_say_that_there_is_something_new_to_whom_it_concerns() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, rivals) = scene.found("bob@example.org", "rivals").await;
    let (mut ours, mut theirs) = (scene.listen(&owner).await, scene.listen(&rival).await);
    for (email, organization) in [("mary@example.org", engines), ("carl@example.org", rivals)] {
        scene.join(email, organization).await;
    }
    // What the members did until here was news, too.
    let news = "event: changed data: 1";
    scene.replay("mary@example.org").await;
    assert_eq!(ours.next().await.as_deref(), Some(news));
    // A hint that is nobody's: the rivals' stream looks, and has nothing to say. Then one of theirs.
    scene.replay("carl@example.org").await;
    assert_eq!(theirs.next().await.as_deref(), Some(news));
    // The session ends, and with it the stream.
    run(&scene.admin, "select auth.revoke_session_family($1)", &[&family(&rival)]).await;
    let mut rest = Vec::new();
    while let Some(event) = theirs.next().await {
        rest.push(event);
    }
    assert_eq!(rest.last().map(String::as_str), Some("event: ended data: 1"), "{rest:?}");
    assert!(rest.len() <= 2, "{rest:?}");
    // So does one who oversees nothing any more.
    let demote = "update auth.organization_members set role = 'ORGANIZATION_MEMBER' where user_id = $1";
    run(&scene.admin, demote, &[&owner.user_id()]).await;
    run(&scene.admin, "notify auth_events, 'x'", &[]).await;
    loop {
        let event = ours.next().await.expect("an end");
        if event != news {
            assert_eq!(event, "event: ended data: 1");
            break;
        }
    }
    assert_eq!(ours.next().await, None);
}

#[tokio::test]
async fn a_stream_says_nothing_of_what_is_not_its_readers() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, _) = scene.found("bob@example.org", "rivals").await;
    scene.join("mary@example.org", engines).await;
    let (mut ours, mut theirs) = (scene.listen(&owner).await, scene.listen(&rival).await);
    // Both look at each hint: when ours has told the second, theirs has had the first.
    for _ in 0..2 {
        scene.replay("mary@example.org").await;
        assert_eq!(ours.next().await.as_deref(), Some("event: changed data: 1"));
    }
    run(&scene.admin, "select auth.revoke_session_family($1)", &[&family(&rival)]).await;
    let mut told = Vec::new();
    while let Some(event) = theirs.next().await {
        told.push(event);
    }
    assert_eq!(told, ["event: ended data: 1"], "of the engines' replay it says nothing");
}

#[tokio::test]
async fn streams_are_bounded_and_a_stop_does_not_wait_for_them() {
    let mut scene = Scene::start().await;
    let (owner, _) = scene.found("ada@example.org", "engines").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(scene.listen(&owner).await);
    }
    scene.browse("/dashboard/events", &owner).await.expect(503);
    drop(streams.pop());
    // The place comes back when the service notices; and its page goes on without.
    auth_sessions_tests::eventually("a place", async || {
        let cookie = format!("__Host-auth_access={}", owner.access_token);
        let asked = scene.api.request(Method::GET, "/dashboard/events").header("cookie", cookie).send().await;
        asked.expect("an answer").status() == 200
    })
    .await;
    scene.server.terminate();
    assert_eq!(scene.server.ended().await.code(), Some(0));
    assert!(!scene.server.log().contains("did not finish in time"), "{}", scene.server.log());
    for mut stream in streams {
        assert_eq!(stream.next().await, None, "ended, not cut off");
    }
    drop(scene.db);
}
