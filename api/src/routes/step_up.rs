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
    db::{AccessGrant, FederatedStepUp, StepUp},
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, Problem, SESSION, refusals},
    field::{IdToken, LoginPassword, Nonce, Text},
    json::{Body, Json},
};

/// Once more, a proof of the user who is logged in: the password, or an ID token of the provider that the account is
/// linked with.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StepUpRequest {
    password: Option<Text<LoginPassword>>,
    /// As at `/api/auth/google`; accepted once, and only when the user proved themself to the provider a moment ago.
    credential: Option<Text<IdToken>>,
    /// What the app asked the provider to put into the credential.
    nonce: Option<Text<Nonce>>,
}

impl Body for StepUpRequest {}

impl Example for StepUpRequest {
    fn example() -> Self {
        let password = "correct horse battery staple".to_owned();
        Self { password: Some(password.into()), credential: None, nonce: None }
    }
}

refusals!(StepUpRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::InvalidCredentials, Code::StepUpRequired, Code::AccountLocked, Code::InvalidIdToken,
    Code::FederationNotConfigured, Code::IdentityProviderUnavailable,
]);

const ONE_PROOF: (Code, &str) = (Code::InvalidRequest, "Give either a password or a credential.");

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
        let delivery = if credential.by_cookie { Delivery::Cookie } else { Delivery::Json };
        let password = match (&body.password, &body.credential) {
            (Some(password), None) => password.checked()?,
            (None, Some(id_token)) => {
                let nonce = body.nonce.as_ref().map(Text::checked).transpose()?;
                let grant = by_id_token(&app, &credential, &caller, id_token.checked()?, nonce).await?;
                return Ok(deliver_access(&app, &grant, delivery)?);
            }
            _ => return Err(ONE_PROOF.into()),
        };
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

async fn by_id_token(
    app: &App,
    who: &SessionCredential,
    caller: &Caller,
    id_token: &str,
    nonce: Option<&str>,
) -> Result<AccessGrant, Problem> {
    let federation = app.federation.as_ref().ok_or(Code::FederationNotConfigured)?;
    let person = federation.verify(id_token, nonce).await?;
    match federation.db.step_up_federated(who, &person, caller).await? {
        FederatedStepUp::SteppedUp(opened) => app.db.access_of(&opened).await?.ok_or(Code::InvalidAccessToken.into()),
        FederatedStepUp::Ended => Err(Code::InvalidAccessToken.into()),
        // The provider went by what the user proved to it long ago: ask it with prompt=login or max_age.
        FederatedStepUp::Refused(reason) if reason == "not_recent" => Err(app.db.step_up_required().await),
        FederatedStepUp::Refused(reason) => {
            tracing::info!(reason, "a step-up by ID token was refused");
            Err(Code::InvalidIdToken.into())
        }
    }
}
