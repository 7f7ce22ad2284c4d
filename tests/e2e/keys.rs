//! Keys in files: rotated and reloaded while clients go on, refused when they cannot be used, and never printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::key_files::Said;
use auth_sessions_tests::server::{HMAC_KEY, JWT_SEED, PEPPER, auth_api, key, test_key};
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::wire::{RefreshToken, key_id, parse_jwt};
use auth_sessions_tests::{Api, KeyFiles, Server, Session, TestDb};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the key that a refresh token was written with.
fn key_of(session: &Session) -> String {
    hex(&RefreshToken::parse(&session.refresh_token).key_id)
}

/// The name of the key that an access token was signed with.
fn kid_of(session: &Session) -> String {
    parse_jwt(&session.access_token).0["kid"].as_str().expect("a kid").to_owned()
}

async fn published(api: &Api) -> Vec<String> {
    let keys = api.get("/.well-known/jwks.json", "").await.expect(200).json();
    keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
}

/// Refreshes and asks until told to stop; how often it did.
async fn go_on(api: Api, mut session: Session, stop: Arc<AtomicBool>) -> usize {
    for count in 1.. {
        session = api.refresh(&session.refresh_token).await.expect(200).session();
        api.get("/api/auth/me", &session.access_token).await.expect(200);
        if stop.load(Ordering::SeqCst) {
            return count;
        }
    }
    0
}

#[tokio::test]
async fn every_ring_is_rotated_under_load_and_nobody_notices() {
    let db = TestDb::create().await;
    let files = KeyFiles::create();
    let server = Server::start(&db, &files.settings()).await;
    let api = server.api();
    let mut clients = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for number in 0..4 {
        let session = api.signup(&format!("user{number}@example.org")).await;
        clients.push(tokio::spawn(go_on(server.api(), session, stop.clone())));
    }
    let idle = api.signup("idle@example.org").await;
    assert_eq!((key_of(&idle), published(&api).await), (hex(&key_id(&HMAC_KEY)), vec![kid_of(&idle)]));

    let mut added = Vec::new();
    for ring in ["hmac", "peppers", "jwt"] {
        added.push(files.command(&["rotate", ring], &[]).await.expect());
        // It verifies, and issues nothing yet.
        assert!(server.reload().await.contains(&format!("issues, new {}", added.last().expect("a name"))));
    }
    assert_eq!(published(&api).await, [kid_of(&idle), added[2].clone()], "published before it signs");
    let meanwhile = api.login("idle@example.org", PASSWORD).await.expect(200).session();
    assert_eq!((key_of(&meanwhile), kid_of(&meanwhile)), (key_of(&idle), kid_of(&idle)));

    for (ring, name) in ["hmac", "peppers", "jwt"].iter().zip(&added) {
        files.let_time_pass(ring, 301);
        files.command(&["rotate", ring, "--promote", name], &[]).await.expect();
        assert!(server.reload().await.contains(&format!("{name} issues")));
    }
    assert_eq!(published(&api).await, [added[2].clone(), kid_of(&idle)]);

    // What was issued before goes on, and what follows is of the new keys; the password is renewed with the new pepper.
    api.get("/api/auth/me", &idle.access_token).await.expect(200);
    let next = api.refresh(&idle.refresh_token).await.expect(200).session();
    assert_eq!((key_of(&next), kid_of(&next)), (added[0].clone(), added[2].clone()));
    api.login("idle@example.org", PASSWORD).await.expect(200);
    let admin = db.superuser().await;
    let pepper: i32 = value(&admin, "select pepper_id from auth.users where email = 'idle@example.org'", &[]).await;
    assert_eq!(pepper.to_string(), added[1]);

    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.expect("a client was refused") > 0);
    }
    let incidents: i64 = value(&admin, "select count(*) from auth.replay_incidents", &[]).await;
    assert_eq!(incidents, 0);
}

#[tokio::test]
async fn keys_that_cannot_be_used_change_nothing_and_are_not_looked_for_elsewhere() {
    let db = TestDb::create().await;
    let files = KeyFiles::create();
    let server = Server::start(&db, &files.settings()).await;
    let session = server.api().signup("ada@example.org").await;
    let good = files.read("hmac");
    let short = "000102030405060708090a0b0c0d0e0f";

    for (text, mode, reason) in [
        ("", 0o600, "it is empty"),
        (short, 0o600, "key 1 is shorter than 32 bytes"),
        (&format!("{good},{short}"), 0o600, "key 2 is shorter than 32 bytes"),
        (&format!("{good},{good}"), 0o600, "key 2 is there twice"),
        (&format!("{good},,"), 0o600, "key 2 is empty"),
        (&good, 0o644, "chmod 0600"),
    ] {
        files.write("hmac", text);
        files.set_mode("hmac", mode);
        let said = server.reload().await;
        assert!(
            said.contains(reason) && said.contains("those in use stay") && said.contains("HMAC_SECRETS_FILE="),
            "{said}"
        );
        // The same at the start; and the service does not make up for it from another place.
        let (code, sentence) = Server::refuses_to_start(&db, &files.settings()).await;
        assert!(code == 1 && sentence.contains(reason), "{code} {sentence}");
        let refusal = files.command(&["list"], &[]).await.refusal();
        assert!(refusal.contains(reason), "{refusal}");
        for said in [&said, &sentence, &refusal] {
            assert!(!said.contains(short) && !said.contains(&good), "a key in: {said}");
        }
    }
    std::fs::remove_file(files.path("hmac")).expect("removed");
    assert!(server.reload().await.contains("No such file"));
    let both = files.settings_and(&[("HMAC_SECRETS", &good)]);
    let (_, sentence) = Server::refuses_to_start(&db, &both).await;
    assert!(sentence.contains("HMAC_SECRETS and HMAC_SECRETS_FILE are both set"), "{sentence}");

    let session = server.api().refresh(&session.refresh_token).await.expect(200).session();
    files.write("hmac", &good);
    assert!(server.reload().await.contains("they are the same"));
    let metrics = server.api().get("/metrics", "").await.expect(200).text();
    for counted in ["refused\"} 7", "unchanged\"} 1", "changed\"} 0"] {
        assert!(
            metrics.contains(&format!("auth_api_key_reloads_total{{outcome=\"{counted}\n")),
            "{counted}: {metrics}"
        );
    }
    server.api().refresh(&session.refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_pepper_that_passwords_need_is_neither_retired_nor_dropped() {
    let db = TestDb::create().await;
    let files = KeyFiles::create();
    let server = Server::start(&db, &files.settings()).await;
    let api = server.api();
    api.signup("ada@example.org").await;
    let old = i32::from_be_bytes(key_id(&PEPPER).try_into().expect("4 bytes")).to_string();
    let new = files.command(&["rotate", "peppers"], &[]).await.expect();
    files.command(&["rotate", "peppers", "--promote", &new], &[]).await.expect();
    server.reload().await;

    let url = db.url("auth_service");
    let database = [("DATABASE_URL", url.as_str())];
    for arguments in [&["retire", "peppers", &old][..], &["retire", "peppers", &old, "--now"]] {
        let refusal = files.command(arguments, &database).await.refusal();
        assert!(refusal.contains(&format!("still need the pepper {old}")), "{refusal}");
    }
    // Nobody to ask is no answer.
    assert!(files.command(&["retire", "peppers", &old], &[]).await.refusal().contains("ADMIN_DATABASE_URL"));
    let nobody = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/auth")];
    assert!(files.command(&["retire", "peppers", &old], &nobody).await.refusal().contains("does not answer"));
    // Nor is a file that somebody has edited by hand.
    let complete = files.read("peppers");
    files.write("peppers", complete.lines().next().expect("the new one"));
    let said = server.reload().await;
    assert!(said.contains("lacks peppers") && said.contains(&old), "{said}");
    files.write("peppers", &complete);

    // The login renews the verifier; then nobody needs it.
    api.login("ada@example.org", PASSWORD).await.expect(200);
    files.command(&["retire", "peppers", &old], &database).await.expect();
    let said = server.reload().await;
    assert!(said.contains(&format!("gone {old}")), "{said}");
    api.login("ada@example.org", PASSWORD).await.expect(200);
    assert!(files.command(&["list"], &[]).await.expect().contains(&format!("peppers\t{new}\tissues")));
}

#[tokio::test]
async fn a_key_is_retired_when_nothing_of_it_lives_or_at_once_when_told() {
    let db = TestDb::create().await;
    let files = KeyFiles::create();
    let server = Server::start(&db, &files.settings()).await;
    let api = server.api();
    let (ada, bob) = (api.signup("ada@example.org").await, api.signup("bob@example.org").await);
    let (service, watcher) = (db.url("auth_service"), db.url("auth_watcher"));
    let database = [("DATABASE_URL", service.as_str()), ("ADMIN_DATABASE_URL", watcher.as_str())];
    let (old, old_kid) = (key_of(&ada), kid_of(&ada));

    let refusal = files.command(&["retire", "hmac", &old], &database).await.refusal();
    assert!(refusal.contains("promote another one first"), "{refusal}");
    for ring in ["hmac", "jwt"] {
        let new = files.command(&["rotate", ring], &[]).await.expect();
        files.command(&["rotate", ring, "--promote", &new, "--now"], &[]).await.expect();
    }
    server.reload().await;

    // Two sessions have tokens of the old key; one is refreshed, the other forgotten.
    let refusal = files.command(&["retire", "hmac", &old], &database).await.refusal();
    assert!(refusal.contains("2 sessions may hold a token of it"), "{refusal}");
    // A login that sees no sessions says nothing about them: then it is the longest that there can be.
    let refusal = files.command(&["retire", "hmac", &old], &database[..1]).await.refusal();
    assert!(refusal.contains("Refresh tokens of it may live until"), "{refusal}");
    let ada = api.refresh(&ada.refresh_token).await.expect(200).session();
    let refusal = files.command(&["retire", "hmac", &old], &database).await.refusal();
    assert!(refusal.contains("1 sessions"), "{refusal}");
    let admin = db.superuser().await;
    run(
        &admin,
        "delete from auth.sessions s using auth.users u where u.id = s.user_id and u.email = 'bob@example.org'",
        &[],
    )
    .await;
    files.command(&["retire", "hmac", &old], &database).await.expect();

    let refusal = files.command(&["retire", "jwt", &old_kid], &[]).await.refusal();
    assert!(refusal.contains("Access tokens that it signed may live until"), "{refusal}");
    files.let_time_pass("jwt", 901);
    files.command(&["retire", "jwt", &old_kid], &[]).await.expect();
    server.reload().await;
    assert_eq!(published(&api).await, [kid_of(&ada)]);
    api.get("/api/auth/me", &bob.access_token).await.expect(401);
    api.refresh(&bob.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    api.refresh(&ada.refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_key_is_promoted_when_everybody_can_know_it() {
    let files = KeyFiles::create();
    let refreshing = [("KEY_REFRESH_SECONDS", "60")];
    let new = files.command(&["rotate", "jwt"], &refreshing).await.expect();
    let promote = ["rotate", "jwt", "--promote", new.as_str()];
    files.let_time_pass("jwt", 300);
    // A minute until the last node has read it, and five of a cached JWKS.
    let refusal = files.command(&promote, &refreshing).await.refusal();
    assert!(refusal.contains("not everybody may know"), "{refusal}");
    files.let_time_pass("jwt", 361);
    files.command(&promote, &refreshing).await.expect();
    assert!(files.command(&promote, &refreshing).await.refusal().contains("issues already"));
    assert!(files.command(&["rotate", "jwt", "--promote", "none"], &[]).await.refusal().contains("has no key none"));
    let text = files.read("jwt");
    assert_eq!(text.lines().nth(1), Some(key(&JWT_SEED).as_str()), "the one before is behind it, as it was written");
}

#[tokio::test]
async fn keys_are_listed_by_name_made_once_and_never_printed() {
    let made = Said::of(auth_api(&["keys", "generate"], &[]).await);
    let other = Said::of(auth_api(&["keys", "generate"], &[]).await).expect();
    assert!(made.out.len() == 64 && made.out != other && !made.err.contains(&made.out), "{made:?}");
    let names: Vec<&str> = made.err.split_whitespace().collect();

    let (hmac, peppers) = (key(&HMAC_KEY), key(&PEPPER));
    let in_the_environment =
        [("HMAC_SECRETS", &*hmac), ("PASSWORD_PEPPERS", &*peppers), ("JWT_SIGNING_KEYS", made.out.as_str())];
    let list = Said::of(auth_api(&["keys", "list"], &in_the_environment).await).expect();
    let kid = list.lines().last().expect("a line").split('\t').nth(1).expect("a name").to_owned();
    assert!(names.contains(&kid.as_str()), "{list}: {made:?}");
    let expected = format!("hmac\t{}\tissues\tHMAC_SECRETS", hex(&key_id(&HMAC_KEY)));
    assert_eq!(list.lines().next(), Some(expected.as_str()));

    // What is in the environment, nothing can change from here: what to do is said, and nobody prints a key.
    let mut said = vec![list];
    for arguments in [&["keys", "rotate", "jwt"][..], &["keys", "rotate", "jwt", "--promote", &kid]] {
        let output = Said::of(auth_api(arguments, &in_the_environment).await).refusal();
        assert!(output.contains("JWT_SIGNING_KEYS is in the environment") && output.contains("restart"), "{output}");
        said.push(output);
    }
    let files = KeyFiles::create();
    let new = files.command(&["rotate", "hmac"], &[]).await;
    said.extend([new.err, files.command(&["list"], &[]).await.expect()]);
    said.push(files.command(&["retire", "hmac", "x"], &[]).await.refusal());
    for secret in [&hmac, &peppers, &made.out, &key(&test_key(3)), files.read("hmac").lines().nth(1).expect("a key")] {
        assert!(said.iter().all(|said| !said.contains(secret)), "a key was printed: {said:?}");
    }
}

/// As a unit of systemd has them: of root, and to be read by a group that the service is in (api/README.md, Keys).
#[tokio::test]
async fn files_of_root_may_be_read_by_a_group_and_those_of_others_are_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can give a file away.
    }
    let (nobody, somebody) = (65_534, 1);
    let files = KeyFiles::create();
    let list = async || files.command_as(nobody, &["list"]).await;
    assert!(list().await.refusal().contains("Permission denied"));
    for ring in ["hmac", "peppers", "jwt"] {
        std::os::unix::fs::chown(files.path(ring), None, Some(nobody)).expect("its group");
        files.set_mode(ring, 0o640);
    }
    assert_eq!(list().await.expect().lines().count(), 3);
    // What root puts there instead is the group's to read as well.
    files.command(&["rotate", "jwt"], &[]).await.expect();
    assert_eq!(list().await.expect().lines().count(), 4);
    std::os::unix::fs::chown(files.path("hmac"), Some(somebody), None).expect("its owner");
    let refusal = list().await.refusal();
    assert!(refusal.contains("it belongs to another user (uid 1), who can change it"), "{refusal}");
}

#[tokio::test]
async fn keys_in_the_environment_want_a_restart_and_say_so() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let session = server.api().signup("ada@example.org").await;
    let said = server.reload().await;
    assert!(said.contains("SIGHUP: the keys are in the environment"), "{said}");
    server.api().refresh(&session.refresh_token).await.expect(200);
    let names: Vec<String> =
        values(&db.superuser().await, "select action from auth.audit_log where not success", &[]).await;
    assert!(names.is_empty(), "{names:?}");
}
