//! Logging in through an OpenID provider: with an ID token that the app got itself (`POST /api/auth/google`), or by sending
//! the browser there and back (`/api/auth/oidc/…`).

use std::sync::Arc;

use poem::{
    FromRequest, IntoResponse, Request, RequestBody, Response,
    http::{HeaderValue, StatusCode, header},
    web::Data,
};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Query,
    registry::{MetaHeader, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Example,
};
use serde::Deserialize;

use super::{
    Tag,
    answers::AuthResponse,
    delivery::{Delivered, Delivery, deliver},
    lifetimes::{SessionWishes, lifetimes},
};
use crate::{
    app::App,
    cookies,
    db::{Federated, Grant, Lifetimes},
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, Problem, refusals},
    field::{IdToken, Nonce, ReturnTo, Text},
    json::{self, Body, Json},
    oidc::{Callback, CodeFlow, Federation, Person, STATE_COOKIE, forget},
    origin::OwnPage,
    refresh_token::TokenSecret,
};

/// An ID token of the provider.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FederatedLoginRequest {
    /// As Google's button or the provider's library hands it over.
    credential: Text<IdToken>,
    /// What the app asked the provider to put into the token: then it must be there.
    nonce: Option<Text<Nonce>>,
    /// `json` when left out.
    delivery: Option<Delivery>,
    /// False on a computer of others: the session ends sooner (`UNREMEMBERED_TTL_SECONDS`).
    remember_me: Option<bool>,
    #[serde(default, deserialize_with = "json::object")]
    session: Option<SessionWishes>,
}

impl Body for FederatedLoginRequest {}

impl Example for FederatedLoginRequest {
    fn example() -> Self {
        Self {
            credential: "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmdvb2dsZS5jb20ifQ.c2ln"
                .to_owned()
                .into(),
            nonce: Some("n-0S6_WzA2Mj".to_owned().into()),
            delivery: Some(Delivery::Json),
            remember_me: Some(true),
            session: None,
        }
    }
}

refusals!(GoogleRefusals: BODY, DATABASE, [
    Code::InvalidIdToken, Code::CrossSiteRequest, Code::FederationNotConfigured, Code::EmailNotLinkable,
    Code::IdentityProviderUnavailable,
]);
refusals!(StartRefusals: DATABASE, [
    Code::BadRequest, Code::FederationNotConfigured, Code::InvalidReturnTo, Code::IdentityProviderUnavailable,
]);
refusals!(CallbackRefusals: DATABASE, [Code::BadRequest, Code::FederationNotConfigured]);

/// Federated logins.
pub struct FederationApi;

#[OpenApi(tag = "Tag::Sessions")]
impl FederationApi {
    /// Log in with an ID token
    ///
    /// Of the provider at `OIDC_ISSUER` (Google, unless it is set), for one of the clients of `GOOGLE_CLIENT_ID`, with an
    /// e-mail that the provider has verified. A token is accepted once. The first login of somebody links them to the
    /// account with the same e-mail if that was verified here as well, or makes one; an account whose e-mail never was
    /// verified is not given away (`email_not_linkable`). The session is like any other, its `amr` is `fed`.
    #[oai(path = "/api/auth/google", method = "post", operation_id = "logInWithIdToken")]
    async fn log_in_with_id_token(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        _page: OwnPage,
        Json(body): Json<FederatedLoginRequest>,
    ) -> Result<Delivered<AuthResponse>, Fail<GoogleRefusals>> {
        let federation = app.federation.as_ref().ok_or(Code::FederationNotConfigured)?;
        let delivery = body.delivery.unwrap_or_default();
        let lifetimes = lifetimes(&app, body.remember_me, body.session, delivery)?;
        let nonce = body.nonce.as_ref().map(Text::checked).transpose()?;
        let person = federation.verify(body.credential.checked()?, nonce).await?;
        let (grant, secret) = open(&app, federation, &caller, &person, lifetimes).await?;
        Ok(deliver(&app, *grant, &secret, delivery, body.remember_me != Some(false))?)
    }

    /// Go to the provider
    ///
    /// For pages: a link to here logs in and comes back with cookies, by way of the provider (authorization code with
    /// PKCE). Where to is `OIDC_POST_LOGIN_URL`, or `returnTo` on the same site.
    #[oai(path = "/api/auth/oidc/start", method = "get", operation_id = "startFederatedLogin")]
    async fn start_federated_login(
        &self,
        app: Data<&Arc<App>>,
        /// A path to come back to, like `/orders?id=7`.
        #[oai(name = "returnTo")]
        return_to: Query<Option<Text<ReturnTo>>>,
    ) -> Result<SeeOther, Fail<StartRefusals>> {
        let (federation, flow) = configured(&app)?;
        let return_to = return_to.0.as_ref().map(Text::checked).transpose()?;
        let (location, cookie) = federation.begin(flow, &app.token_keys(), return_to).await?;
        Ok(SeeOther { location, cookies: vec![cookie], deliver: None })
    }

    /// Come back from the provider
    ///
    /// The provider sends browsers here; nobody else calls it. Whatever happens, the browser goes on to the page of
    /// `OIDC_POST_LOGIN_URL`: with the cookies of a session, or with `error` in its query: `invalid_login_state`,
    /// `login_denied`, `login_failed`, `invalid_id_token`, `email_not_linkable`, `identity_provider_unavailable`,
    /// `database_unavailable`, `overloaded` or `internal_error`.
    #[oai(path = "/api/auth/oidc/callback", method = "get", operation_id = "finishFederatedLogin")]
    #[allow(clippy::too_many_arguments)] // the parameters that the protocol has
    async fn finish_federated_login(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        kept: KeptState,
        /// Grants the tokens.
        code: Query<Option<String>>,
        /// What the browser took along.
        state: Query<Option<String>>,
        /// RFC 9207: who answers.
        iss: Query<Option<String>>,
        /// Why there is no code.
        error: Query<Option<String>>,
    ) -> Result<SeeOther, Fail<CallbackRefusals>> {
        let (federation, flow) = configured(&app)?;
        let callback = Callback {
            code: code.0.as_deref(),
            state: state.0.as_deref(),
            issuer: iss.0.as_deref(),
            error: error.0.as_deref(),
        };
        let finished = async {
            let returned = federation.finish(flow, &app.token_keys(), kept.0.as_deref(), &callback).await?;
            let lifetimes = lifetimes(&app, None, None, Delivery::Cookie)?;
            let (grant, secret) = open(&app, federation, &caller, &returned.person, lifetimes).await?;
            let delivered = deliver(&app, *grant, &secret, Delivery::Cookie, true)?;
            Ok((returned.return_to, delivered))
        };
        let (result, deliver) = match finished.await {
            Ok((return_to, delivered)) => (Ok(return_to), Some(delivered)),
            Err(problem) => {
                let problem: Problem = problem;
                tracing::info!(code = problem.code().as_str(), "a login through the provider came to nothing");
                (Err(problem), None)
            }
        };
        Ok(SeeOther { location: flow.landing(&result), cookies: vec![forget()], deliver })
    }
}

fn configured(app: &App) -> Result<(&Federation, &CodeFlow), Problem> {
    let federation = app.federation.as_ref().ok_or(Code::FederationNotConfigured)?;
    Ok((federation, federation.flow.as_ref().ok_or(Code::FederationNotConfigured)?))
}

/// Opens a session for whom the provider vouches for.
async fn open(
    app: &App,
    federation: &Federation,
    caller: &Caller,
    person: &Person,
    lifetimes: Lifetimes,
) -> Result<(Box<Grant>, TokenSecret), Problem> {
    let secret = TokenSecret::random();
    match federation.db.open_federated_session(person, &secret, lifetimes, caller).await? {
        Federated::LoggedIn(opened) => match app.db.grant_of(opened).await? {
            Some(grant) => Ok((grant, secret)),
            // Ended before it was answered: by a deactivation, for instance.
            None => Err(Code::InvalidIdToken.into()),
        },
        Federated::EmailNotLinkable => Err(Code::EmailNotLinkable.into()),
        Federated::Refused(reason) => {
            tracing::info!(reason, "a federated login was refused");
            Err(Code::InvalidIdToken.into())
        }
    }
}

/// What the browser kept of a login under way.
struct KeptState(Option<String>);

impl<'a> FromRequest<'a> for KeptState {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self(cookies::read(request, STATE_COOKIE).map(str::to_owned)))
    }
}

/// The browser goes elsewhere, with or without cookies.
struct SeeOther {
    location: String,
    cookies: Vec<String>,
    deliver: Option<Delivered<AuthResponse>>,
}

impl IntoResponse for SeeOther {
    fn into_response(self) -> Response {
        let mut response = Response::builder().status(StatusCode::SEE_OTHER).finish();
        if let Ok(location) = HeaderValue::try_from(self.location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        for cookie in self.cookies {
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
        }
        if let Some(delivered) = self.deliver {
            delivered.set_cookies(&mut response);
        }
        response
    }
}

impl ApiResponse for SeeOther {
    fn meta() -> MetaResponses {
        let header = |name: &str, description: &str, required| MetaHeader {
            name: name.into(),
            description: Some(description.into()),
            required,
            deprecated: false,
            schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The browser goes on.",
                status: Some(StatusCode::SEE_OTHER.as_u16()),
                status_range: None,
                content: vec![],
                headers: vec![
                    header("Location", "Where to", true),
                    header("Set-Cookie", "The login under way, or the session's tokens", true),
                ],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}
