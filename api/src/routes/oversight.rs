//! Ending the sessions of others, for a reason: what the dashboard does. Each within the reach of who asks.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Path, types::Example};
use serde::Deserialize;
use uuid::Uuid;

use super::{Tag, answers::Revoked};
use crate::{
    app::App,
    credential::SessionCredential,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, SESSION, refusals},
    field::{Reason, Text},
    json::{Body, Json},
};

/// Why.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EndRequest {
    /// For the audit log. It becomes part of the person's own record: write what they may read.
    reason: Text<Reason>,
}

impl Body for EndRequest {}

impl Example for EndRequest {
    fn example() -> Self {
        Self { reason: "Phone stolen, ticket 4711".to_owned().into() }
    }
}

refusals!(FamilyRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::BadRequest, Code::StepUpRequired, Code::InsufficientRole, Code::SessionNotFound,
]);
refusals!(UserRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::BadRequest, Code::StepUpRequired, Code::InsufficientRole, Code::MemberNotFound,
]);

/// What overseers end.
pub struct OversightApi;

#[OpenApi(tag = "Tag::Organizations")]
impl OversightApi {
    /// End a family of sessions
    ///
    /// For owners and administrators: of somebody whom they manage (or their own), as far as it acts for the active
    /// organization. For operators of the installation: any. Out of reach looks like not there. Needs a session with a
    /// recent authentication.
    #[oai(path = "/api/auth/oversight/families/:id/end", method = "post", operation_id = "endFamily")]
    async fn end_family(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        id: Path<Uuid>,
        Json(body): Json<EndRequest>,
    ) -> Result<Json<Revoked>, Fail<FamilyRefusals>> {
        let reason = body.reason.checked()?;
        let revoked_sessions = app.db.end_overseen_family(&credential, id.0, reason, &caller).await?;
        Ok(Json(Revoked { revoked_sessions }))
    }

    /// End the sessions of a user
    ///
    /// All that live: for owners and administrators those that act for the active organization. Otherwise as for a family.
    #[oai(path = "/api/auth/oversight/users/:userId/end", method = "post", operation_id = "endSessionsOfUser")]
    async fn end_sessions_of_user(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        #[oai(name = "userId")] user_id: Path<Uuid>,
        Json(body): Json<EndRequest>,
    ) -> Result<Json<Revoked>, Fail<UserRefusals>> {
        let reason = body.reason.checked()?;
        let revoked_sessions = app.db.end_overseen_sessions(&credential, user_id.0, reason, &caller).await?;
        Ok(Json(Revoked { revoked_sessions }))
    }
}
