//! Confidential clients: what they ask and end, and how an operator makes them.

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{Db, column, named};
use crate::{
    access_token::Claims,
    client_authentication::Client,
    device::Caller,
    error::{Code, Problem},
    personal_access_token::PersonalAccessToken,
    refresh_token::Presented,
};

/// What a client asks about: what could be read of it by its form and our signature.
pub enum AnyToken<'k> {
    /// An access token that we signed.
    Access(Claims),
    /// A refresh token that we tagged.
    Refresh(Presented<'k>),
    /// What has the form of a personal access token.
    Personal(PersonalAccessToken),
    /// Anything else. The database is asked all the same: it is the client that has to be judged.
    Unknown,
}

/// A token that is good for something now.
pub struct ActiveToken {
    /// `access_token`, `refresh_token` or `personal_access_token`.
    pub token_use: String,
    /// The jti of an access token, the id of a personal access token.
    pub id: Option<Uuid>,
    /// The session.
    pub session_id: Option<Uuid>,
    /// The user.
    pub user_id: Uuid,
    /// The user's e-mail.
    pub email: String,
    /// The organization that it acts for, and the user's roles there.
    pub organization_id: Option<Uuid>,
    /// Now, not when it was issued.
    pub roles: Vec<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When the user last proved who they are.
    pub auth_time: Option<DateTime<Utc>>,
    /// How.
    pub amr: Option<Vec<String>>,
    /// When it was issued, where that is kept.
    pub issued_at: Option<DateTime<Utc>>,
    /// When it, or its session, ends.
    pub expires_at: DateTime<Utc>,
}

impl ActiveToken {
    fn read(row: &Row) -> Result<Self, Problem> {
        Ok(Self {
            token_use: named(row, "token_use")?,
            id: named(row, "id")?,
            session_id: named(row, "sid")?,
            user_id: named(row, "user_id")?,
            email: named(row, "email")?,
            organization_id: named(row, "organization_id")?,
            roles: named(row, "roles")?,
            scopes: named(row, "scopes")?,
            auth_time: named(row, "auth_time")?,
            amr: named(row, "amr")?,
            issued_at: named(row, "issued_at")?,
            expires_at: named(row, "expires_at")?,
        })
    }
}

/// A confidential client, as an operator sees it.
pub struct ListedClient {
    /// Its id.
    pub client_id: String,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// By which role.
    pub created_by: String,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it last proved itself.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Db {
    /// What a token stands for now; none: nothing.
    pub async fn introspect_token(
        &self,
        client: &Client,
        token: &AnyToken<'_>,
        caller: &Caller,
    ) -> Result<Option<ActiveToken>, Problem> {
        let sql = "select *, extract(epoch from retry_after)::float8 as wait from auth.introspect_token(client_id => $1, client_proof => $2, session_id => $3, \
            jti => $4, generation => $5, ticket => $6, token_proof => $7, lookup_id => $8, ip => $9, \
            user_agent => $10, correlation_id => $11)";
        let row = self.about_token(sql, client, token, caller).await?;
        match named(&row, "outcome")? {
            "active" => Ok(Some(ActiveToken::read(&row)?)),
            "inactive" => Ok(None),
            outcome => Err(refusal(outcome, &row)),
        }
    }

    /// Ends the session of a token; whether there was one to end.
    pub async fn revoke_token(&self, client: &Client, token: &AnyToken<'_>, caller: &Caller) -> Result<bool, Problem> {
        let sql = "select *, extract(epoch from retry_after)::float8 as wait from auth.revoke_token(client_id => $1, client_proof => $2, session_id => $3, \
            jti => $4, generation => $5, ticket => $6, token_proof => $7, lookup_id => $8, ip => $9, \
            user_agent => $10, correlation_id => $11)";
        let row = self.about_token(sql, client, token, caller).await?;
        match named(&row, "outcome")? {
            "done" => named(&row, "ended"),
            outcome => Err(refusal(outcome, &row)),
        }
    }

    async fn about_token(
        &self,
        sql: &'static str,
        client: &Client,
        token: &AnyToken<'_>,
        caller: &Caller,
    ) -> Result<Row, Problem> {
        let (access, refresh, personal) = match token {
            AnyToken::Access(claims) => (Some(claims), None, None),
            AnyToken::Refresh(presented) => (None, Some(presented), None),
            AnyToken::Personal(token) => (None, None, Some(token)),
            AnyToken::Unknown => (None, None, None),
        };
        let proof = refresh.map(|presented| presented.secret.proof()).or(personal.map(PersonalAccessToken::proof));
        self.one(
            sql,
            &[
                &client.id,
                &client.proof(),
                &access.map(|claims| claims.sid).or(refresh.map(|presented| presented.session_id)),
                &access.map(|claims| claims.jti),
                &refresh.map(|presented| presented.generation),
                &refresh.map(|presented| presented.ticket.as_slice()),
                &proof.as_ref().map(<[u8; 32]>::as_slice),
                &personal.map(PersonalAccessToken::lookup_id),
                &caller.ip,
                &caller.user_agent,
                &caller.request_id,
            ],
        )
        .await
    }

    /// Whether this login may administer clients.
    pub async fn is_operator(&self) -> Result<bool, Problem> {
        column(&self.one("select pg_has_role('auth_admin', 'usage')", &[]).await?, 0)
    }

    /// Makes a client; its id.
    pub async fn register_client(&self, name: &str, verifier: [u8; 32]) -> Result<String, Problem> {
        let sql = "select auth.register_client(name => $1, secret_verifier => $2)";
        column(&self.one(sql, &[&name, &verifier.as_slice()]).await?, 0)
    }

    /// All clients.
    pub async fn list_clients(&self) -> Result<Vec<ListedClient>, Problem> {
        let rows = self.all("select * from auth.list_clients()", &[]).await?;
        let client = |row| {
            Ok(ListedClient {
                client_id: named(row, "client_id")?,
                name: named(row, "name")?,
                created_at: named(row, "created_at")?,
                created_by: named(row, "created_by")?,
                disabled_at: named(row, "disabled_at")?,
                last_used_at: named(row, "last_used_at")?,
            })
        };
        rows.iter().map(client).collect()
    }

    /// Replaces a client's secret; whether there is such a client.
    pub async fn rotate_client_secret(&self, client_id: &str, verifier: [u8; 32]) -> Result<bool, Problem> {
        let sql = "select auth.rotate_client_secret(client_id => $1, secret_verifier => $2)";
        column(&self.one(sql, &[&client_id, &verifier.as_slice()]).await?, 0)
    }

    /// Ends a client; whether this did.
    pub async fn disable_client(&self, client_id: &str) -> Result<bool, Problem> {
        column(&self.one("select auth.disable_client(client_id => $1)", &[&client_id]).await?, 0)
    }
}

fn refusal(outcome: &str, row: &Row) -> Problem {
    match outcome {
        "rate_limited" => match named::<Option<f64>>(row, "wait") {
            Ok(seconds) => Problem::with_retry_after(Code::RateLimited, seconds.unwrap_or_default()),
            Err(problem) => problem,
        },
        "invalid_client" => Code::InvalidClient.into(),
        outcome => super::sessions::unknown_outcome(outcome),
    }
}
