//! Logging in with a password.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{
    Tag,
    answers::AuthResponse,
    delivery::{Delivered, Delivery, deliver},
    lifetimes::{SessionWishes, lifetimes},
};
use crate::{
    app::App,
    db::{Grant, Lifetimes, Login},
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, Problem, refusals},
    field::{LoginEmail, LoginPassword, Text},
    json::{self, Body, Json},
    limits::Ticket,
    metrics::metrics,
    origin::OwnPage,
    refresh_token::TokenSecret,
};

/// E-mail and password.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoginRequest {
    email: Text<LoginEmail>,
    password: Text<LoginPassword>,
    /// `json` when left out.
    delivery: Option<Delivery>,
    /// False on a computer of others: the session ends sooner (`UNREMEMBERED_TTL_SECONDS`).
    remember_me: Option<bool>,
    #[serde(default, deserialize_with = "json::object")]
    session: Option<SessionWishes>,
}

impl Body for LoginRequest {}

impl Example for LoginRequest {
    fn example() -> Self {
        Self {
            email: "ada@example.org".to_owned().into(),
            password: "correct horse battery staple".to_owned().into(),
            delivery: Some(Delivery::Json),
            remember_me: Some(true),
            session: None,
        }
    }
}

refusals!(LoginRefusals: BODY, DATABASE, [Code::InvalidCredentials, Code::CrossSiteRequest, Code::AccountLocked]);

/// Logging in.
pub struct LoginApi;

#[OpenApi(tag = "Tag::Sessions")]
impl LoginApi {
    /// Log in
    ///
    /// An unknown e-mail is answered like a wrong password, as slowly, and is locked like one.
    #[oai(path = "/api/auth/login", method = "post", operation_id = "logIn")]
    async fn log_in(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        _page: OwnPage,
        Json(body): Json<LoginRequest>,
    ) -> Result<Delivered<AuthResponse>, Fail<LoginRefusals>> {
        let delivery = body.delivery.unwrap_or_default();
        let lifetimes = lifetimes(&app, body.remember_me, body.session, delivery)?;
        let (grant, secret) = log_in(&app, &caller, &ticket, &body.email, &body.password, lifetimes).await?;
        Ok(deliver(&app, *grant, &secret, delivery, body.remember_me != Some(false))?)
    }
}

/// Opens a session for an e-mail and a password.
pub async fn log_in(
    app: &App,
    caller: &Caller,
    ticket: &Ticket,
    email: &Text<LoginEmail>,
    password: &Text<LoginPassword>,
    lifetimes: Lifetimes,
) -> Result<(Box<Grant>, TokenSecret), Problem> {
    let (email, password) = (email.checked()?, password.checked()?);
    ticket.take(app, caller, email).await?;
    // The password may change between the database's two answers; then the second says so, once is enough, and whoever
    // changes it faster than that can wait.
    for _ in 0..2 {
        if let Some(result) = attempt(app, caller, email, password, lifetimes).await? {
            return Ok(result);
        }
    }
    tracing::warn!("a password changed twice during one login");
    Err(Code::InvalidCredentials.into())
}

/// One attempt; None when the password changed meanwhile.
async fn attempt(
    app: &App,
    caller: &Caller,
    email: &str,
    password: &str,
    lifetimes: Lifetimes,
) -> Result<Option<(Box<Grant>, TokenSecret)>, Problem> {
    let passwords = &app.passwords;
    let defaults = passwords.params().to_string();
    let challenge = app.db.begin_login(email, &defaults, passwords.peppers().current_id()).await?;
    if let Some(seconds) = challenge.retry_after {
        metrics().logins.count("locked");
        return Err(Problem::with_retry_after(Code::AccountLocked, seconds));
    }
    // Only a login brings the plain password: the moment to hash it as one would today. The database takes the new
    // verifier when the proof is right, and no session ends by it.
    let (proof, renewed) =
        passwords.proof_and_renewal(password, challenge.salt, &challenge.params, challenge.pepper_id).await?;
    let secret = TokenSecret::random();
    let version = challenge.verifier_version;
    match app.db.complete_login(email, version, proof, &secret, renewed.as_ref(), lifetimes, caller).await? {
        Login::LoggedIn(grant) => Ok(Some((grant, secret))),
        Login::Refused => Err(Code::InvalidCredentials.into()),
        Login::Locked(seconds) => Err(Problem::with_retry_after(Code::AccountLocked, seconds)),
        Login::Stale => Ok(None),
    }
}
