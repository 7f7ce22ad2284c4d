//! Signing up: a user, an organization where one is asked for, and a first session, or nothing at all.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    Enum, Object, OpenApi,
    types::{Example, ToJSON},
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
    db::{NewAccount, SignUp},
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, refusals},
    field::{Description, Email, Name, NewPassword, Slug, Text, Website},
    json::{self, Body, Json},
    limits::Ticket,
    origin::OwnPage,
    refresh_token::TokenSecret,
};

/// What a user may sign up as.
#[derive(Clone, Copy, Enum, Deserialize)]
#[oai(rename_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum SignUpUserType {
    Individual,
    Business,
}

/// An organization to found: the user becomes its owner.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrganization {
    name: Text<Name>,
    /// Its name in URLs; see `/api/auth/organizations/slug-available/{slug}`.
    slug: Text<Slug>,
    description: Option<Text<Description>>,
    website: Option<Text<Website>>,
}

/// A new account.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignUpRequest {
    email: Text<Email>,
    password: Text<NewPassword>,
    name: Text<Name>,
    /// `INDIVIDUAL` when left out.
    user_type: Option<SignUpUserType>,
    #[serde(default, deserialize_with = "json::object")]
    organization: Option<NewOrganization>,
    /// `json` when left out.
    delivery: Option<Delivery>,
    /// False on a computer of others: the session ends sooner (`UNREMEMBERED_TTL_SECONDS`).
    remember_me: Option<bool>,
    #[serde(default, deserialize_with = "json::object")]
    session: Option<SessionWishes>,
}

impl Body for SignUpRequest {}

impl Example for SignUpRequest {
    fn example() -> Self {
        let text = |value: &str| value.to_owned();
        Self {
            email: text("ada@example.org").into(),
            password: text("correct horse battery staple").into(),
            name: text("Ada Lovelace").into(),
            user_type: Some(SignUpUserType::Individual),
            organization: Some(NewOrganization {
                name: text("Analytical Engines").into(),
                slug: text("analytical-engines").into(),
                description: Some(text("Engines that analyse").into()),
                website: Some(text("https://engines.example.org").into()),
            }),
            delivery: Some(Delivery::Json),
            remember_me: Some(true),
            session: None,
        }
    }
}

refusals!(SignUpRefusals: BODY, DATABASE, [
    Code::CrossSiteRequest, Code::EmailTaken, Code::SlugTaken, Code::SlugReserved, Code::InvalidEmail, Code::InvalidPassword, Code::InvalidName,
    Code::InvalidSlug, Code::InvalidDescription, Code::InvalidWebsite,
]);

/// Signing up.
pub struct SignUpApi;

#[OpenApi(tag = "Tag::Sessions")]
impl SignUpApi {
    /// Sign up
    ///
    /// One transaction: user, organization, its owner's role, session and events, or none of them. `email_taken` is the
    /// one answer of this service that tells that an account exists.
    #[oai(path = "/api/auth/signup", method = "post", operation_id = "signUp")]
    async fn sign_up(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        _page: OwnPage,
        Json(body): Json<SignUpRequest>,
    ) -> Result<Delivered<AuthResponse, 201>, Fail<SignUpRefusals>> {
        let organization = body.organization.as_ref();
        // Everything is checked before the password is hashed: a refusal must be cheap.
        let password = body.password.checked()?;
        let user_type = body.user_type.and_then(|user_type| user_type.to_json());
        let name_and_slug = match organization {
            Some(new) => Some((new.name.checked()?, new.slug.checked()?)),
            None => None,
        };
        let account = NewAccount {
            email: body.email.checked()?,
            name: body.name.checked()?,
            user_type: user_type.as_ref().and_then(|user_type| user_type.as_str()),
            organization: name_and_slug,
            description: organization.and_then(|new| new.description.as_ref()).map(Text::checked).transpose()?,
            website: organization.and_then(|new| new.website.as_ref()).map(Text::checked).transpose()?,
        };
        let delivery = body.delivery.unwrap_or_default();
        let lifetimes = lifetimes(&app, body.remember_me, body.session, delivery)?;
        ticket.take(&app, &caller, account.email).await?;
        let verifier = app.passwords.new_verifier(password).await?;
        let secret = TokenSecret::random();
        let answer = app.db.sign_up(account, &verifier, &secret, lifetimes, &caller).await;
        // Taken now, by this request or by another one before it, or, when no answer came back, perhaps.
        if let Some((_, slug)) = name_and_slug {
            app.slugs.forget(slug).await;
        }
        match answer? {
            SignUp::SignedUp(grant) => Ok(deliver(&app, *grant, &secret, delivery, body.remember_me != Some(false))?),
            SignUp::EmailTaken => Err(Code::EmailTaken.into()),
            SignUp::SlugTaken => Err(Code::SlugTaken.into()),
            SignUp::SlugReserved => Err(Code::SlugReserved.into()),
        }
    }
}
