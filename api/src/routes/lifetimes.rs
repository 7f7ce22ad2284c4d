//! How long a session is to live: what a client may ask for when it logs in.
//!
//! A client may ask for less than the service grants, never for more: every wish goes to the database as it is, and
//! `auth.open_session` takes the least of it and the settings. So there is no list of clients whose sessions are
//! shorter, which a client could leave by not naming itself; who wants them short (a kiosk, an admin's console) says so
//! where it logs in. The one thing of which more can be had is the retry window, up to `auth_sessions.retry_window_max`:
//! it is the client's own loss when it is long, because a thief's token is noticed that much later.

use poem_openapi::Object;
use serde::Deserialize;

use super::delivery::Delivery;
use crate::{
    app::App,
    db::Lifetimes,
    error::{Code, Problem},
};

/// The least that makes sense; also what keeps a mistaken zero from ending the session at once.
const LEAST_SECONDS: u32 = 60;

/// What this session is to be like. What is longer than the service grants is cut to that.
#[derive(Clone, Copy, Default, Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionWishes {
    /// It ends when it was not refreshed for so long.
    #[oai(validator(minimum(value = "60"), maximum(value = "4294967295")))]
    pub idle_timeout_seconds: Option<u32>,
    /// It ends so long after this login in any case.
    #[oai(validator(minimum(value = "60"), maximum(value = "4294967295")))]
    pub max_age_seconds: Option<u32>,
    /// For so long a refresh can be repeated when its answer was lost: for apps on networks that come and go.
    #[oai(validator(minimum(value = "0"), maximum(value = "4294967295")))]
    pub retry_window_seconds: Option<u32>,
}

/// What to ask the database for. Without `remember_me`, or with true, it is what the service grants everybody.
pub fn lifetimes(
    app: &App,
    remember_me: Option<bool>,
    wishes: Option<SessionWishes>,
    delivery: Delivery,
) -> Result<Lifetimes, Problem> {
    let wishes = wishes.unwrap_or_default();
    for (wish, refusal) in [
        (wishes.idle_timeout_seconds, "session.idleTimeoutSeconds must be at least 60."),
        (wishes.max_age_seconds, "session.maxAgeSeconds must be at least 60."),
    ] {
        if wish.is_some_and(|seconds| seconds < LEAST_SECONDS) {
            return Err(Problem::with_detail(Code::InvalidRequest, refusal));
        }
    }
    let granted = app.refresh_token_ttl.as_secs_f64();
    let wished = wishes.idle_timeout_seconds.map_or(granted, |seconds| granted.min(seconds.into()));
    let at_most = (remember_me == Some(false)).then_some(app.unremembered_ttl.as_secs_f64());
    let max_age = wishes.max_age_seconds.map(f64::from);
    Ok(Lifetimes {
        idle: at_most.map_or(wished, |most| wished.min(most)),
        max_age: match (max_age, at_most) {
            (Some(wish), Some(most)) => Some(wish.min(most)),
            (wish, most) => wish.or(most),
        },
        retry_window: wishes.retry_window_seconds.map(f64::from),
        is_shared: delivery == Delivery::Cookie,
    })
}
