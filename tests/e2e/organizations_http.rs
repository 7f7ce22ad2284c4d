//! Organizations over HTTP: the way of a team from its founding to a member's end, and every refusal on it.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::mail::{MailServer, mailing_server};
use auth_sessions_tests::tenants::mailed_token;
use auth_sessions_tests::wire::parse_jwt;
use auth_sessions_tests::{Answer, Api, Server, Session, TestDb};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;

const NOBODY: &str = "00000000-0000-4000-8000-00000000000a";
const ORGANIZATIONS: &str = "/api/auth/organizations";
const ACCEPT: &str = "/api/auth/invitations/accept";
const SWITCH: &str = "/api/auth/session/organization";

async fn start(settings: &[(&str, &str)]) -> (TestDb, Server, Api, Client) {
    let db = TestDb::create().await;
    let server = Server::start(&db, settings).await;
    let (api, admin) = (server.api(), db.superuser().await);
    (db, server, api, admin)
}

async fn send(api: &Api, method: Method, path: &str, body: Value, bearer: &str) -> Answer {
    let mut request = api.request(method, path);
    if !body.is_null() {
        request = request.json(&body);
    }
    if !bearer.is_empty() {
        request = request.bearer_auth(bearer);
    }
    api.send(request).await
}

async fn found(api: &Api, email: &str, slug: &str) -> (Session, String) {
    let body =
        json!({"email": email, "password": PASSWORD, "name": "Ada", "organization": {"name": slug, "slug": slug}});
    let session = api.post("/api/auth/signup", &body, "").await.expect(201).session();
    let id = text(&session.body["organization"]["id"]);
    (session, id)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn user_id(session: &Session) -> String {
    session.user_id().to_string()
}

/// Everything that can be done with an organization, once, from its founding on. `seen` is shown the path as the
/// document has it, and every answer.
pub async fn walk(api: &Api, admin: &Client, mut seen: impl FnMut(&Method, &str, &Answer)) {
    let ada = api.signup("founder@example.org").await;
    let grace = api.signup("grace@example.org").await;
    let mut ids: Vec<(&str, String)> = vec![("{id}", NOBODY.to_owned())];
    let mut call =
        async |method: Method, path: &str, ids: &[(&str, String)], body: Value, bearer: &str, status: u16| {
            let concrete = ids.iter().fold(path.to_owned(), |path, (name, id)| path.replace(name, id));
            let answer = send(api, method.clone(), &concrete, body, bearer).await.expect(status);
            seen(&method, path, &answer);
            answer.json()
        };
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let none = Value::Null;
    let (members, role) =
        ("/api/auth/organizations/{id}/members", "/api/auth/organizations/{id}/members/{userId}/role");
    let member = "/api/auth/organizations/{id}/members/{userId}";
    let invitations = "/api/auth/organizations/{id}/invitations";
    let invitation = "/api/auth/organizations/{id}/invitations/{invitationId}";
    let sessions = "/api/auth/organizations/{id}/sessions";
    let session = "/api/auth/organizations/{id}/sessions/{sessionId}";
    let leave = "/api/auth/organizations/{id}/leave";

    // Ada founds it, and switches to it.
    let engines =
        json!({"name": "Analytical Engines", "slug": "the-engines", "website": "https://engines.example.org"});
    let created = call(post.clone(), ORGANIZATIONS, &ids, engines.clone(), &ada.access_token, 201).await;
    call(post.clone(), ORGANIZATIONS, &ids, engines, &ada.access_token, 409).await;
    let reserved = json!({"name": "Admin", "slug": "admin"});
    call(post.clone(), ORGANIZATIONS, &ids, reserved, &ada.access_token, 422).await;
    ids[0].1 = text(&created["id"]);
    call(get.clone(), members, &ids, none.clone(), &ada.access_token, 409).await;
    let to_it = json!({"organizationId": created["id"]});
    let ada = call(put.clone(), SWITCH, &ids, to_it.clone(), &ada.access_token, 200).await;
    let ada = text(&ada["accessToken"]);
    let claims = parse_jwt(&ada).1;
    assert_eq!((&claims["org"], &claims["roles"]), (&created["id"], &json!(["ORGANIZATION_OWNER"])));
    let mine = call(get.clone(), ORGANIZATIONS, &ids, none.clone(), &ada, 200).await;
    assert_eq!(
        (&mine["organizations"][0]["isActive"], &mine["organizations"][0]["website"]),
        (&json!(true), &json!("https://engines.example.org"))
    );

    // She invites Grace, twice, and takes the second one back.
    let invite = json!({"email": "GRACE@example.org", "role": "ORGANIZATION_MEMBER"});
    call(post.clone(), invitations, &ids, invite.clone(), &grace.access_token, 404).await;
    let sent = call(post.clone(), invitations, &ids, invite.clone(), &ada, 201).await;
    let listed = call(get.clone(), invitations, &ids, none.clone(), &ada, 200).await;
    assert_eq!(
        (&listed["invitations"][0]["id"], &listed["invitations"][0]["invitedBy"]["name"]),
        (&sent["id"], &json!("Ada Lovelace"))
    );
    ids.push(("{invitationId}", text(&sent["id"])));
    call(delete.clone(), invitation, &ids, none.clone(), &ada, 200).await;
    call(delete.clone(), invitation, &ids, none.clone(), &ada, 404).await;
    let token = json!({"token": mailed_token(admin, "GRACE@example.org").await});
    call(post.clone(), ACCEPT, &ids, token, &grace.access_token, 422).await;
    call(post.clone(), invitations, &ids, invite.clone(), &ada, 201).await;
    let token = json!({"token": mailed_token(admin, "GRACE@example.org").await});
    call(post.clone(), ACCEPT, &ids, token.clone(), &ada, 403).await;
    let joined = call(post.clone(), ACCEPT, &ids, token, &grace.access_token, 200).await;
    assert_eq!(
        (&joined["organization"]["slug"], &joined["organization"]["role"]),
        (&json!("the-engines"), &json!("ORGANIZATION_MEMBER"))
    );
    call(post.clone(), invitations, &ids, invite, &ada, 409).await;

    // Grace works there, is listed, and rises.
    let switched = call(put.clone(), SWITCH, &ids, to_it, &grace.access_token, 200).await;
    assert_eq!(parse_jwt(&text(&switched["accessToken"])).1["roles"], json!(["ORGANIZATION_MEMBER"]));
    let listed = call(get.clone(), members, &ids, none.clone(), &grace.access_token, 200).await;
    assert_eq!(listed["members"].as_array().map(Vec::len), Some(2));
    call(get.clone(), sessions, &ids, none.clone(), &grace.access_token, 403).await;
    ids.push(("{userId}", user_id(&grace)));
    let administrator = json!({"role": "ORGANIZATION_ADMIN"});
    let changed = call(put.clone(), role, &ids, administrator.clone(), &ada, 200).await;
    assert_eq!((&changed["role"], &changed["email"]), (&json!("ORGANIZATION_ADMIN"), &json!("grace@example.org")));
    let grace = api.refresh(&grace.refresh_token).await.expect(200).session();
    assert_eq!(parse_jwt(&grace.access_token).1["roles"], json!(["ORGANIZATION_ADMIN"]), "at the next token");
    ids[2].1 = text(&parse_jwt(&ada).1["sub"]);
    call(put.clone(), role, &ids, administrator.clone(), &grace.access_token, 403).await;
    call(put.clone(), role, &ids, administrator, &ada, 409).await;
    call(post.clone(), leave, &ids, none.clone(), &ada, 409).await;

    // Her sessions are seen and ended; she is removed, after a step-up.
    let listed = call(get.clone(), sessions, &ids, none.clone(), &ada, 200).await;
    let hers =
        listed["sessions"].as_array().expect("sessions").iter().find(|session| session["role"] == "ORGANIZATION_ADMIN");
    let hers = hers.expect("the administrator's session");
    assert_eq!((&hers["userEmail"], &hers["isCurrent"]), (&json!("grace@example.org"), &json!(false)));
    ids.push(("{sessionId}", text(&hers["id"])));
    call(delete.clone(), session, &ids, none.clone(), &ada, 200).await;
    call(delete.clone(), session, &ids, none.clone(), &ada, 404).await;
    api.get("/api/auth/me", &grace.access_token).await.expect_problem(401, "invalid_access_token");
    let again = api.login("grace@example.org", PASSWORD).await.expect(200).session();
    assert_eq!(parse_jwt(&again.access_token).1["org"], created["id"]);
    ids[2].1 = user_id(&grace);
    admin.execute("update auth.sessions set auth_time = auth_time - interval '1 day'", &[]).await.expect("stale");
    call(delete.clone(), member, &ids, none.clone(), &ada, 401).await;
    api.post("/api/auth/step-up", &json!({"password": PASSWORD}), &ada).await.expect(200);
    let removed = call(delete.clone(), member, &ids, none.clone(), &ada, 200).await;
    assert_eq!(removed["revokedSessions"], 1);
    call(delete.clone(), member, &ids, none.clone(), &ada, 404).await;
    api.get("/api/auth/me", &again.access_token).await.expect_problem(401, "invalid_access_token");

    // Another owner comes, so that Ada may go; her session lives on.
    let sql = "insert into auth.organization_members (organization_id, user_id, role) values ($1::text::uuid, $2, 'ORGANIZATION_OWNER')";
    admin.execute(sql, &[&ids[0].1, &grace.user_id()]).await.expect("an owner");
    let left = call(post.clone(), leave, &ids, none.clone(), &ada, 200).await;
    assert_eq!(parse_jwt(&text(&left["accessToken"])).1["org"], Value::Null);
    api.get("/api/auth/me", &ada).await.expect(200);
    call(post, leave, &ids, none, &ada, 404).await;
}

#[tokio::test]
async fn a_team_from_its_founding_to_its_end() {
    let (_db, _server, api, admin) = start(&[]).await;
    walk(&api, &admin, |_, _, _| {}).await;
}

/// Method, path with OWN for the organization, and a body.
fn operations() -> Vec<(Method, String, Value)> {
    let at = |path: &str| format!("{ORGANIZATIONS}/OWN{path}");
    vec![
        (Method::GET, at("/members"), Value::Null),
        (Method::PUT, at(&format!("/members/{NOBODY}/role")), json!({"role": "ORGANIZATION_MEMBER"})),
        (Method::DELETE, at(&format!("/members/{NOBODY}")), Value::Null),
        (Method::GET, at("/sessions"), Value::Null),
        (Method::DELETE, at(&format!("/sessions/{NOBODY}")), Value::Null),
        (Method::GET, at("/invitations"), Value::Null),
        (Method::POST, at("/invitations"), json!({"email": "new@example.org", "role": "ORGANIZATION_MEMBER"})),
        (Method::DELETE, at(&format!("/invitations/{NOBODY}")), Value::Null),
        (Method::POST, at("/leave"), Value::Null),
    ]
}

#[tokio::test]
async fn another_tenants_organization_is_not_found_like_one_that_does_not_exist() {
    let (db, _server, api, _admin) = start(&[]).await;
    let (_ada, ours) = found(&api, "ada@example.org", "ours").await;
    let (bob, _theirs) = found(&api, "bob@example.org", "theirs").await;
    let before = db.row_counts().await;
    for (method, path, body) in operations() {
        for id in [ours.as_str(), NOBODY] {
            let answer = send(&api, method.clone(), &path.replace("OWN", id), body.clone(), &bob.access_token).await;
            answer.expect_problem(404, "organization_not_found");
        }
    }
    for id in [ours.as_str(), NOBODY] {
        let answer = send(&api, Method::PUT, SWITCH, json!({"organizationId": id}), &bob.access_token).await;
        answer.expect_problem(404, "organization_not_found");
    }
    assert_eq!(db.row_counts().await, before);
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let (db, _server, api, _admin) = start(&[]).await;
    let (ada, id) = found(&api, "ada@example.org", "ours").await;
    let before = db.row_counts().await;
    let at = |path: &str| format!("{ORGANIZATIONS}/{id}{path}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let none = Value::Null;
    let invite = |email: &str, role: &str| json!({"email": email, "role": role});
    let cases = [
        (get.clone(), format!("{ORGANIZATIONS}/x/members"), none.clone(), 400, "bad_request"),
        (get.clone(), at("/members?limit=0"), none.clone(), 400, "bad_request"),
        (get.clone(), at("/members?limit=201"), none.clone(), 400, "bad_request"),
        (get.clone(), at("/members?limit=many"), none.clone(), 400, "bad_request"),
        (get.clone(), at("/members?cursor=x"), none.clone(), 400, "bad_request"),
        (get.clone(), at("/sessions?cursor="), none.clone(), 400, "bad_request"),
        (get.clone(), at("/invitations?limit=-1"), none.clone(), 400, "bad_request"),
        (delete.clone(), at("/members/x"), none.clone(), 400, "bad_request"),
        (delete.clone(), at("/sessions/x"), none.clone(), 400, "bad_request"),
        (delete.clone(), at("/invitations/x"), none.clone(), 400, "bad_request"),
        (post.clone(), format!("{ORGANIZATIONS}/x/leave"), none.clone(), 400, "bad_request"),
        (put.clone(), at(&format!("/members/{NOBODY}/role")), json!({"role": "ADMIN"}), 422, "invalid_request"),
        (put.clone(), at(&format!("/members/{NOBODY}/role")), json!({}), 422, "invalid_request"),
        (
            put.clone(),
            at(&format!("/members/{NOBODY}/role")),
            json!({"role": "ORGANIZATION_ADMIN", "more": 1}),
            422,
            "invalid_request",
        ),
        (post.clone(), at("/invitations"), invite("no address", "ORGANIZATION_MEMBER"), 422, "invalid_email"),
        (post.clone(), at("/invitations"), invite("a@example.org", "ROOT"), 422, "invalid_request"),
        (post.clone(), at("/invitations"), json!([]), 422, "invalid_request"),
        (post.clone(), ACCEPT.to_owned(), json!({"token": "x"}), 422, "invalid_one_time_token"),
        (
            post.clone(),
            ACCEPT.to_owned(),
            json!({"token": format!("aso_{}", "A".repeat(43))}),
            422,
            "invalid_one_time_token",
        ),
        (post.clone(), ACCEPT.to_owned(), json!({"token": 7}), 422, "invalid_request"),
        (post.clone(), ORGANIZATIONS.to_owned(), json!({"name": " ", "slug": "some-slug"}), 422, "invalid_name"),
        (post.clone(), ORGANIZATIONS.to_owned(), json!({"name": "Name", "slug": "No Slug"}), 422, "invalid_slug"),
        (post.clone(), ORGANIZATIONS.to_owned(), json!({"name": "Name", "slug": "www"}), 422, "slug_reserved"),
        (
            post,
            ORGANIZATIONS.to_owned(),
            json!({"name": "Name", "slug": "some-slug", "website": "javascript:1"}),
            422,
            "invalid_website",
        ),
        (put, SWITCH.to_owned(), json!({"organizationId": "x"}), 422, "invalid_request"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = send(&api, method.clone(), &path, body.clone(), &ada.access_token).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (status, code), "{method} {path} {body}");
    }
    assert_eq!(db.row_counts().await, before);
}

#[tokio::test]
async fn a_personal_access_token_keeps_to_its_scopes_and_its_organization() {
    let (_db, _server, api, admin) = start(&[]).await;
    let (ada, ours) = found(&api, "ada@example.org", "ours").await;
    admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    let token = async |scopes: Value| {
        let body = json!({"name": "report", "scopes": scopes, "expiresInDays": 1});
        let made = api.post("/api/auth/personal-access-tokens", &body, &ada.access_token).await.expect(201);
        text(&made.json()["token"])
    };
    let (reads, writes) = (token(json!(["organization:read"])).await, token(json!(["organization:write"])).await);
    for (method, path, body) in operations() {
        let (with_read, with_write) = match (method.as_str(), &path) {
            ("GET", _) => ("", "insufficient_scope"),
            (_, path) if path.contains("/members/") || path.contains("/leave") => {
                ("session_required", "session_required")
            }
            _ => ("insufficient_scope", ""),
        };
        for (bearer, code) in [(&reads, with_read), (&writes, with_write)] {
            let answer = send(&api, method.clone(), &path.replace("OWN", &ours), body.clone(), bearer).await;
            match code {
                // What is not there is not found; but it was looked for.
                "" => assert!([200, 201, 404].contains(&answer.status), "{method} {path}: {}", answer.text()),
                code => drop(answer.expect_problem(403, code)),
            }
        }
    }
    for (path, method, body) in [
        (SWITCH, Method::PUT, json!({"organizationId": ours})),
        (ACCEPT, Method::POST, json!({"token": format!("aso_{}", "A".repeat(43))})),
    ] {
        send(&api, method, path, body, &writes).await.expect_problem(403, "session_required");
    }

    // Of the user's second organization the token does not even say that there is one.
    let second =
        api.post(ORGANIZATIONS, &json!({"name": "Second", "slug": "second"}), &ada.access_token).await.expect(201);
    let second = text(&second.json()["id"]);
    let listed = api.get(ORGANIZATIONS, &reads).await.expect(200).json();
    let slugs: Vec<_> =
        listed["organizations"].as_array().expect("a list").iter().map(|of| text(&of["slug"])).collect();
    assert_eq!(slugs, ["ours"]);
    api.get(&format!("{ORGANIZATIONS}/{second}/members"), &reads).await.expect_problem(404, "organization_not_found");
    api.get(&format!("{ORGANIZATIONS}/{second}/members"), &ada.access_token)
        .await
        .expect_problem(409, "organization_not_active");
}

#[tokio::test]
async fn removing_a_member_wants_a_recent_authentication_and_says_how() {
    let (_db, _server, api, admin) = start(&[]).await;
    let (ada, ours) = found(&api, "ada@example.org", "ours").await;
    admin.execute("update auth.sessions set auth_time = auth_time - interval '1 hour'", &[]).await.expect("stale");
    let answer = api.delete(&format!("{ORGANIZATIONS}/{ours}/members/{NOBODY}"), &ada.access_token).await;
    let answer = answer.expect_problem(401, "step_up_required");
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("insufficient_user_authentication") && challenge.contains("max_age"), "{challenge}");
    api.post("/api/auth/step-up", &json!({"password": PASSWORD}), &ada.access_token).await.expect(200);
    let answer = api.delete(&format!("{ORGANIZATIONS}/{ours}/members/{NOBODY}"), &ada.access_token).await;
    answer.expect_problem(404, "member_not_found");
}

#[tokio::test]
async fn a_page_that_switches_gets_its_new_access_token_in_the_cookie() {
    let (_db, _server, api, _admin) = start(&[]).await;
    let (_ada, ours) = found(&api, "ada@example.org", "ours").await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "cookie"});
    let answer = api.post("/api/auth/login", &body, "").await.expect(200);
    let cookie = |answer: &Answer| {
        let cookies = answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        cookies
            .filter(|value| value.starts_with("__Host-"))
            .map(|value| value.split(';').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let (access, csrf) = (cookie(&answer).remove(0), text(&answer.json()["csrfToken"]));
    for organization in [Value::Null, json!(ours)] {
        let request = || {
            api.request(Method::PUT, SWITCH).header("cookie", &access).json(&json!({"organizationId": organization}))
        };
        api.send(request()).await.expect_problem(403, "csrf_token_missing");
        let answer = api.send(request().header("x-csrf-token", &csrf)).await.expect(200);
        assert_eq!(answer.json()["accessToken"], Value::Null, "not in the body");
        let new = cookie(&answer).remove(0);
        let jwt = new.split_once('=').expect("a cookie").1;
        assert_eq!(parse_jwt(jwt).1["org"], organization);
    }
}

#[tokio::test]
async fn lists_go_from_page_to_page() {
    let (_db, _server, api, admin) = start(&[]).await;
    let (ada, ours) = found(&api, "ada@example.org", "ours").await;
    for n in 0..4 {
        let body = json!({"email": format!("guest-{n}@example.org"), "role": "ORGANIZATION_MEMBER"});
        api.post(&format!("{ORGANIZATIONS}/{ours}/invitations"), &body, &ada.access_token).await.expect(201);
        api.login("ada@example.org", PASSWORD).await.expect(200);
        let member = api.signup(&format!("member-{n}@example.org")).await;
        let sql = "insert into auth.organization_members (organization_id, user_id, role) values ($1::text::uuid, $2, 'ORGANIZATION_MEMBER')";
        admin.execute(sql, &[&ours, &member.user_id()]).await.expect("a member");
    }
    for (list, id, all) in [("members", "userId", 5), ("sessions", "id", 5), ("invitations", "id", 4)] {
        let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
        let mut pages = 0;
        loop {
            let page =
                api.get(&format!("{ORGANIZATIONS}/{ours}/{list}?{query}"), &ada.access_token).await.expect(200).json();
            seen.extend(page[list].as_array().expect("a list").iter().map(|row| text(&row[id])));
            pages += 1;
            match page["nextCursor"].as_str() {
                Some(cursor) => query = format!("limit=2&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!((seen.len(), pages), (all, 3), "{list}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{list}");
    }
}

#[tokio::test]
async fn an_invitation_arrives_by_mail_and_its_link_works() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let server = mailing_server(&db, post.port(), &[]).await;
    let api = server.api();
    let (ada, ours) = found(&api, "ada@example.org", "ours").await;
    for role in ["ORGANIZATION_MEMBER", "ORGANIZATION_ADMIN"] {
        let body = json!({"email": "grace@example.org", "role": role});
        api.post(&format!("{ORGANIZATIONS}/{ours}/invitations"), &body, &ada.access_token).await.expect(201);
    }
    let mails = post.wait_for("grace@example.org", 2).await;
    let mail = mails.iter().find(|mail| mail.text("text").contains("administrator")).expect("the second mail");
    assert_eq!(mail.header("subject"), "An invitation to ours");
    let link = format!("https://app.example/account/accept-invitation#token={}", mail.token());
    assert!(mail.text("text").contains(&link), "{}", mail.text("text"));
    let grace = api.signup("grace@example.org").await;
    let joined = api.post(ACCEPT, &json!({"token": mail.token()}), &grace.access_token).await.expect(200).json();
    assert_eq!(joined["organization"]["role"], "ORGANIZATION_ADMIN");
    assert!(!server.log().contains(&mail.token()) && !db.log().contains(&mail.token()));
}
