//! Who is logged in.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use uuid::Uuid;

use super::{
    Tag,
    answers::{Organization, User, example_time, iso8601, maybe_iso8601},
};
use crate::{
    app::App,
    credential::{Credential, SessionCredential},
    device::Caller,
    error::{CREDENTIAL, DATABASE, Fail, SCOPE, SESSION, refusals},
    json::Json,
};

/// Who is logged in.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct MeResponse {
    user: User,
    /// When the session acts for one.
    #[oai(skip_serializing_if_is_none)]
    organization: Option<Organization>,
    /// The user's roles, as they are now.
    roles: Vec<String>,
    /// When the user last proved who they are. Not for a personal access token.
    #[oai(skip_serializing_if_is_none, serialize_with = "maybe_iso8601")]
    auth_time: Option<DateTime<Utc>>,
}

impl Example for MeResponse {
    fn example() -> Self {
        Self {
            user: User::example(),
            organization: Some(Organization::example()),
            roles: vec!["ORGANIZATION_OWNER".into()],
            auth_time: Some(example_time(0)),
        }
    }
}

/// About the access token that was shown.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct TokenInfo {
    user_id: Uuid,
    email: String,
    user_type: String,
    session_id: Uuid,
    #[oai(serialize_with = "iso8601")]
    issued_at: DateTime<Utc>,
    #[oai(serialize_with = "iso8601")]
    expires_at: DateTime<Utc>,
    /// Seconds.
    time_to_expiry: i64,
}

impl Example for TokenInfo {
    fn example() -> Self {
        let user = User::example();
        Self {
            user_id: user.id,
            email: user.email,
            user_type: user.user_type,
            session_id: Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162),
            issued_at: example_time(0),
            expires_at: example_time(900),
            time_to_expiry: 842,
        }
    }
}

refusals!(MeRefusals: CREDENTIAL, SCOPE, DATABASE);
refusals!(TokenInfoRefusals: CREDENTIAL, SESSION, DATABASE);

/// Who is logged in.
pub struct AccountApi;

#[OpenApi(tag = "Tag::Account")]
impl AccountApi {
    /// Who am I
    ///
    /// Scope of a personal access token: `profile:read`.
    #[oai(path = "/api/auth/me", method = "get", operation_id = "getMe")]
    async fn me(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
    ) -> Result<Json<MeResponse>, Fail<MeRefusals>> {
        let me = app.db.me(&credential, &caller).await?;
        let (user, organization, roles) = User::of(me.profile);
        Ok(Json(MeResponse { user, organization, roles, auth_time: me.auth_time }))
    }

    /// About my access token
    #[oai(path = "/api/auth/token-info", method = "get", operation_id = "getTokenInfo")]
    async fn token_info(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
    ) -> Result<Json<TokenInfo>, Fail<TokenInfoRefusals>> {
        let SessionCredential { session_id, issued_at, expires_at, .. } = credential;
        let me = app.db.me(&Credential::Session(credential), &caller).await?;
        Ok(Json(TokenInfo {
            user_id: me.profile.user_id,
            email: me.profile.email,
            user_type: me.profile.user_type,
            session_id,
            issued_at,
            expires_at,
            time_to_expiry: (expires_at - Utc::now()).num_seconds().max(0),
        }))
    }
}
