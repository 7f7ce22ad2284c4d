//! Trading a refresh token for its successor: the hot path, and the one that must tell nothing.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{
    Tag,
    answers::AuthResponse,
    delivery::{Delivered, Delivery, deliver},
};
use crate::{
    adopted_token::Shown,
    app::App,
    credential::RefreshCookie,
    db::{Grant, Rotation},
    device::Caller,
    error::{BODY, CSRF, Code, DATABASE, Fail, Problem, refusals},
    field::{RefreshToken, Text},
    json::{Body, Json},
    metrics::metrics,
    refresh_token::{self, TokenSecret},
};

/// A refresh token; left out, it is taken from the cookie.
#[derive(Object, Default, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefreshRequest {
    refresh_token: Option<Text<RefreshToken>>,
}

impl Body for RefreshRequest {
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Example for RefreshRequest {
    fn example() -> Self {
        Self { refresh_token: Some(format!("{}{}", refresh_token::PREFIX, "A".repeat(118)).into()) }
    }
}

refusals!(RefreshRefusals: BODY, CSRF, DATABASE, [Code::InvalidRefreshToken, Code::RefreshOvertaken]);

const NO_TOKEN: (Code, &str) = (Code::InvalidRequest, "There is neither a refreshToken nor a cookie with one.");

/// Refreshing.
pub struct RefreshApi;

#[OpenApi(tag = "Tag::Sessions")]
impl RefreshApi {
    /// Refresh
    ///
    /// Safe to repeat: for a while (60 s by default, and until the successor is used) the same token is answered with
    /// the same successor. An older token ends its session. Every refusal is the same. Without a body, the cookie
    /// `__Secure-auth_refresh` is refreshed, into cookies again; that needs the header `x-csrf-token`. A browser's tabs
    /// share that cookie, so it is rotated no more often than once in that while. 409 `refresh_overtaken`: while this request
    /// was under way, another one with the same token was answered, and its successor used already: use the newest token.
    #[oai(path = "/api/auth/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        cookie: RefreshCookie,
        Json(body): Json<RefreshRequest>,
    ) -> Result<Delivered<AuthResponse>, Fail<RefreshRefusals>> {
        let (token, delivery) = match (&body.refresh_token, &cookie.token) {
            (Some(token), _) => (token.checked()?, Delivery::Json),
            (None, Some(token)) => (token.as_deref().map_err(Problem::clone)?, Delivery::Cookie),
            (None, None) => return Err(NO_TOKEN.into()),
        };
        let (grant, secret) = rotate(&app, &caller, token, delivery).await?;
        Ok(deliver(&app, *grant, &secret, delivery, cookie.remembered)?)
    }
}

/// Rotates the session of a refresh token, or exchanges one of a system that was taken over. Whatever is wrong with it,
/// the refusal is the same.
pub async fn rotate(
    app: &App,
    caller: &Caller,
    token: &str,
    delivery: Delivery,
) -> Result<(Box<Grant>, TokenSecret), Problem> {
    let refused = Problem::from(Code::InvalidRefreshToken);
    let keys = &app.token_keys();
    let Some(shown) = app.read_refresh_token(keys, token) else {
        metrics().refreshes.count("malformed");
        return Err(refused);
    };

    let nonce = shown.new_nonce(keys);
    let next = shown.generation().checked_add(1).ok_or(refused.clone())?;
    let successor = shown.successor(keys, nonce, next).ok_or(refused.clone())?;
    let rotation = match &shown {
        Shown::Own(presented) => app.db.rotate_session_token(presented, successor.verifier(), nonce, caller).await?,
        Shown::Adopted(adopted) => {
            let is_shared = delivery == Delivery::Cookie;
            app.db.exchange_adopted_token(adopted, successor.verifier(), nonce, is_shared, caller).await?
        }
    };
    let grant = match rotation {
        Rotation::Granted(grant) => grant,
        Rotation::Retained(grant) => return Ok((grant, shown.into_secret().ok_or(refused)?)),
        // Only who holds a good token gets to know.
        Rotation::Limited(seconds) => {
            metrics().rate_limited.count("refresh_session");
            return Err(Problem::with_retry_after(Code::RateLimited, seconds));
        }
        Rotation::Overtaken => return Err(Code::RefreshOvertaken.into()),
        Rotation::Refused(outcome) => {
            let session_id = shown.session_id().map(tracing::field::display);
            tracing::info!(outcome, session_id, "a refresh was refused");
            return Err(refused);
        }
    };
    // A retry is told the nonce of the rotation that it repeats, and derives the same successor from it.
    let nonce = grant.rotation_nonce.unwrap_or(nonce);
    let secret = shown.successor(keys, nonce, grant.generation).ok_or_else(|| {
        tracing::warn!("a retry came after the key that made its successor was removed from HMAC_SECRETS");
        refused
    })?;
    Ok((grant, secret))
}
