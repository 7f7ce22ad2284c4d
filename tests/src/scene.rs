//! A service with organizations and their people, for tests that speak HTTP.

use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::http::PASSWORD;
use crate::sql::run;
use crate::{Api, Server, Session, TestDb};

/// A service on a database of its own.
#[allow(missing_docs)] // what their types say
pub struct Scene {
    pub db: TestDb,
    pub admin: Client,
    pub server: Server,
    pub api: Api,
}

impl Scene {
    /// Starts it; the audit log has its partitions, as where maintenance runs.
    pub async fn start() -> Self {
        let db = TestDb::create().await;
        let (admin, server) = (db.superuser().await, Server::start(&db, &[]).await);
        run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
        let api = server.api();
        Self { db, admin, server, api }
    }

    /// Signs somebody up with an organization of that slug, and names both after it.
    pub async fn found(&self, email: &str, slug: &str) -> (Session, Uuid) {
        let organization = json!({"name": slug, "slug": slug});
        let body = json!({"email": email, "password": PASSWORD, "name": slug, "organization": organization});
        let session = self.api.post("/api/auth/signup", &body, "").await.expect(201).session();
        let id = session.body["organization"]["id"].as_str().expect("organization").parse().expect("a uuid");
        (session, id)
    }

    /// Makes somebody a member, by hand, and logs in as that.
    pub async fn join(&self, email: &str, organization: Uuid, role: &str) -> Session {
        let user = self.api.signup(email).await.user_id();
        let join = "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, $3)";
        run(&self.admin, join, &[&organization, &user, &role]).await;
        self.api.login(email, PASSWORD).await.expect(200).session()
    }
}
