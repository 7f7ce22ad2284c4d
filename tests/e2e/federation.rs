//! Logins through an OpenID provider, as the database decides them: whom a verified ID token logs in, links or makes, and
//! whom not. The service's word is all there is to go by, so also: who may call this at all.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{audit_trail, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{OUTCOME_COLUMNS, Outcome, PASSWORD, Secret, log_in, random_bytes, rotate, sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

pub const ISSUER: &str = "https://issuer.example";

/// What a verified ID token says.
#[derive(Clone)]
pub struct Claims {
    pub provider: &'static str,
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub digest: Vec<u8>,
    pub expires_in: &'static str,
    pub authenticated: Option<&'static str>,
}

/// A fresh token of that subject, with a verified address.
pub fn claims(subject: &str, email: &str) -> Claims {
    Claims {
        provider: ISSUER,
        subject: subject.to_owned(),
        email: Some(email.to_owned()),
        email_verified: true,
        digest: random_bytes(32),
        expires_in: "1 hour",
        authenticated: None,
    }
}

/// Shows it, as the service does.
pub async fn federate(federation: &Client, claims: &Claims) -> Outcome {
    let secret = Secret::random();
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.open_federated_session(
             provider => $1, subject => $2, email => $3, email_verified => $4, name => 'Ada', id_token_digest => $5,
             id_token_expires_at => clock_timestamp() + $6::text::interval, token_verifier => $7,
             authenticated_at => clock_timestamp() + $8::text::interval, correlation_id => 'test')"
    );
    let Claims { provider, subject, email, email_verified, digest, expires_in, authenticated } = claims;
    let row = federation
        .query_one(
            &statement,
            &[provider, subject, email, email_verified, digest, expires_in, &secret.verifier(), authenticated],
        )
        .await
        .expect("open_federated_session");
    Outcome::from_row(&row).granting(secret)
}

pub struct Scene {
    pub db: TestDb,
    pub federation: Client,
    pub service: Client,
    pub admin: Client,
}

pub async fn scene() -> Scene {
    let db = TestDb::create().await;
    let federation = db.connect_as("auth_federation_service").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    Scene { db, federation, service, admin }
}

impl Scene {
    async fn verify(&self, email: &str) {
        let verified = "update auth.users set email_verified_at = now() where email = $1";
        assert_eq!(run(&self.admin, verified, &[&email]).await, 1);
    }

    async fn user(&self, email: &str) -> Uuid {
        value(&self.admin, "select id from auth.users where email = $1", &[&email]).await
    }

    async fn count(&self, table: &str) -> i64 {
        value(&self.admin, &format!("select count(*) from auth.{table}"), &[]).await
    }

    /// The reasons of failed federated logins, oldest first.
    async fn reasons(&self) -> Vec<String> {
        let reasons = "select details ->> 'reason' from auth.security_events
            where action = 'user_login_failed' and not success and details ->> 'method' = 'federated' order by id";
        values(&self.admin, reasons, &[]).await
    }
}

#[tokio::test]
async fn a_first_login_makes_an_account_without_a_password() {
    let scene = scene().await;
    let opened = federate(&scene.federation, &claims("1", "Ada@example.org")).await;
    assert_eq!(opened.outcome, "logged_in");
    assert_eq!(opened.amr.as_deref(), Some(&["fed".to_owned()][..]));
    let account = "select email, email_verified_at is not null, password_verifier is null, name, user_type
                     from auth.users where id = $1";
    let row = scene.admin.query_one(account, &[&opened.user_id]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "Ada@example.org");
    assert!(row.get::<_, bool>(1) && row.get::<_, bool>(2), "the provider verified the address; there is no password");
    assert_eq!((row.get::<_, &str>(3), row.get::<_, &str>(4)), ("Ada", "INDIVIDUAL"));
    let identity = "select provider || ' ' || subject || ' ' || email from auth.identities where user_id = $1";
    let identity: String = value(&scene.admin, identity, &[&opened.user_id]).await;
    assert_eq!(identity, format!("{ISSUER} 1 Ada@example.org"));

    let events = "select action || ' ' || coalesce(details ->> 'method', details ->> 'provider', '-') || ' ' || actor
                    from auth.audit_log order by id";
    assert_eq!(
        values::<String>(&scene.admin, events, &[]).await,
        [
            format!("user_created {ISSUER} auth_federation_service"),
            format!("identity_linked {ISSUER} auth_federation_service"),
            "auth_session_created - auth_federation_service".to_owned(),
            "user_logged_in federated auth_federation_service".to_owned(),
        ]
    );
    let session = opened.session_id.unwrap();
    assert_eq!(audit_trail(&scene.admin, session).await, ["auth_session_created", "user_logged_in"]);

    // It is a session like any other, and the account one like any other that has no password.
    assert_eq!(rotate(&scene.service, &opened.token()).await.outcome, "rotated");
    assert_eq!(log_in(&scene.service, "ada@example.org", PASSWORD).await.outcome, "refused");
    let salt = "select octet_length(password_salt) from auth.begin_login('ada@example.org')";
    assert_eq!(value::<i32>(&scene.service, salt, &[]).await, 16, "asked about, it looks like no account");
}

#[tokio::test]
async fn the_same_subject_is_the_same_user_whatever_became_of_the_address() {
    let scene = scene().await;
    let first = federate(&scene.federation, &claims("1", "ada@example.org")).await;
    let before: String = value(&scene.admin, "select last_used_at::text from auth.identities", &[]).await;
    let moved = federate(&scene.federation, &claims("1", "ada@new.example")).await;
    assert_eq!((moved.outcome.as_str(), moved.user_id), ("logged_in", first.user_id));
    let mut unverified = claims("1", "ada@new.example");
    unverified.email_verified = false;
    assert_eq!(federate(&scene.federation, &unverified).await.user_id, first.user_id, "the subject is who it is");
    unverified = claims("1", "");
    unverified.email = None;
    assert_eq!(federate(&scene.federation, &unverified).await.user_id, first.user_id);
    let after: String = value(&scene.admin, "select last_used_at::text from auth.identities", &[]).await;
    assert!(after > before, "{before} {after}");
    assert_eq!((scene.count("users").await, scene.count("identities").await), (1, 1));

    // The same subject at another provider is somebody else.
    let mut elsewhere = claims("1", "bob@example.org");
    elsewhere.provider = "https://other.example";
    let other = federate(&scene.federation, &elsewhere).await;
    assert_eq!(other.outcome, "logged_in");
    assert_ne!(other.user_id, first.user_id);
}

#[tokio::test]
async fn a_verified_account_with_the_address_is_linked_and_keeps_its_password() {
    let scene = scene().await;
    let by_password = sign_up(&scene.service, "ada@example.org").await;
    scene.verify("ada@example.org").await;
    let opened = federate(&scene.federation, &claims("1", "ADA@Example.org")).await;
    assert_eq!(opened.outcome, "logged_in");
    assert_eq!(opened.user_id, Some(scene.user("ada@example.org").await));
    let linked = "select count(*) from auth.audit_log where action = 'identity_linked' and user_id = $1";
    assert_eq!(value::<i64>(&scene.admin, linked, &[&opened.user_id]).await, 1);
    assert_eq!(log_in(&scene.service, "ada@example.org", PASSWORD).await.outcome, "logged_in");
    assert_eq!(rotate(&scene.service, &by_password).await.outcome, "rotated", "linking ends nobody's session");
    assert_eq!(scene.count("users").await, 1);
}

#[tokio::test]
async fn an_account_whose_address_was_never_verified_is_not_linked() {
    let scene = scene().await;
    // The pre-hijacker signs up with the victim's address, and waits for the victim to come by the provider.
    let hijacker = sign_up(&scene.service, "victim@example.org").await;
    let refused = federate(&scene.federation, &claims("1", "victim@example.org")).await;
    assert_eq!(refused.outcome, "email_not_linkable");
    assert!(refused.session_id.is_none() && refused.user_id.is_none() && refused.token.is_none());
    assert_eq!(scene.count("identities").await, 0);
    assert_eq!(scene.count("sessions").await, 1, "the hijacker's own");
    assert_eq!(scene.reasons().await, ["email_not_linkable"]);
    assert_eq!(rotate(&scene.service, &hijacker).await.outcome, "rotated");
    // When the owner has taken the account over (the mail goes to the address), it can be linked.
    scene.verify("victim@example.org").await;
    assert_eq!(federate(&scene.federation, &claims("1", "victim@example.org")).await.outcome, "logged_in");
}

#[tokio::test]
async fn an_address_that_was_given_to_somebody_else_at_the_provider_does_not_inherit_the_account() {
    let scene = scene().await;
    federate(&scene.federation, &claims("former owner", "team@example.org")).await;
    let refused = federate(&scene.federation, &claims("new owner", "team@example.org")).await;
    assert_eq!(refused.outcome, "email_not_linkable");
    // Another provider's word for the same verified address is as good as the first one's.
    let mut elsewhere = claims("1", "team@example.org");
    elsewhere.provider = "https://other.example";
    assert_eq!(federate(&scene.federation, &elsewhere).await.outcome, "logged_in");
    assert_eq!((scene.count("users").await, scene.count("identities").await), (1, 2));
}

#[tokio::test]
async fn an_address_that_the_provider_has_not_verified_makes_and_links_nothing() {
    let scene = scene().await;
    sign_up(&scene.service, "ada@example.org").await;
    scene.verify("ada@example.org").await;
    for email in [Some("ada@example.org"), Some("new@example.org"), None] {
        let mut unverified = claims("1", "");
        unverified.email = email.map(str::to_owned);
        unverified.email_verified = email.is_none();
        assert_eq!(federate(&scene.federation, &unverified).await.outcome, "email_not_verified", "{email:?}");
    }
    assert_eq!((scene.count("users").await, scene.count("identities").await), (1, 0));
    assert_eq!(scene.reasons().await, ["email_not_verified"; 3]);
}

#[tokio::test]
async fn a_disabled_user_is_refused_linked_or_not_and_a_locked_out_one_is_not() {
    let scene = scene().await;
    federate(&scene.federation, &claims("1", "ada@example.org")).await;
    sign_up(&scene.service, "bob@example.org").await;
    scene.verify("bob@example.org").await;
    run(&scene.admin, "update auth.users set disabled_at = now()", &[]).await;
    assert_eq!(federate(&scene.federation, &claims("1", "ada@example.org")).await.outcome, "disabled");
    assert_eq!(federate(&scene.federation, &claims("2", "bob@example.org")).await.outcome, "disabled");
    assert_eq!(scene.count("identities").await, 1, "nor linked");
    assert_eq!(value::<i64>(&scene.admin, "select count(*) from auth.active_sessions", &[]).await, 0);
    let told = "select u.email from auth.security_events e join auth.users u on u.id = e.user_id
                 where e.action = 'user_login_failed' and e.details ->> 'reason' = 'disabled' order by e.id";
    assert_eq!(values::<String>(&scene.admin, told, &[]).await, ["ada@example.org", "bob@example.org"]);

    run(&scene.admin, "update auth.users set disabled_at = null", &[]).await;
    for _ in 0..12 {
        log_in(&scene.service, "bob@example.org", "wrong").await;
    }
    assert_eq!(log_in(&scene.service, "bob@example.org", PASSWORD).await.outcome, "locked");
    assert_eq!(federate(&scene.federation, &claims("2", "bob@example.org")).await.outcome, "logged_in");
}

#[tokio::test]
async fn a_token_is_accepted_once_and_remembered_until_it_has_expired() {
    let scene = scene().await;
    let token = claims("1", "ada@example.org");
    assert_eq!(federate(&scene.federation, &token).await.outcome, "logged_in");
    for _ in 0..5 {
        let again = federate(&scene.federation, &token).await;
        assert_eq!(again.outcome, "already_used");
        assert!(again.token.is_none() && again.user_id.is_none());
    }
    // A refused one is used, too: it cannot fill the log.
    let mut refused = claims("2", "bob@example.org");
    refused.email_verified = false;
    assert_eq!(federate(&scene.federation, &refused).await.outcome, "email_not_verified");
    refused.email_verified = true;
    assert_eq!(federate(&scene.federation, &refused).await.outcome, "already_used");
    let mut reasons = vec!["already_used"; 3]; // the 1st, 2nd and 4th
    reasons.extend(["email_not_verified", "already_used"]);
    assert_eq!(scene.reasons().await, reasons);

    let forget = "select auth.cleanup_expired_sessions()";
    value::<i64>(&scene.admin, forget, &[]).await;
    assert_eq!(scene.count("accepted_id_tokens").await, 2, "still needed");
    let pass = "update auth.accepted_id_tokens set expires_at = expires_at - interval '3 hours' where digest = $1";
    run(&scene.admin, pass, &[&token.digest]).await;
    value::<i64>(&scene.admin, forget, &[]).await;
    assert_eq!(
        values::<Vec<u8>>(&scene.admin, "select digest from auth.accepted_id_tokens", &[]).await,
        [refused.digest]
    );
    // One that has expired is refused before it is looked for, so forgetting it loses nothing.
    for (expires_in, outcome) in
        [("-1 hour", "expired"), ("-10 minutes", "expired"), ("-1 minute", "logged_in"), ("8 days", "expired")]
    {
        let mut token = claims("1", "ada@example.org");
        token.expires_in = expires_in;
        assert_eq!(federate(&scene.federation, &token).await.outcome, outcome, "{expires_in}");
    }
}

#[tokio::test]
async fn what_was_accepted_is_remembered_after_a_crash() {
    let cluster = auth_sessions_tests::OwnCluster::create();
    let federation = cluster.connect("auth_federation_service", "auth").await;
    let token = claims("1", "ada@example.org");
    let opened = federate(&federation, &token).await;
    assert_eq!(opened.outcome, "logged_in");
    cluster.crash();
    cluster.start();
    let federation = cluster.connect("auth_federation_service", "auth").await;
    assert_eq!(federate(&federation, &token).await.outcome, "already_used");
    let service = cluster.connect("auth_service", "auth").await;
    assert_eq!(rotate(&service, &opened.token()).await.outcome, "rotated");
}

#[tokio::test]
async fn an_authentication_of_long_ago_is_no_fresh_one() {
    let scene = scene().await;
    for (authenticated, fresh) in
        [(None, true), (Some("-1 minute"), true), (Some("1 hour"), true), (Some("-2 days"), false)]
    {
        let mut token = claims("1", "ada@example.org");
        token.authenticated = authenticated;
        let opened = federate(&scene.federation, &token).await;
        assert_eq!(opened.outcome, "logged_in");
        scene.service.batch_execute("begin").await.unwrap();
        let assume = "select from auth.assume_session($1, $2)";
        assert_eq!(run(&scene.service, assume, &[&opened.session_id, &opened.jti]).await, 1);
        let recent: bool = value(&scene.service, "select auth.require_auth_age('5 minutes')", &[]).await;
        scene.service.batch_execute("commit").await.unwrap();
        assert_eq!(recent, fresh, "{authenticated:?}");
        assert!(opened.auth_time.unwrap() <= opened.expires_at.unwrap());
    }
    let ahead = "select count(*) from auth.sessions where auth_time > clock_timestamp()";
    assert_eq!(value::<i64>(&scene.admin, ahead, &[]).await, 0);
}

#[tokio::test]
async fn the_session_acts_for_the_members_organization_and_wishes_only_shorten_it() {
    let scene = scene().await;
    let founded =
        auth_sessions_tests::tokens::try_sign_up(&scene.service, "ada@example.org", Some(("Company", "company")))
            .await
            .unwrap();
    scene.verify("ada@example.org").await;
    let opened = federate(&scene.federation, &claims("1", "ada@example.org")).await;
    assert_eq!((opened.user_id, opened.organization_id), (founded.user_id, founded.organization_id));
    let wish = "select expires_at < now() + interval '2 hours' and idle_expires_at < now() + interval '2 minutes'
        from auth.open_federated_session($1, '1', null, false, 'x', $2, now() + interval '1 hour', $3,
                                         idle_ttl => '1 minute', max_age => '1 hour')";
    let short: bool = value(&scene.federation, wish, &[&ISSUER, &random_bytes(32), &random_bytes(32)]).await;
    assert!(short);
}

#[tokio::test]
async fn only_the_federation_role_may_call_and_it_may_do_nothing_else() {
    let scene = scene().await;
    let call = "select auth.open_federated_session('https://issuer.example', '1', 'ada@example.org', true, 'Ada',
                    sha256('token'), now() + interval '1 hour', sha256('verifier'))";
    for login in ["auth_service", "auth_operator", "auth_watcher"] {
        let client = scene.db.connect_as(login).await;
        assert_eq!(sqlstate(&client, call).await, "42501", "{login}");
        for role in ["auth_federation", "auth_federation_service"] {
            assert_eq!(sqlstate(&client, &format!("set role {role}")).await, "42501", "{login} as {role}");
            assert_eq!(sqlstate(&client, &format!("set session authorization {role}")).await, "42501", "{login}");
        }
        assert_eq!(sqlstate(&client, "select from auth.accepted_id_tokens").await, "42501", "{login}");
    }
    assert_eq!(scene.count("users").await, 0);

    // Exactly the other way round: with the federation's login, whoever breaks in reads and calls nothing else.
    assert_eq!(sqlstate(&scene.federation, call).await, "00000");
    let relations = "select oid::regclass::text from pg_class
                      where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p', 'v')";
    let relations: Vec<String> = values(&scene.admin, relations, &[]).await;
    assert!(relations.len() > 12, "{relations:?}");
    for relation in relations {
        assert_eq!(sqlstate(&scene.federation, &format!("select from {relation}")).await, "42501", "{relation}");
    }
    let tables = "select relation || ' ' || privilege from pg_class c,
            unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege,
            concat(c.oid::regclass) relation
        where c.relnamespace = 'auth'::regnamespace and c.relkind in ('r', 'p', 'v')
          and has_table_privilege('auth_federation_service', c.oid, privilege)";
    assert_eq!(values::<String>(&scene.admin, tables, &[]).await, Vec::<String>::new());
    let functions = "select count(*) from pg_proc where pronamespace = 'auth'::regnamespace
        and proname not in ('open_federated_session', 'step_up_federated')
        and has_function_privilege('auth_federation_service', oid, 'execute')";
    assert_eq!(value::<i64>(&scene.admin, functions, &[]).await, 0);
    for statement in [
        "set role auth_api",
        "set role auth_owner",
        "create table auth.mine (id int)",
        "select auth.assume_session(gen_random_uuid(), gen_random_uuid())",
        "select nextval('auth.audit_log_id_seq')",
    ] {
        assert_eq!(sqlstate(&scene.federation, statement).await, "42501", "{statement}");
    }
    // A name of the attacker's own shadows nothing.
    scene
        .federation
        .batch_execute(
            "create function pg_temp.lower(text) returns text language sql as 'select ''shadowed''';
             create temp table identities (provider text, subject text, user_id uuid);
             set search_path = pg_temp, auth, pg_catalog",
        )
        .await
        .unwrap();
    let opened = federate(&scene.federation, &claims("2", "bob@example.org")).await;
    assert_eq!(opened.outcome, "logged_in");
    assert_eq!(scene.count("identities").await, 2);
}

#[tokio::test]
async fn hostile_arguments_are_refused_with_a_hint_and_change_nothing() {
    let scene = scene().await;
    let before = scene.db.row_counts().await;
    let good = [
        "'https://issuer.example'",
        "'1'",
        "'ada@example.org'",
        "true",
        "'Ada'",
        "sha256('token')",
        "now() + interval '1 hour'",
        "sha256('verifier')",
    ];
    let long = |bytes: usize| format!("repeat('x', {bytes})");
    let cases: Vec<(usize, Vec<String>, &str)> = vec![
        (0, vec!["null".into()], "22004"),
        (0, vec!["''".into(), long(501), r"E'a\nb'".into()], "22023"),
        (1, vec!["null".into()], "22004"),
        (1, vec!["''".into(), long(256), r"E'a\tb'".into()], "22023"),
        (
            2,
            vec![
                "''".into(),
                "'ada'".into(),
                "'a@b@c'".into(),
                "'a b@c'".into(),
                r"E'a\n@b'".into(),
                format!("{} || '@b.c'", long(252)),
            ],
            "22023",
        ),
        (3, vec!["null".into()], "22004"),
        (4, vec!["null".into()], "22004"),
        (4, vec!["''".into(), long(201), r"E'a\u0007'".into()], "22023"),
        (5, vec!["null".into()], "22004"),
        (5, vec!["''".into(), r"'\x00'".into(), "sha512('x')".into()], "22023"),
        (6, vec!["null".into()], "22004"),
        (7, vec!["null".into()], "22004"),
        (7, vec![r"'\x00'".into()], "22023"),
    ];
    for (position, values, code) in cases {
        for value in values {
            let mut arguments = good.map(str::to_owned);
            arguments[position] = value;
            let call = format!("select auth.open_federated_session({})", arguments.join(", "));
            let refused = refusal(scene.federation.execute(&call, &[]).await);
            assert_eq!(refused.code, code, "{call}: {refused:?}");
            assert_ne!(refused.hint, "", "{call}: {refused:?}");
        }
    }
    for named in [r"device_hash => '\x00'", "idle_ttl => '-1 day'", "max_age => '0'", "retry_window => '-1 second'"] {
        let call = format!("select auth.open_federated_session({}, {named})", good.join(", "));
        assert_eq!(refusal(scene.federation.execute(&call, &[]).await).code, "22023", "{named}");
    }
    assert_eq!(scene.db.row_counts().await, before);
    for expires_at in ["'infinity'", "'-infinity'"] {
        let mut arguments = good;
        arguments[6] = expires_at;
        let call = format!("select outcome from auth.open_federated_session({})", arguments.join(", "));
        assert_eq!(value::<String>(&scene.federation, &call, &[]).await, "expired");
    }
    assert_eq!(scene.db.row_counts().await, before);
    let call = format!("select outcome from auth.open_federated_session({})", good.join(", "));
    assert_eq!(value::<String>(&scene.federation, &call, &[]).await, "logged_in", "these are good");
}
