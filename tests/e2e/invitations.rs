//! Invitations: to whom they are worth something, and when no more.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{connections, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tenants::{Tenant, act_as, assume, join, mailed_token, outcome_of, role_of};
use auth_sessions_tests::tokens::{Outcome, sha256, try_sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

const INVITE: &str = "select outcome from auth.invite_member($1, $2, $3, correlation_id => 'request-1')";
const ACCEPT: &str = "select outcome from auth.accept_invitation($1, correlation_id => 'request-1')";
const OPEN: &str = "select count(*) from auth.list_invitations($1) where email is not null";

struct Scene {
    db: TestDb,
    admin: Client,
    service: Client,
    ours: Tenant,
    /// Has an account, and belongs to nothing.
    bob: Outcome,
}

async fn scene() -> Scene {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let ours = Tenant::found(&admin, &service, "ours").await;
    let bob = try_sign_up(&service, "Bob@example.org", None).await.unwrap();
    Scene { db, admin, service, ours, bob }
}

impl Scene {
    /// Invites as the owner, and returns the proof of the token in the mail.
    async fn invite(&self, email: &str, role: &str) -> Vec<u8> {
        assert_eq!(
            outcome_of(&self.service, &self.ours.owner, INVITE, &[&self.ours.id, &email, &role]).await,
            "invited"
        );
        sha256(mailed_token(&self.admin, email).await.as_bytes())
    }

    async fn accept(&self, who: &Outcome, proof: &[u8]) -> String {
        outcome_of(&self.service, who, ACCEPT, &[&proof]).await
    }

    async fn open(&self) -> i64 {
        act_as(&self.service, &self.ours.owner, OPEN, &[&self.ours.id]).await.unwrap()[0].get(0)
    }
}

#[tokio::test]
async fn an_invitation_is_accepted_once_by_whoever_has_the_address_and_the_mail() {
    let scene = scene().await;
    let proof = scene.invite("bob@EXAMPLE.org", "ORGANIZATION_ADMIN").await;
    assert_eq!(scene.open().await, 1);
    assert_eq!(scene.accept(&scene.bob, &sha256(b"another token")).await, "invitation_not_found");
    // Somebody else got hold of the mail.
    let eve = try_sign_up(&scene.service, "eve@example.org", None).await.unwrap();
    assert_eq!(scene.accept(&eve, &proof).await, "wrong_address");
    assert_eq!(role_of(&scene.admin, scene.ours.id, &eve).await, None);

    let accepted = "select outcome, organization_id, slug, name, role from auth.accept_invitation($1, correlation_id => 'request-2')";
    let row = &act_as(&scene.service, &scene.bob, accepted, &[&proof]).await.unwrap()[0];
    let got: (&str, Uuid, &str, &str, &str) = (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    assert_eq!(got, ("accepted", scene.ours.id, "ours", "ours", "ORGANIZATION_ADMIN"));
    assert_eq!(role_of(&scene.admin, scene.ours.id, &scene.bob).await.as_deref(), Some("ORGANIZATION_ADMIN"));
    assert_eq!(scene.accept(&scene.bob, &proof).await, "invitation_not_found", "twice");
    assert_eq!(scene.open().await, 0);
    let trail: Vec<String> = values(
        &scene.admin,
        "select action from auth.audit_log where correlation_id like 'request-%' order by id",
        &[],
    )
    .await;
    assert_eq!(trail, ["organization_member_invited", "organization_invitation_accepted", "user_role_created"]);
    let again = outcome_of(
        &scene.service,
        &scene.ours.owner,
        INVITE,
        &[&scene.ours.id, &"BOB@example.org", &"ORGANIZATION_MEMBER"],
    )
    .await;
    assert_eq!(again, "already_member");
}

#[tokio::test]
async fn an_address_without_an_account_is_invited_the_same_and_accepts_after_signing_up() {
    let scene = scene().await;
    let proof = scene.invite("new@example.org", "ORGANIZATION_MEMBER").await;
    let new = try_sign_up(&scene.service, "NEW@example.org", None).await.unwrap();
    assert_eq!(scene.accept(&new, &proof).await, "accepted");
    // What the inviter sees does not tell the one from the other.
    let row = "select outcome, invitation_id is not null, expires_at - created_at = '7 days', retry_after is null
                 from auth.invite_member($1, $2, 'ORGANIZATION_MEMBER')";
    for email in ["bob@example.org", "nobody@example.org"] {
        let rows = act_as(&scene.service, &scene.ours.owner, row, &[&scene.ours.id, &email]).await.unwrap();
        let got: (&str, bool, bool, bool) = (rows[0].get(0), rows[0].get(1), rows[0].get(2), rows[0].get(3));
        assert_eq!(got, ("invited", true, true, true), "{email}");
    }
}

#[tokio::test]
async fn an_invitation_is_worth_nothing_once_it_is_revoked_replaced_expired_or_its_sender_may_not_invite() {
    let scene = scene().await;
    let (admin, id) = (&scene.admin, scene.ours.id);
    let invitation = "select id from auth.organization_invitations where revoked_at is null and accepted_at is null";
    let revoke = "select auth.revoke_invitation($1, $2)";

    let proof = scene.invite("bob@example.org", "ORGANIZATION_ADMIN").await;
    let open: Uuid = value(admin, invitation, &[]).await;
    assert_eq!(outcome_of(&scene.service, &scene.ours.owner, revoke, &[&id, &open]).await, "revoked");
    assert_eq!(scene.accept(&scene.bob, &proof).await, "invitation_not_found", "revoked");
    assert_eq!(outcome_of(&scene.service, &scene.ours.owner, revoke, &[&id, &open]).await, "invitation_not_found");

    let older = scene.invite("bob@example.org", "ORGANIZATION_ADMIN").await;
    let proof = scene.invite("bob@example.org", "ORGANIZATION_ADMIN").await;
    assert_eq!(scene.accept(&scene.bob, &older).await, "invitation_not_found", "replaced");

    let move_times = "update auth.organization_invitations set created_at = created_at - $1::text::interval, expires_at = expires_at - $1::text::interval";
    run(admin, move_times, &[&"7 days"]).await;
    assert_eq!(scene.accept(&scene.bob, &proof).await, "invitation_not_found", "expired");
    assert_eq!(scene.open().await, 0);
    run(admin, move_times, &[&"-7 days"]).await;

    let demote = "update auth.organization_members set role = $1 where user_id = $2";
    run(admin, demote, &[&"ORGANIZATION_ADMIN", &scene.ours.owner.user_id]).await;
    assert_eq!(
        scene.accept(&scene.bob, &proof).await,
        "invitation_not_found",
        "its sender may not make administrators any more"
    );
    assert_eq!(scene.open().await, 0);
    run(admin, "delete from auth.organization_members where user_id = $1", &[&scene.ours.owner.user_id]).await;
    assert_eq!(scene.accept(&scene.bob, &proof).await, "invitation_not_found", "its sender is gone");
    run(admin, "delete from auth.users where id = $1", &[&scene.ours.owner.user_id]).await;
    assert_eq!(scene.accept(&scene.bob, &proof).await, "invitation_not_found", "from the database too");
    assert_eq!(role_of(admin, id, &scene.bob).await, None);
}

#[tokio::test]
async fn an_administrator_does_not_replace_an_owners_invitation() {
    let scene = scene().await;
    let proof = scene.invite("bob@example.org", "ORGANIZATION_OWNER").await;
    let invite: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&scene.ours.id, &"bob@example.org", &"ORGANIZATION_MEMBER"];
    assert_eq!(outcome_of(&scene.service, &scene.ours.admin, INVITE, &invite).await, "insufficient_role");
    assert_eq!(scene.accept(&scene.bob, &proof).await, "accepted");
    assert_eq!(role_of(&scene.admin, scene.ours.id, &scene.bob).await.as_deref(), Some("ORGANIZATION_OWNER"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_twice_at_once_it_makes_one_member_and_against_a_revocation_it_is_one_or_the_other() {
    let scene = scene().await;
    let racers = connections(&scene.db, "auth_service", 3).await;
    let (owner, id) = (scene.ours.owner.clone(), scene.ours.id);
    for round in 0..40 {
        // Each round forgets its invitation, so that the hour's limit is not met.
        let email = format!("guest-{round}@example.org");
        let guest = try_sign_up(&scene.service, &email, None).await.unwrap();
        let proof = scene.invite(&email, "ORGANIZATION_MEMBER").await;
        let invitation: Uuid =
            value(&scene.admin, "select id from auth.organization_invitations where email = $1", &[&email]).await;
        let outcomes = race(&racers, |n, racer| {
            let (guest, proof, owner) = (guest.clone(), proof.clone(), owner.clone());
            async move {
                match n {
                    2 => outcome_of(&racer, &owner, "select auth.revoke_invitation($1, $2)", &[&id, &invitation]).await,
                    _ => outcome_of(&racer, &guest, ACCEPT, &[&proof]).await,
                }
            }
        })
        .await;
        let done: Vec<_> = outcomes.iter().filter(|outcome| *outcome != "invitation_not_found").collect();
        assert_eq!(done.len(), 1, "round {round}: {outcomes:?}");
        let role = role_of(&scene.admin, id, &guest).await;
        assert_eq!(role.is_some(), done[0] == "accepted", "round {round}: {outcomes:?}");
        run(&scene.admin, "delete from auth.organization_invitations", &[]).await;
    }
}

#[tokio::test]
async fn the_token_is_in_the_mail_and_nowhere_else() {
    let scene = scene().await;
    scene.invite("bob@example.org", "ORGANIZATION_MEMBER").await;
    let token = mailed_token(&scene.admin, "bob@example.org").await;
    assert!(token.starts_with("aso_") && token.len() == 47, "{token}");
    let mail = "select variables - 'token' - 'expires_at' from auth.mail_outbox where recipient = 'bob@example.org'";
    let variables: String = value(&scene.admin, &format!("select ({mail})::text"), &[]).await;
    assert_eq!(variables, r#"{"role": "ORGANIZATION_MEMBER", "organization_name": "ours"}"#);
    for table in ["organization_invitations", "audit_log", "one_time_tokens"] {
        let holds = format!("select count(*) from auth.{table} t where t::text like '%' || $1 || '%'");
        assert_eq!(value::<i64>(&scene.admin, &holds, &[&&token[4..]]).await, 0, "{table}");
    }
    // Nobody but the mailer's door reads it; the verifier not even the operators.
    for (login, statement) in [
        ("auth_service", "select id from auth.organization_invitations"),
        ("auth_service", "select variables from auth.mail_outbox"),
        ("auth_operator", "select variables from auth.mail_outbox"),
        ("auth_watcher", "select token_verifier from auth.organization_invitations"),
        ("auth_operator", "select token_verifier from auth.organization_invitations"),
    ] {
        let client = scene.db.connect_as(login).await;
        assert_eq!(sqlstate(&client, statement).await, "42501", "{login}: {statement}");
    }
    let watcher = scene.db.connect_as("auth_watcher").await;
    assert_eq!(value::<i64>(&watcher, "select count(id) from auth.organization_invitations", &[]).await, 1);
}

#[tokio::test]
async fn nobody_is_flooded_with_invitations() {
    let scene = scene().await;
    let limited = "select outcome, extract(epoch from retry_after)::float8 from auth.invite_member($1, $2, 'ORGANIZATION_MEMBER')";
    let invite = async |who: &Outcome, organization: Uuid, email: &str| {
        let rows = act_as(&scene.service, who, limited, &[&organization, &email]).await.unwrap();
        (rows[0].get::<_, String>(0), rows[0].get::<_, Option<f64>>(1))
    };
    let ours = &scene.ours;
    for n in 0..5 {
        assert_eq!(invite(&ours.owner, ours.id, "bob@example.org").await, ("invited".into(), None), "{n}");
    }
    let (outcome, wait) = invite(&ours.admin, ours.id, "BOB@example.org").await;
    assert_eq!(outcome, "rate_limited");
    assert!(wait.is_some_and(|seconds| (3500.0..=3600.0).contains(&seconds)), "{wait:?}");
    // By whichever organization.
    let other = Tenant::found(&scene.admin, &scene.service, "other").await;
    assert_eq!(invite(&other.owner, other.id, "bob@example.org").await.0, "rate_limited");
    // And an organization has its own limit.
    for n in 0..45 {
        assert_eq!(invite(&ours.owner, ours.id, &format!("{n}@example.org")).await.0, "invited", "{n}");
    }
    assert_eq!(invite(&ours.owner, ours.id, "last@example.org").await.0, "rate_limited");
    let mails: i64 =
        value(&scene.admin, "select count(*) from auth.mail_outbox where kind = 'organization_invitation'", &[]).await;
    assert_eq!(mails, 50);
    run(&scene.admin, "update auth.organization_invitations set created_at = created_at - interval '1 hour'", &[])
        .await;
    assert_eq!(invite(&ours.owner, ours.id, "bob@example.org").await.0, "invited", "an hour later");
}

#[tokio::test]
async fn invitations_that_are_long_over_are_forgotten() {
    let scene = scene().await;
    scene.invite("old@example.org", "ORGANIZATION_MEMBER").await;
    let old = "update auth.organization_invitations set created_at = created_at - interval '40 days', expires_at = expires_at - interval '40 days'";
    run(&scene.admin, old, &[]).await;
    scene.invite("new@example.org", "ORGANIZATION_MEMBER").await;
    let left: Vec<String> = values(&scene.admin, "select email from auth.organization_invitations", &[]).await;
    assert_eq!(left, ["new@example.org"]);
}

#[tokio::test]
async fn what_is_no_invitation_is_refused() {
    let scene = scene().await;
    let someone = join(&scene.admin, &scene.service, scene.ours.id, "x@example.org", "ORGANIZATION_OWNER").await;
    for (call, code) in [
        ("auth.invite_member(null, 'a@example.org', 'ORGANIZATION_MEMBER')", "22004"),
        ("auth.invite_member(auth.current_organization_id(), null, 'ORGANIZATION_MEMBER')", "22004"),
        ("auth.invite_member(auth.current_organization_id(), 'a@example.org', null)", "22004"),
        ("auth.invite_member(auth.current_organization_id(), 'a@example.org', 'ADMIN')", "22023"),
        ("auth.invite_member(auth.current_organization_id(), 'no address', 'ORGANIZATION_MEMBER')", "22023"),
        (
            "auth.invite_member(auth.current_organization_id(), repeat('a', 250) || '@example.org', 'ORGANIZATION_MEMBER')",
            "22023",
        ),
        ("auth.revoke_invitation(auth.current_organization_id(), null)", "22004"),
        ("auth.accept_invitation(null)", "22023"),
        ("auth.accept_invitation('\\x00')", "22023"),
        ("auth.change_member_role(auth.current_organization_id(), null, 'ORGANIZATION_MEMBER')", "22004"),
        ("auth.change_member_role(auth.current_organization_id(), auth.current_user_id(), 'ADMIN')", "22023"),
        ("auth.remove_member(auth.current_organization_id(), null)", "22004"),
        ("auth.end_organization_session(auth.current_organization_id(), null)", "22004"),
        ("auth.list_members(null)", "22004"),
        ("auth.leave_organization(null)", "22004"),
        ("auth.create_organization(null, 'slug')", "22004"),
        ("auth.create_organization('Name', 'No Slug')", "22023"),
        ("auth.create_organization('', 'some-slug')", "22023"),
    ] {
        scene.service.batch_execute("begin").await.unwrap();
        assume(&scene.service, &someone).await;
        let refused = refusal(scene.service.batch_execute(&format!("select {call}")).await);
        assert_eq!(refused.code, code, "{call}: {}", refused.message);
        assert!(!refused.hint.is_empty(), "{call}");
        scene.service.batch_execute("rollback").await.unwrap();
    }
}
