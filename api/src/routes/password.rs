//! Passwords: forgotten, reset, changed.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{
    Tag,
    answers::Revoked,
    email::{Accepted, example_token, steadily},
};
use crate::{
    app::App,
    credential::SessionCredential,
    db::PasswordChange,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, Problem, SESSION, refusals},
    field::{Email, LoginPassword, NewPassword, OneTimeToken, Text},
    json::{Body, Json},
    limits::Ticket,
};

/// Whose password was forgotten.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForgotPasswordRequest {
    email: Text<Email>,
}

impl Body for ForgotPasswordRequest {}

impl Example for ForgotPasswordRequest {
    fn example() -> Self {
        Self { email: "ada@example.org".to_owned().into() }
    }
}

/// A new password, and what proves the right to set it.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResetPasswordRequest {
    /// From the fragment of the link that was mailed.
    token: Text<OneTimeToken>,
    password: Text<NewPassword>,
}

impl Body for ResetPasswordRequest {}

impl Example for ResetPasswordRequest {
    fn example() -> Self {
        Self { token: example_token().into(), password: "correct horse battery staple".to_owned().into() }
    }
}

/// The password as it is, and as it shall be.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangePasswordRequest {
    /// Left out only for an account that has none yet.
    current_password: Option<Text<LoginPassword>>,
    new_password: Text<NewPassword>,
}

impl Body for ChangePasswordRequest {}

impl Example for ChangePasswordRequest {
    fn example() -> Self {
        Self {
            current_password: Some("correct horse battery staple".to_owned().into()),
            new_password: "purple monkey dishwasher".to_owned().into(),
        }
    }
}

refusals!(ForgotRefusals: BODY, DATABASE, [Code::InvalidEmail]);
refusals!(ResetRefusals: BODY, DATABASE, [Code::InvalidOneTimeToken, Code::InvalidPassword]);
refusals!(ChangeRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::StepUpRequired, Code::InvalidCredentials, Code::InvalidPassword, Code::AccountLocked,
]);

/// Passwords.
pub struct PasswordApi;

#[OpenApi(tag = "Tag::Account")]
impl PasswordApi {
    /// Forgot the password
    ///
    /// Mails a link for setting a new one. The answer, and its time, are the same whether or not the address has an
    /// account. The link before does not work any more; an address is mailed only so often.
    #[oai(path = "/api/auth/password/forgot", method = "post", operation_id = "forgotPassword")]
    async fn forgot(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        Json(body): Json<ForgotPasswordRequest>,
    ) -> Result<Accepted, Fail<ForgotRefusals>> {
        let email = body.email.checked()?;
        ticket.take(&app, &caller, email).await?;
        Ok(steadily(app.db.request_password_reset(email, &caller)).await?)
    }

    /// Set a new password
    ///
    /// With the token of the mail; it works once. Every session and personal access token of the user is ended, and the
    /// e-mail address counts as verified.
    #[oai(path = "/api/auth/password/reset", method = "post", operation_id = "resetPassword")]
    async fn reset(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        Json(body): Json<ResetPasswordRequest>,
    ) -> Result<Json<Revoked>, Fail<ResetRefusals>> {
        let (token, password) = (body.token.checked()?, body.password.checked()?);
        app.db.check_password_reset(token).await?;
        let new = app.passwords.new_verifier(password).await?;
        let revoked_sessions = app.db.reset_password(token, &new, &caller).await?;
        Ok(Json(Revoked { revoked_sessions }))
    }

    /// Change the password
    ///
    /// Needs a recent authentication and the current password. Every other session, and every personal access token, is
    /// ended; this session goes on.
    #[oai(path = "/api/auth/password/change", method = "post", operation_id = "changePassword")]
    async fn change(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<ChangePasswordRequest>,
    ) -> Result<Json<Revoked>, Fail<ChangeRefusals>> {
        let current = body.current_password.as_ref().map(Text::checked).transpose()?;
        let new = body.new_password.checked()?;
        app.db.require_recent_authentication(&credential).await?;
        // As at login: the password may change between the database's two answers.
        for _ in 0..2 {
            match attempt(&app, &credential, &caller, current, new).await? {
                PasswordChange::Changed(revoked_sessions) => return Ok(Json(Revoked { revoked_sessions })),
                PasswordChange::Refused => return Err(Code::InvalidCredentials.into()),
                PasswordChange::Locked(seconds) => {
                    return Err(Problem::with_retry_after(Code::AccountLocked, seconds).into());
                }
                PasswordChange::Stale => {}
            }
        }
        tracing::warn!("a password changed twice while it was being changed");
        Err(Code::InvalidCredentials.into())
    }
}

async fn attempt(
    app: &App,
    who: &SessionCredential,
    caller: &Caller,
    current: Option<&str>,
    new: &str,
) -> Result<PasswordChange, Problem> {
    let challenge = app.db.begin_step_up(who).await?;
    if let Some(seconds) = challenge.retry_after {
        return Ok(PasswordChange::Locked(seconds));
    }
    let proof = match (challenge.password, current) {
        (None, _) => None,
        (Some(_), None) => return Err(Problem::with_detail(Code::InvalidRequest, "currentPassword is missing.")),
        (Some(stored), Some(current)) => {
            Some(app.passwords.proof(current, stored.salt, &stored.params, stored.pepper_id).await?)
        }
    };
    let new = app.passwords.new_verifier(new).await?;
    app.db.change_password(who, challenge.verifier_version, proof, &new, caller).await
}
