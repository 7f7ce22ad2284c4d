//! The user's own sessions.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Path, types::Example};
use uuid::Uuid;

use super::{
    Tag,
    answers::{Revoked, example_time, iso8601},
};
use crate::{
    app::App,
    credential::Credential,
    device::Caller,
    error::{CREDENTIAL, CSRF, Code, DATABASE, Fail, SCOPE, refusals},
    json::Json,
};

/// One login on one device.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct Session {
    id: Uuid,
    /// Made from the user agent: "Chrome 120 on macOS".
    #[oai(skip_serializing_if_is_none)]
    device_name: Option<String>,
    /// The network of its last request (/24 or /64): the full address is not stored.
    #[oai(skip_serializing_if_is_none)]
    ip_address: Option<String>,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    /// The last login or refresh.
    #[oai(serialize_with = "iso8601")]
    last_used_at: DateTime<Utc>,
    #[oai(serialize_with = "iso8601")]
    expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    is_current: bool,
}

/// The live sessions, the last used first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct SessionList {
    sessions: Vec<Session>,
}

impl Example for SessionList {
    fn example() -> Self {
        Self {
            sessions: vec![Session {
                id: Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162),
                device_name: Some("Chrome 120 on macOS".into()),
                ip_address: Some("203.0.113.0/24".into()),
                created_at: example_time(0),
                last_used_at: example_time(3600),
                expires_at: example_time(2_592_000),
                is_current: true,
            }],
        }
    }
}

refusals!(ListRefusals: CREDENTIAL, SCOPE, DATABASE);
refusals!(RevokeRefusals: CREDENTIAL, SCOPE, CSRF, DATABASE, [Code::BadRequest, Code::SessionNotFound]);

/// The user's own sessions.
pub struct SessionsApi;

#[OpenApi(tag = "Tag::Sessions")]
impl SessionsApi {
    /// List my sessions
    ///
    /// Scope of a personal access token: `sessions:read`.
    #[oai(path = "/api/auth/sessions", method = "get", operation_id = "listSessions")]
    async fn list_sessions(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
    ) -> Result<Json<SessionList>, Fail<ListRefusals>> {
        let sessions = app.db.list_sessions(&credential, &caller).await?;
        let sessions = sessions.into_iter().map(|session| Session {
            id: session.id,
            device_name: session.device_name,
            ip_address: session.network,
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            expires_at: session.expires_at,
            is_current: session.is_current,
        });
        Ok(Json(SessionList { sessions: sessions.collect() }))
    }

    /// End one of my sessions
    ///
    /// Another user's session is not found, like one that does not exist. Scope of a personal access token:
    /// `sessions:write`.
    #[oai(path = "/api/auth/sessions/:id", method = "delete", operation_id = "revokeSession")]
    async fn revoke_session(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        id: Path<Uuid>,
    ) -> Result<Json<Revoked>, Fail<RevokeRefusals>> {
        match app.db.revoke_session(&credential, id.0, &caller).await? {
            false => Err(Code::SessionNotFound.into()),
            true => Ok(Json(Revoked { revoked_sessions: 1 })),
        }
    }
}
