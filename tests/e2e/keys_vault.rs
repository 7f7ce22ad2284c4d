//! Keys in Vault: cached, read anew, written with check-and-set, and refused with the reason.

use auth_sessions_tests::key_files::Said;
use auth_sessions_tests::server::{HMAC_KEY, auth_api, key, test_key};
use auth_sessions_tests::vault::{KV_PATH, READER_TOKEN, ROOT_TOKEN};
use auth_sessions_tests::{Server, TestDb, Vault, eventually};
use serde_json::{Value, json};

use crate::mailer::certificate;

/// The settings, with others in their place; those that are empty are not there.
fn with<'s>(vault: &'s Vault, changes: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let kept = vault.settings().into_iter().filter(|(name, _)| !changes.iter().any(|(other, _)| other == name));
    kept.chain(changes.iter().copied()).collect()
}

async fn command(vault: &Vault, arguments: &[&str], changes: &[(&str, &str)]) -> Said {
    let settings: Vec<_> = with(vault, changes).into_iter().filter(|(_, value)| !value.is_empty()).collect();
    Said::of(auth_api(&[&["keys"], arguments].concat(), &settings).await)
}

#[tokio::test]
async fn keys_in_vault_are_rotated_and_nodes_take_them_in() {
    let db = TestDb::create().await;
    let vault = Vault::start().await;
    // One node is told, the other looks by itself. A service needs to read, and no more.
    let told = Server::start(&db, &with(&vault, &[("KEY_REFRESH_SECONDS", "0"), ("VAULT_TOKEN", READER_TOKEN)])).await;
    let looking = Server::start(&db, &with(&vault, &[("KEY_REFRESH_SECONDS", "1")])).await;
    let session = told.api().signup("ada@example.org").await;

    let refusal = command(&vault, &["rotate", "hmac"], &[("VAULT_TOKEN", READER_TOKEN)]).await.refusal();
    assert!(refusal.contains("may not do this"), "{refusal}");
    let name = command(&vault, &["rotate", "hmac"], &[]).await.expect();
    assert!(told.reload().await.contains(&format!("new {name}")));
    let took_in = |server: &Server| server.log().matches("the keys were read anew").count();
    eventually("the other node has it too", async || took_in(&looking) == 1).await;

    command(&vault, &["rotate", "hmac", "--promote", &name, "--now"], &[]).await.expect();
    assert!(told.reload().await.contains(&format!("{name} issues")));
    let session = told.api().refresh(&session.refresh_token).await.expect(200).session();
    // The other one knows that key, whether it issues there yet or not.
    let session = looking.api().refresh(&session.refresh_token).await.expect(200).session();
    told.api().refresh(&session.refresh_token).await.expect(200);

    let fields = vault.fields().await;
    assert_eq!(fields["of_somebody_else"], "stays");
    assert!(fields["HMAC_SECRETS"].as_str().is_some_and(|keys| keys.ends_with(&format!(",{}", key(&HMAC_KEY)))));
    let list = command(&vault, &["list"], &[]).await.expect();
    assert!(list.starts_with(&format!("hmac\t{name}\tissues\tHMAC_SECRETS of {KV_PATH} at ")), "{list}");
    let asked = |path: &str, token: &str| vault.asked().iter().any(|it| it["path"] == path && it["token"] == token);
    assert!(asked("/v1/auth/token/renew-self", READER_TOKEN), "the token is prolonged");
}

#[tokio::test]
async fn a_write_of_somebody_else_is_not_undone() {
    let vault = Vault::start().await;
    let before = vault.fields().await;
    vault.test("meddle", json!({})).await;
    let refusal = command(&vault, &["rotate", "jwt"], &[]).await.refusal();
    assert!(refusal.contains("was changed by somebody else meanwhile"), "{refusal}");
    assert_eq!(vault.fields().await, before);
    command(&vault, &["rotate", "jwt"], &[]).await.expect();
}

#[tokio::test]
async fn vault_is_asked_over_tls_and_only_when_its_certificate_is_trusted() {
    let directory = std::env::temp_dir().join(format!("auth-vault-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&directory).expect("a directory");
    let (cert, private) = certificate(&directory);
    let vault = Vault::start_with(&["--cert", &cert, "--key", &private]).await;
    let settings = [("VAULT_ADDR", vault.tls_url()), ("VAULT_SKIP_VERIFY", "1")];
    let before = vault.asked().len();
    let refusal = command(&vault, &["list"], &settings).await.refusal();
    assert!(refusal.contains("its certificate is not one that this machine trusts"), "{refusal}");
    assert_eq!(vault.asked().len(), before, "nothing was sent");
    let trusting = [&settings[..], &[("SSL_CERT_FILE", &cert)]].concat();
    assert!(command(&vault, &["list"], &trusting).await.expect().contains("https://127.0.0.1"));
    let _ = std::fs::remove_dir_all(&directory);
}

#[tokio::test]
async fn what_vault_does_not_give_is_a_refusal_with_the_reason() {
    let db = TestDb::create().await;
    let vault = Vault::start().await;
    let good = vault.fields().await;
    let node = Server::start(&db, &with(&vault, &[("KEY_REFRESH_SECONDS", "0")])).await;
    let mut session = node.api().signup("ada@example.org").await;
    let without = |name: &str| {
        let mut fields = good.clone();
        fields.as_object_mut().expect("fields").remove(name);
        fields
    };
    let changed = |name: &str, value: Value| {
        let mut fields = good.clone();
        fields[name] = value;
        fields
    };

    for (fields, reason) in [
        (without("PASSWORD_PEPPERS"), "PASSWORD_PEPPERS of secret/team/auth-api at"),
        (changed("HMAC_SECRETS", json!("")), "key 1 is empty"),
        (changed("HMAC_SECRETS", json!("00ff")), "key 1 is shorter than 32 bytes"),
        (changed("JWT_SIGNING_KEYS", json!(7)), "is not text"),
        (changed("PASSWORD_PEPPERS", json!(key(&test_key(9)))), "lacks peppers"),
    ] {
        vault.write(fields).await;
        let said = node.reload().await;
        assert!(said.contains(reason) && said.contains("those in use stay"), "{reason}: {said}");
        session = node.api().refresh(&session.refresh_token).await.expect(200).session();
        let (code, sentence) = Server::refuses_to_start(&db, &vault.settings()).await;
        // At the start the last one is said in other words.
        assert!(code == 1 && (sentence.contains(reason) || reason == "lacks peppers"), "{reason}: {sentence}");
    }
    vault.delete().await;
    assert!(node.reload().await.contains("it was deleted"));
    vault.write(good).await;

    vault.seal(true).await;
    assert!(node.reload().await.contains("it is sealed"));
    let (_, sentence) = Server::refuses_to_start(&db, &vault.settings()).await;
    assert!(sentence.contains("it is sealed"), "{sentence}");
    vault.seal(false).await;
    assert!(node.reload().await.contains("they are the same"));

    // Sent elsewhere, the token does not go along.
    let elsewhere = Vault::start().await;
    vault.test("elsewhere", json!({ "location": elsewhere.url() })).await;
    let said = node.reload().await;
    // What it is asked is known in the order in which it was asked: the last is ours.
    elsewhere.seal(false).await;
    let last = |asked: &[Value]| asked.last().is_some_and(|it| it["path"] == "/v1/sys/unseal");
    eventually("all that it was asked is known", async || last(&elsewhere.asked())).await;
    let asked: Vec<String> = elsewhere.asked().iter().map(|it| format!("{} {}", it["method"], it["path"])).collect();
    assert_eq!(asked.len(), 2, "it was asked to keep a secret, and by us: {asked:?}");
    assert!(said.contains("sends us elsewhere (307)"), "{said}");
    vault.test("elsewhere", json!({})).await;

    for (name, value, reason) in [
        ("VAULT_TOKEN", "hvs.nobody", "the token is not known"),
        ("VAULT_KV_PATH", "secret/nowhere", "there is none"),
        ("VAULT_ADDR", "http://127.0.0.1:1", "cannot be reached"),
        ("VAULT_ADDR", "", "VAULT_ADDR is not set"),
        ("HMAC_SECRETS", &key(&HMAC_KEY), "Keys come from one place"),
    ] {
        let (code, sentence) = Server::refuses_to_start(&db, &with(&vault, &[(name, value)])).await;
        assert!(code == 1 && sentence.contains(reason), "{name}: {code} {sentence}");
        assert!(!sentence.contains(&key(&HMAC_KEY)) && !sentence.contains("hvs."), "{sentence}");
    }
    node.api().refresh(&session.refresh_token).await.expect(200);
    assert!(!node.log().contains(ROOT_TOKEN) && !node.log().contains(&key(&HMAC_KEY)));
}
