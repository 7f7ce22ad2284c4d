//! The e-mail of an account: verifying it, and changing it.

use std::{sync::Arc, time::Duration};

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, types::Example};
use serde::Deserialize;
use tokio::time::Instant;

use super::Tag;
use crate::{
    app::App,
    credential::{MaybeCredential, SessionCredential},
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, Problem, SESSION, refusals},
    field::{Email, OneTimeToken, Text},
    json::{Body, Json},
    limits::Ticket,
};

/// Answers that must not tell whether an account exists come after this time, whatever was done for them.
const STEADY_TIME: Duration = Duration::from_millis(200);

/// Waits until `STEADY_TIME` has passed since the start, then answers.
pub(super) async fn steadily(work: impl Future<Output = Result<(), Problem>>) -> Result<Accepted, Problem> {
    let started = Instant::now();
    work.await?;
    tokio::time::sleep_until(started + STEADY_TIME).await;
    Ok(Accepted::new())
}

/// The token of a link.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LinkToken {
    /// From the fragment of the link that was mailed.
    token: Text<OneTimeToken>,
}

impl Body for LinkToken {}

impl Example for LinkToken {
    fn example() -> Self {
        Self { token: example_token().into() }
    }
}

/// A made-up one.
pub(super) fn example_token() -> String {
    format!("aso_{}", "A".repeat(43))
}

/// Whose address to verify.
#[derive(Object, Default, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResendVerificationRequest {
    /// When left out, that of the user who is logged in.
    email: Option<Text<Email>>,
}

impl Body for ResendVerificationRequest {
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Example for ResendVerificationRequest {
    fn example() -> Self {
        Self { email: Some("ada@example.org".to_owned().into()) }
    }
}

/// Another address.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangeEmailRequest {
    new_email: Text<Email>,
}

impl Body for ChangeEmailRequest {}

impl Example for ChangeEmailRequest {
    fn example() -> Self {
        Self { new_email: "ada.lovelace@example.org".to_owned().into() }
    }
}

/// What is answered whether or not there is such an account.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
pub(super) struct MailMayCome {
    /// For people; always the same.
    message: String,
}

impl Example for MailMayCome {
    fn example() -> Self {
        Self { message: "If there is anything to send, a mail is on its way.".into() }
    }
}

#[derive(ApiResponse)]
pub(super) enum Accepted {
    /// If there is such an account, a mail is on its way; if not, nobody is told.
    #[oai(status = 202)]
    Accepted(Json<MailMayCome>),
}

impl Accepted {
    fn new() -> Self {
        Self::Accepted(Json(MailMayCome::example()))
    }
}

/// The address is proved.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct Verified {
    /// Always true.
    email_verified: bool,
}

impl Example for Verified {
    fn example() -> Self {
        Self { email_verified: true }
    }
}

refusals!(VerifyRefusals: BODY, DATABASE, [Code::InvalidOneTimeToken]);
refusals!(ResendRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [Code::InvalidEmail]);
refusals!(ChangeRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [Code::InvalidEmail, Code::StepUpRequired]);
refusals!(ConfirmRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [Code::InvalidOneTimeToken, Code::EmailTaken]);

/// E-mail addresses.
pub struct EmailApi;

#[OpenApi(tag = "Tag::Account")]
impl EmailApi {
    /// Verify an e-mail address
    ///
    /// With the token of the mail that a sign-up sends. It works once.
    #[oai(path = "/api/auth/email/verify", method = "post", operation_id = "verifyEmail")]
    async fn verify(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        Json(body): Json<LinkToken>,
    ) -> Result<Json<Verified>, Fail<VerifyRefusals>> {
        app.db.verify_email(body.token.checked()?, &caller).await?;
        Ok(Json(Verified { email_verified: true }))
    }

    /// Send the verification mail again
    ///
    /// To an address, or to that of the user who is logged in. The answer is the same whether or not the address has an
    /// account, and whether or not it is verified already. The link before does not work any more.
    #[oai(path = "/api/auth/email/resend", method = "post", operation_id = "resendVerification")]
    async fn resend(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        credential: MaybeCredential,
        Json(body): Json<ResendVerificationRequest>,
    ) -> Result<Accepted, Fail<ResendRefusals>> {
        if let Some(email) = &body.email {
            let email = email.checked()?;
            ticket.take(&app, &caller, email).await?;
            return Ok(steadily(app.db.resend_verification(email, &caller)).await?);
        }
        let session = credential.found?.session()?;
        ticket.take(&app, &caller, &session.session_id.to_string()).await?;
        app.db.resend_own_verification(&session, &caller).await?;
        Ok(Accepted::new())
    }

    /// Ask for another e-mail address
    ///
    /// A link goes to the new address, a notice to the old one; nothing changes until the link is used. The answer is
    /// the same when another account has the address. Needs a recent authentication.
    #[oai(path = "/api/auth/email/change", method = "post", operation_id = "requestEmailChange")]
    async fn change(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        credential: SessionCredential,
        Json(body): Json<ChangeEmailRequest>,
    ) -> Result<Accepted, Fail<ChangeRefusals>> {
        let email = body.new_email.checked()?;
        ticket.take(&app, &caller, email).await?;
        Ok(steadily(app.db.request_email_change(&credential, email, &caller)).await?)
    }

    /// Change the e-mail address
    ///
    /// With the token that was mailed to the new address, by the user who asked for it. Sessions go on; links that were
    /// mailed to the old address do not work any more.
    #[oai(path = "/api/auth/email/change/confirm", method = "post", operation_id = "confirmEmailChange")]
    async fn confirm(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<LinkToken>,
    ) -> Result<Json<Verified>, Fail<ConfirmRefusals>> {
        app.db.confirm_email_change(&credential, body.token.checked()?, &caller).await?;
        Ok(Json(Verified { email_verified: true }))
    }
}
