//! Personal access tokens: made and listed by their user's sessions, never by one of themselves.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, column, named, sessions::unknown_outcome};
use crate::{
    credential::SessionCredential,
    device::Caller,
    error::{Code, Problem},
    personal_access_token::PersonalAccessToken,
};

/// What is told of a token; the token itself is shown once, by who made it.
pub struct ListedToken {
    /// Its name in requests.
    pub id: Uuid,
    /// Its name for people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Db {
    /// Makes a token: its id, when it was made, and when it ends.
    pub async fn create_personal_access_token(
        &self,
        who: &SessionCredential,
        token: &PersonalAccessToken,
        name: &str,
        scopes: &[String],
        lifetime_seconds: f64,
        caller: &Caller,
    ) -> Result<(Uuid, DateTime<Utc>, DateTime<Utc>), Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select outcome, id, created_at, expires_at from auth.create_personal_access_token(name => $1, \
            scopes => $2, lifetime => make_interval(secs => $3), lookup_id => $4, token_verifier => $5, ip => $6, \
            user_agent => $7, correlation_id => $8)";
        let verifier = token.verifier();
        let row = acting
            .one(
                sql,
                &[
                    &name,
                    &scopes,
                    &lifetime_seconds,
                    &token.lookup_id(),
                    &verifier.as_slice(),
                    &caller.ip,
                    &caller.user_agent,
                    &caller.request_id,
                ],
            )
            .await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "created" => Ok((named(&row, "id")?, named(&row, "created_at")?, named(&row, "expires_at")?)),
            "step_up_required" => Err(self.step_up_required().await),
            "email_not_verified" => Err(Code::EmailNotVerified.into()),
            "too_many" => Err(Code::TooManyTokens.into()),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// The user's live tokens, the newest first.
    pub async fn list_personal_access_tokens(&self, who: &SessionCredential) -> Result<Vec<ListedToken>, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select id, name, scopes, created_at, expires_at, last_used_at from auth.personal_access_tokens \
            where user_id = (select auth.current_user_id()) and revoked_at is null and expires_at > clock_timestamp() \
            order by created_at desc, id";
        let rows = acting.all(sql, &[]).await?;
        acting.commit().await?;
        let token = |row| {
            Ok(ListedToken {
                id: named(row, "id")?,
                name: named(row, "name")?,
                scopes: named(row, "scopes")?,
                created_at: named(row, "created_at")?,
                expires_at: named(row, "expires_at")?,
                last_used_at: named(row, "last_used_at")?,
            })
        };
        rows.iter().map(token).collect()
    }

    /// Ends one of the user's tokens. False: there is none.
    pub async fn revoke_personal_access_token(
        &self,
        who: &SessionCredential,
        id: Uuid,
        caller: &Caller,
    ) -> Result<bool, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select auth.revoke_personal_access_token(token_id => $1, correlation_id => $2)";
        let row = acting.one(sql, &[&id, &caller.request_id]).await?;
        acting.commit().await?;
        column(&row, 0)
    }
}
