//! Proving once more who one is, without logging in again (RFC 9470).

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{
    Tag,
    answers::AccessTokenResponse,
    delivery::{Delivered, Delivery, deliver_access},
};
use crate::{
    app::App,
    credential::SessionCredential,
    db::StepUp,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, Problem, SESSION, refusals},
    field::{LoginPassword, Text},
    json::{Body, Json},
};

/// The password of the user who is logged in.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StepUpRequest {
    password: Text<LoginPassword>,
}

impl Body for StepUpRequest {}

impl Example for StepUpRequest {
    fn example() -> Self {
        Self { password: "correct horse battery staple".to_owned().into() }
    }
}

refusals!(StepUpRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [Code::InvalidCredentials, Code::AccountLocked]);

/// Stepping up.
pub struct StepUpApi;

#[OpenApi(tag = "Tag::Account")]
impl StepUpApi {
    /// Step up
    ///
    /// What a sensitive operation asks for with `step_up_required`. The session goes on, its refresh token stays as it
    /// is, and no other tab notices; the new access token says the new `auth_time`.
    #[oai(path = "/api/auth/step-up", method = "post", operation_id = "stepUp")]
    async fn step_up(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<StepUpRequest>,
    ) -> Result<Delivered<AccessTokenResponse>, Fail<StepUpRefusals>> {
        let password = body.password.checked()?;
        let delivery = if credential.by_cookie { Delivery::Cookie } else { Delivery::Json };
        // As at login: the password may change between the database's two answers.
        for _ in 0..2 {
            match attempt(&app, &credential, &caller, password).await? {
                StepUp::SteppedUp(grant) => return Ok(deliver_access(&app, &grant, delivery)?),
                StepUp::Refused => return Err(Code::InvalidCredentials.into()),
                StepUp::Locked(seconds) => return Err(Problem::with_retry_after(Code::AccountLocked, seconds).into()),
                StepUp::Ended => return Err(Code::InvalidAccessToken.into()),
                StepUp::Stale => {}
            }
        }
        tracing::warn!("a password changed twice during one step-up");
        Err(Code::InvalidCredentials.into())
    }
}

async fn attempt(app: &App, who: &SessionCredential, caller: &Caller, password: &str) -> Result<StepUp, Problem> {
    let challenge = app.db.begin_step_up(who).await?;
    if let Some(seconds) = challenge.retry_after {
        return Ok(StepUp::Locked(seconds));
    }
    // An account without a password has its identity provider; nothing is counted.
    let Some(stored) = challenge.password else { return Ok(StepUp::Refused) };
    let proof = app.passwords.proof(password, stored.salt, &stored.params, stored.pepper_id).await?;
    app.db.complete_step_up(who, challenge.verifier_version, proof, caller).await
}
