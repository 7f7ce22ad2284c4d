//! The security timeline: what happened to an account, or in an organization.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, param::Query, types::Example};
use uuid::Uuid;

use super::{
    Tag,
    answers::{example_time, iso8601},
    event_details::EventDetails,
};
use crate::{
    app::App,
    credential::Credential,
    db::{EventFilter, SecurityEvent},
    device::{self, Caller},
    error::{CREDENTIAL, Code, DATABASE, Fail, Problem, SCOPE, refusals},
    json::Json,
};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Enum)]
#[oai(rename_all = "snake_case")]
enum Severity {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Somebody may have a stolen token.
    Critical,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something that happened.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct Event {
    /// Unique.
    id: String,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    /// `user_logged_in`, `session_revoked`, `token_replay_detected`, …; more may come.
    action: String,
    /// `info`, `warning` or `critical`.
    severity: String,
    /// False: it was tried, and refused.
    success: bool,
    /// Whom it concerns.
    #[oai(skip_serializing_if_is_none)]
    user_id: Option<Uuid>,
    #[oai(skip_serializing_if_is_none)]
    session_id: Option<Uuid>,
    /// What is revoked together with the session.
    #[oai(skip_serializing_if_is_none)]
    family_id: Option<Uuid>,
    /// Where it came from (/24 or /64): the full address is not stored.
    #[oai(skip_serializing_if_is_none)]
    ip_network: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    user_agent: Option<String>,
    /// Made from the user agent: "Chrome 120 on macOS".
    #[oai(skip_serializing_if_is_none)]
    device_name: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    details: Option<EventDetails>,
    /// The `x-request-id` of the request that it happened in.
    #[oai(skip_serializing_if_is_none)]
    request_id: Option<String>,
    /// Who did it, where that was proved: somebody else than `userId` when an administrator acted.
    #[oai(skip_serializing_if_is_none)]
    actor_user_id: Option<Uuid>,
}

impl From<SecurityEvent> for Event {
    fn from(event: SecurityEvent) -> Self {
        Self {
            id: event.id.to_string(),
            created_at: event.created_at,
            action: event.action,
            severity: event.severity,
            success: event.success,
            user_id: event.user_id,
            session_id: event.session_id,
            family_id: event.family_id,
            ip_network: event.network,
            device_name: event.user_agent.as_deref().map(device::name),
            user_agent: event.user_agent,
            details: event.details.as_deref().and_then(EventDetails::of),
            request_id: event.correlation_id,
            actor_user_id: event.actor_user_id,
        }
    }
}

/// A page of the timeline, the newest first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct Timeline {
    events: Vec<Event>,
    /// For the next page, of what happened before; absent on the last one.
    #[oai(skip_serializing_if_is_none)]
    next_cursor: Option<String>,
}

impl Example for Timeline {
    fn example() -> Self {
        let id = Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162);
        let user = Uuid::from_u128(0x7d0c_6d50_1f0e_4a6e_9a1d_2b3c_4d5e_6f70);
        let event = Event {
            id: "4711".into(),
            created_at: example_time(0),
            action: "session_revoked".into(),
            severity: "info".into(),
            success: true,
            user_id: Some(user),
            session_id: Some(id),
            family_id: Some(id),
            ip_network: Some("203.0.113.0/24".into()),
            user_agent: Some("curl/8.5.0".into()),
            device_name: Some("curl 8".into()),
            details: EventDetails::of(r#"{"reason": "session_revoked"}"#),
            request_id: Some("4f6b7c1e-0a52-4f0e-9c2b-5f6f0b7a3c11".into()),
            actor_user_id: Some(user),
        };
        let next_cursor = Some(encode(&(event.created_at, 4711)));
        Self { events: vec![event], next_cursor }
    }
}

/// A place in the list: after which event, by its time and id, the next page begins. So nothing that happens in between
/// moves it. Opaque to clients, but no secret: it opens no row that the same request without it would not.
fn encode((time, id): &(DateTime<Utc>, i64)) -> String {
    URL_SAFE_NO_PAD.encode([time.timestamp_micros().to_be_bytes(), id.to_be_bytes()].concat())
}

fn decode(cursor: &str) -> Option<(DateTime<Utc>, i64)> {
    // 16 bytes; a longer text is not decoded at all.
    let bytes = (cursor.len() == 22).then(|| URL_SAFE_NO_PAD.decode(cursor).ok())??;
    let (time, id) = bytes.split_first_chunk::<8>()?;
    let micros = i64::from_be_bytes(*time);
    // Years that PostgreSQL has, too.
    let time = (0..=253_402_300_799_999_999).contains(&micros).then(|| DateTime::from_timestamp_micros(micros))??;
    Some((time, i64::from_be_bytes(id.try_into().ok()?)))
}

fn refuse<T>(why: &'static str) -> Result<T, Problem> {
    Err(Problem::with_detail(Code::BadRequest, why))
}

/// PostgreSQL has fewer years than chrono.
fn within_reach(time: &DateTime<Utc>) -> bool {
    (0..253_402_300_800).contains(&time.timestamp())
}

refusals!(TimelineRefusals: CREDENTIAL, SCOPE, DATABASE,
    [Code::BadRequest, Code::InsufficientRole, Code::OrganizationNotFound, Code::OrganizationNotActive]);

/// The security timeline.
pub struct SecurityEventsApi;

#[OpenApi(tag = "Tag::Account")]
impl SecurityEventsApi {
    /// Security timeline
    ///
    /// What happened to the account: logins, refused ones, revoked sessions, replays, changes. With `organizationId`,
    /// what happened in the name of that organization, which must be the one that the session acts for; for its owners.
    /// The newest first, in pages: what happens meanwhile changes no page after the first. Plain refreshes are not in it.
    /// Scope of a personal access token: `security_events:read`.
    #[oai(path = "/api/auth/security-events", method = "get", operation_id = "listSecurityEvents")]
    #[allow(clippy::too_many_arguments, reason = "as many as there are things to filter by")]
    async fn security_events(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        /// Not the user's own timeline, but this organization's.
        #[oai(name = "organizationId")]
        organization_id: Query<Option<Uuid>>,
        /// Only events of this action, for example `user_login_failed`.
        #[oai(validator(pattern = "^[a-z_]{1,64}$"))]
        action: Query<Option<String>>,
        /// Only events of this severity.
        severity: Query<Option<Severity>>,
        /// Only what was done (true), or refused (false).
        success: Query<Option<bool>>,
        /// Only events of this session.
        #[oai(name = "sessionId")]
        session_id: Query<Option<Uuid>>,
        /// Only events at or after this time (RFC 3339).
        from: Query<Option<DateTime<Utc>>>,
        /// Only events before this time (RFC 3339).
        to: Query<Option<DateTime<Utc>>>,
        /// How many at most; 50 when left out.
        #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<Option<u32>>,
        /// The `nextCursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Timeline>, Fail<TimelineRefusals>> {
        let limit = limit.0.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
        if [&from.0, &to.0].into_iter().flatten().any(|time| !within_reach(time)) {
            refuse("from and to must be of the years 1970 to 9999.")?;
        }
        let filter = EventFilter {
            organization_id: organization_id.0,
            action: action.0,
            severity: severity.0.map(Severity::as_str),
            success: success.0,
            session_id: session_id.0,
            from: from.0,
            to: to.0,
            ..EventFilter::default()
        };
        let (events, next_cursor) = page(&app, &credential, &caller, filter, limit, cursor.0.as_deref()).await?;
        Ok(Json(Timeline { events: events.into_iter().map(Event::from).collect(), next_cursor }))
    }
}

/// A page of a timeline, and the cursor of the next one, where there is one.
pub async fn page(
    app: &App,
    who: &Credential,
    caller: &Caller,
    filter: EventFilter,
    limit: u32,
    cursor: Option<&str>,
) -> Result<(Vec<SecurityEvent>, Option<String>), Problem> {
    let after = match cursor.map(decode) {
        Some(None) => refuse("cursor must be a nextCursor of this list.")?,
        after => after.flatten(),
    };
    // One more than is shown: it tells whether there is another page.
    let filter = EventFilter { after, limit: i64::from(limit) + 1, ..filter };
    let mut events = app.db.security_events(who, &filter, caller).await?;
    let is_last = events.len() <= limit as usize;
    events.truncate(limit as usize);
    let last = events.last().filter(|_| !is_last).map(|event| (event.created_at, event.id));
    Ok((events, last.as_ref().map(encode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_to_the_microsecond() {
        for id in [0, 7, i64::MAX] {
            let place = (DateTime::from_timestamp_micros(1_763_648_209_123_457).unwrap(), id);
            assert_eq!(decode(&encode(&place)), Some(place));
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let before_time = encode(&(DateTime::from_timestamp_micros(-1).unwrap(), 1));
        let after_time = URL_SAFE_NO_PAD.encode([[0x7f; 8], [0; 8]].concat());
        for cursor in ["", "x", &"=".repeat(22), &"A".repeat(23), &"/".repeat(22), &before_time, &after_time] {
            assert_eq!(decode(cursor), None, "{cursor}");
        }
    }
}
