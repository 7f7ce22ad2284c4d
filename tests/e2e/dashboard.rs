//! The dashboard by HTTP: who is let in, how others' sessions are ended, and live updates. (What it looks like, and what it
//! does in a browser: `tests/browser/dashboard.mjs`.)

use std::time::Duration;

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::oidc::parts;
use auth_sessions_tests::scene::Scene;
use auth_sessions_tests::sql::{let_authentication_age, revoked_reason, run, values};
use auth_sessions_tests::tenants::names;
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Answer, Session, eventually};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::json;
use uuid::Uuid;

const PAGES: [&str; 6] = [
    "/dashboard",
    "/dashboard/now",
    "/dashboard/sessions",
    "/dashboard/incidents",
    "/dashboard/events",
    "/dashboard/families/00000000-0000-4000-8000-000000000000",
];

/// As a browser asks: with the access token in its cookie.
fn ask(scene: &Scene, path: &str, session: &Session) -> RequestBuilder {
    let cookie = format!("__Host-auth_access={}", session.access_token);
    scene.api.request(Method::GET, path).header("cookie", cookie)
}

/// The answer without its body, which of a stream has no end.
async fn knock(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

/// The whole answer, of what is no stream.
async fn whole(request: RequestBuilder) -> Answer {
    let response = knock(request).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    assert!(!is_stream, "{} is a stream, and ought to be refused", response.url().path());
    Answer { status, headers, body: response.bytes().await.expect("a body").to_vec() }
}

async fn browse(scene: &Scene, path: &str, session: &Session) -> Answer {
    whole(ask(scene, path, session)).await
}

/// Live updates, of a browser that stays.
async fn listen(scene: &Scene, session: &Session) -> Events {
    let response = knock(ask(scene, "/dashboard/events", session)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut events = Events { response, text: String::new() };
    assert_eq!(events.next().await.as_deref(), Some("retry: 5000"));
    assert_eq!(events.next().await.as_deref(), Some("event: changed data: 1"), "since the page was made");
    events
}

async fn replay(scene: &Scene, email: &str) {
    let first = scene.api.login(email, PASSWORD).await.expect(200).session();
    let second = scene.api.refresh(&first.refresh_token).await.expect(200).session();
    scene.api.refresh(&second.refresh_token).await.expect(200);
    scene.api.refresh(&first.refresh_token).await.expect(401);
}

async fn end(scene: &Scene, who: &Session, what: &str, id: Uuid, reason: &str) -> Answer {
    let path = format!("/api/auth/oversight/{what}/{id}/end");
    scene.api.post(&path, &json!({"reason": reason}), &who.access_token).await
}

/// A stream looks by itself every 15 s, hint or not: who has heard nothing by then waits in vain.
const PATIENCE: Duration = Duration::from_secs(60);

struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next event (heartbeats are passed over), in one line; none: the stream has ended.
    async fn next(&mut self) -> Option<String> {
        let next = tokio::time::timeout(PATIENCE, self.wait()).await;
        next.expect("the stream has said nothing for a minute, and not ended")
    }

    async fn wait(&mut self) -> Option<String> {
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

/// A program's token, with all that a program can be allowed.
async fn personal_access_token(scene: &Scene, owner: &Session) -> String {
    run(&scene.admin, "update auth.users set email_verified_at = now()", &[]).await;
    let scopes = ["profile:read", "sessions:read", "sessions:write", "organization:read", "security_events:read"];
    let wanted = json!({"name": "siem", "scopes": scopes, "expiresInDays": 1});
    let made = scene.api.post("/api/auth/personal-access-tokens", &wanted, &owner.access_token).await.expect(201);
    made.json()["token"].as_str().expect("a token").to_owned()
}

fn family(session: &Session) -> Uuid {
    RefreshToken::parse(&session.refresh_token).session_id
}

#[tokio::test]
async fn pages_are_for_browsers_of_those_who_oversee_something() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let member = scene.join("mary@example.org", engines, "ORGANIZATION_MEMBER").await;
    let stranger = scene.api.signup("eve@example.org").await;
    let program = personal_access_token(&scene, &owner).await;
    for path in PAGES {
        for nobody in [&member, &stranger] {
            let refused = browse(&scene, path, nobody).await.expect(403);
            assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        }
        whole(scene.api.request(Method::GET, path)).await.expect(401);
        // A page is for browsers: a program's token opens none, not even beside good cookies.
        for bearer in [&owner.access_token, &program] {
            whole(scene.api.request(Method::GET, path).bearer_auth(bearer)).await.expect(401);
            whole(ask(&scene, path, &owner).bearer_auth(bearer)).await.expect(401);
        }
    }
    for path in &PAGES[..4] {
        let page = browse(&scene, path, &owner).await.expect(200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(page.text().contains("mary@example.org") || !path.ends_with("sessions"));
        assert!(!page.text().contains("style=") && !page.text().contains("onclick"), "{path}: nothing inline");
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"), "{path}: its query is nobody else's business");
    }
    for bad in [
        "/dashboard?organization=x",
        "/dashboard?range=year",
        "/dashboard/sessions?cursor=x",
        "/dashboard/incidents?after=x",
        "/dashboard/families/x",
    ] {
        let refused = browse(&scene, bad, &owner).await;
        assert!([400, 404].contains(&refused.status), "{bad}: {}", refused.status);
    }
    // Its session ends: the page is one for signing in.
    run(&scene.admin, "select auth.revoke_session_family($1)", &[&family(&owner)]).await;
    for path in PAGES {
        let refused = browse(&scene, path, &owner).await.expect(401);
        assert!(refused.text().contains("/sign-in?returnTo=%2Fdashboard"), "{path}");
    }
    assert!(!scene.server.log().contains("mary@example.org"));
}

#[tokio::test]
async fn no_page_tells_of_another_organization() {
    let scene = Scene::start().await;
    let (owner, _) = scene.found("ada@example.org", "engines").await;
    let (rival, rivals) = scene.found("bob@rivals.example", "rivals").await;
    let member = scene.join("carl@rivals.example", rivals, "ORGANIZATION_MEMBER").await;
    replay(&scene, "carl@rivals.example").await;
    for _ in 0..10 {
        scene.api.login("carl@rivals.example", "wrong").await.expect(401);
    }
    let theirs = names(&scene.admin, rivals).await;
    let [of_rival, of_member] = [family(&rival), family(&member)].map(|id| format!("/dashboard/families/{id}"));
    // What there is to be seen, to whom it belongs: else nobody would notice that a page shows nothing at all.
    let mut seen = String::new();
    for path in PAGES[..4].iter().copied().chain([of_rival.as_str(), &of_member]) {
        seen += &browse(&scene, path, &rival).await.expect(200).text();
    }
    for name in ["bob@rivals.example".to_owned(), "carl@rivals.example".to_owned(), family(&member).to_string()] {
        assert!(theirs.contains(&name) && seen.contains(&name), "their owner is not told of {name}: {seen}");
    }

    let elsewhere =
        ["/dashboard", "/dashboard/now", "/dashboard/sessions", "/dashboard/incidents", "/dashboard/events"]
            .map(|path| format!("{path}?organization={rivals}"));
    let ranges = ["/dashboard?range=week".to_owned(), "/dashboard?range=month".to_owned()];
    let pages = PAGES[..4].iter().map(ToString::to_string).chain(ranges).chain(elsewhere).chain([of_rival, of_member]);
    for path in pages {
        let page = browse(&scene, &path, &owner).await;
        for name in &theirs {
            let text = page.text().replace(&path, "");
            assert!(!text.contains(name), "{path} tells of {name}: {text}");
        }
        assert_eq!(page.status == 200, !path.contains('-'), "{path}: {}", page.status);
    }
    for name in theirs.iter().chain([&"carl".to_owned()]) {
        let page = browse(&scene, &format!("/dashboard/sessions?q={name}"), &owner).await.expect(200).text();
        assert!(page.contains("Nothing.") && !page.contains("<tbody>"), "a search for {name} finds: {page}");
    }
}

/// A jti, an address or a name in a query are for the reader alone.
#[tokio::test]
async fn what_is_searched_for_is_in_no_log_and_no_referrer() {
    let scene = Scene::start().await;
    let (owner, _) = scene.found("ada@example.org", "engines").await;
    let jti = parts(&owner.access_token).1["jti"].as_str().expect("a jti").to_owned();
    for (search, status, shown) in [
        (jti.clone(), 200, "ada@example.org"),
        (format!("{jti}@nobody.example"), 200, "Nothing."),
        (jti.repeat(8), 400, "A search has at most 254 characters."),
    ] {
        let page = browse(&scene, &format!("/dashboard/sessions?q={search}"), &owner).await.expect(status);
        assert!(page.text().contains(shown), "{}", page.text());
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    }
    // Nor where somebody else is asked to sign in, and nowhere in the log, which tells all else of these requests.
    let nobody = scene.api.get(&format!("/dashboard/sessions?q={jti}"), "").await.expect(401);
    assert_eq!(nobody.header("referrer-policy"), Some("no-referrer"));
    let requests = scene.server.log().matches("overseenSessionsPage").count();
    assert!(requests >= 4, "{requests} requests in the log");
    assert!(!scene.server.log().contains(&jti), "{}", scene.server.log());
}

#[tokio::test]
async fn sessions_of_others_are_ended_for_a_reason() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, _) = scene.found("bob@example.org", "rivals").await;
    let member = scene.join("mary@example.org", engines, "ORGANIZATION_MEMBER").await;
    let reason = "Phone stolen, ticket 4711";
    end(&scene, &rival, "families", family(&member), reason).await.expect_problem(404, "session_not_found");
    end(&scene, &rival, "users", member.user_id(), reason).await.expect_problem(404, "member_not_found");
    end(&scene, &member, "families", family(&owner), reason).await.expect_problem(403, "insufficient_role");
    end(&scene, &owner, "families", Uuid::nil(), reason).await.expect_problem(404, "session_not_found");
    for reason in ["", "   ", "two\nlines", &"x".repeat(201)] {
        end(&scene, &owner, "families", family(&member), reason).await.expect_problem(422, "invalid_request");
    }
    end(&scene, &rival, "users", rival.user_id(), "my own").await.expect(200);
    let_authentication_age(&scene.admin, "1 hour").await;
    for (what, id) in [("families", family(&member)), ("users", member.user_id())] {
        let refused = end(&scene, &owner, what, id, reason).await.expect_problem(401, "step_up_required");
        assert!(refused.header("www-authenticate").expect("a challenge").contains("insufficient_user_authentication"));
    }
    run(&scene.admin, "update auth.sessions set auth_time = now()", &[]).await;
    let ended = end(&scene, &owner, "families", family(&member), reason).await.expect(200).json();
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
    assert!(timeline.contains("ended_by_organization") && !timeline.contains("ticket 4711"), "{timeline}");
    let story = browse(&scene, &format!("/dashboard/families/{}", family(&member)), &owner).await.expect(200).text();
    assert!(story.contains("ticket 4711"), "{story}");
    let many = end(&scene, &owner, "users", member.user_id(), reason).await.expect(200).json();
    assert_eq!(many, json!({"revokedSessions": 1}), "the one of the sign-up acts for nothing of hers");
}

#[tokio::test]
async fn live_updates_say_that_there_is_something_new_to_whom_it_concerns() {
    let scene = Scene::start().await;
    let (owner, engines) = scene.found("ada@example.org", "engines").await;
    let (rival, rivals) = scene.found("bob@example.org", "rivals").await;
    let (mut ours, mut theirs) = (listen(&scene, &owner).await, listen(&scene, &rival).await);
    for (email, organization) in [("mary@example.org", engines), ("carl@example.org", rivals)] {
        scene.join(email, organization, "ORGANIZATION_MEMBER").await;
    }
    // What the members did until here was news, too.
    let news = "event: changed data: 1";
    replay(&scene, "mary@example.org").await;
    assert_eq!(ours.next().await.as_deref(), Some(news));
    // A hint that is nobody's: the rivals' stream looks, and has nothing to say. Then one of theirs.
    replay(&scene, "carl@example.org").await;
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
    scene.join("mary@example.org", engines, "ORGANIZATION_MEMBER").await;
    let (mut ours, mut theirs) = (listen(&scene, &owner).await, listen(&scene, &rival).await);
    // Both look at each hint: when ours has told the second, theirs has had the first.
    for _ in 0..2 {
        replay(&scene, "mary@example.org").await;
        assert_eq!(ours.next().await.as_deref(), Some("event: changed data: 1"));
    }
    // Its session ends without an event, which would be one of its own organization.
    let past = "update auth.sessions set expires_at = clock_timestamp() - interval '1 s' where family_id = $1";
    run(&scene.admin, past, &[&family(&rival)]).await;
    replay(&scene, "mary@example.org").await;
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
    let another = scene.api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(listen(&scene, &owner).await);
    }
    let fourth = knock(ask(&scene, "/dashboard/events", &owner)).await;
    assert_eq!(fourth.status(), 503, "a session has three streams at most");
    listen(&scene, &another).await;
    drop(streams.pop());
    // The place comes back when the service notices; until then its page goes on without.
    eventually("the place of the stream that went away is free", async || {
        knock(ask(&scene, "/dashboard/events", &owner)).await.status() == 200
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
