//! Tenants with their people, for tests that speak SQL; and statements run in somebody's name.

use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use crate::TestDb;
use crate::sql::{Params, run, value, values};
use crate::tokens::{Outcome, try_sign_up};

/// The roles, under the names that tests use.
pub const ROLES: [(&str, &str); 3] =
    [("owner", "ORGANIZATION_OWNER"), ("admin", "ORGANIZATION_ADMIN"), ("member", "ORGANIZATION_MEMBER")];

/// An organization and the sessions of its people, which act for it.
#[allow(missing_docs)] // their roles
pub struct Tenant {
    pub id: Uuid,
    pub slug: String,
    pub owner: Outcome,
    pub admin: Outcome,
    pub member: Outcome,
}

impl Tenant {
    /// Founds one: its people are `owner@slug.example`, `admin@…` and `member@…`.
    pub async fn found(admin: &Client, service: &Client, slug: &str) -> Self {
        let email = format!("owner@{slug}.example");
        let owner = try_sign_up(service, &email, Some((slug, slug))).await.expect("sign_up");
        let id = owner.organization_id.expect("an organization");
        Self {
            id,
            slug: slug.to_owned(),
            owner,
            admin: join(admin, service, id, &format!("admin@{slug}.example"), "ORGANIZATION_ADMIN").await,
            member: join(admin, service, id, &format!("member@{slug}.example"), "ORGANIZATION_MEMBER").await,
        }
    }

    /// One of its people by role: owner, admin, member.
    pub fn person(&self, name: &str) -> &Outcome {
        match name {
            "owner" => &self.owner,
            "admin" => &self.admin,
            "member" => &self.member,
            _ => panic!("{name} is nobody here"),
        }
    }
}

/// Two tenants in a database of their own, and who speaks to it.
#[allow(missing_docs)] // what their types say
pub struct TwoTenants {
    pub db: TestDb,
    pub admin: Client,
    pub service: Client,
    pub ours: Tenant,
    pub theirs: Tenant,
}

impl TwoTenants {
    /// Founds them; the audit log has its partitions, as where maintenance runs.
    pub async fn found() -> Self {
        let db = TestDb::create().await;
        let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
        run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
        let ours = Tenant::found(&admin, &service, "ours").await;
        let theirs = Tenant::found(&admin, &service, "theirs").await;
        Self { db, admin, service, ours, theirs }
    }
}

/// Everything that names an organization: its ids, its slug, and the addresses of its people. Whatever others are shown is
/// searched for it as text.
pub async fn names(admin: &Client, organization: Uuid) -> Vec<String> {
    let names = "with people as (select user_id from auth.organization_members where organization_id = $1)
                 select $1::text union all select slug from auth.organizations where id = $1
                 union all select user_id::text from people
                 union all select email from auth.users where id in (select user_id from people)
                 union all select id::text from auth.sessions where user_id in (select user_id from people)
                 union all select id::text from auth.organization_invitations where organization_id = $1
                 union all select email from auth.organization_invitations where organization_id = $1";
    values(admin, names, &[&organization]).await
}

/// Signs somebody up who belongs to the organization, and whose session acts for it: arranged by hand, without the
/// invitation that it would take.
pub async fn join(admin: &Client, service: &Client, organization: Uuid, email: &str, role: &str) -> Outcome {
    let mut person = try_sign_up(service, email, None).await.expect("sign_up");
    let insert = "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, $3)";
    run(admin, insert, &[&organization, &person.user_id, &role]).await;
    let acts = "update auth.sessions set organization_id = $1 where id = $2";
    run(admin, acts, &[&organization, &person.session_id]).await;
    person.organization_id = Some(organization);
    person
}

/// Makes a session the identity of the transaction that is open.
pub async fn assume(service: &Client, who: &Outcome) {
    let assumed = run(service, "select from auth.assume_session($1, $2)", &[&who.session_id, &who.jti]).await;
    assert_eq!(assumed, 1, "the session is over");
}

/// Runs one statement in a transaction, in the name of a session; commits it when it worked.
pub async fn act_as(service: &Client, who: &Outcome, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
    service.batch_execute("begin").await?;
    assume(service, who).await;
    let result = service.query(sql, params).await;
    service.batch_execute(if result.is_ok() { "commit" } else { "rollback" }).await?;
    result
}

/// The same for a statement whose first column is an outcome: that of the first row, or nothing without rows.
pub async fn outcome_of(service: &Client, who: &Outcome, sql: &str, params: Params<'_>) -> String {
    let rows = act_as(service, who, sql, params).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.first().map(|row| row.get(0)).unwrap_or_default()
}

/// Somebody's role in an organization.
pub async fn role_of(admin: &Client, organization: Uuid, who: &Outcome) -> Option<String> {
    let role = "select max(role) from auth.organization_members where organization_id = $1 and user_id = $2";
    value(admin, role, &[&organization, &who.user_id]).await
}

/// The token in the newest mail to an address. Only the superuser sees it: the mailer's door would take the mail away.
pub async fn mailed_token(admin: &Client, email: &str) -> String {
    let newest =
        "select variables ->> 'token' from auth.mail_outbox where recipient = $1 order by created_at desc limit 1";
    value(admin, newest, &[&email]).await
}
