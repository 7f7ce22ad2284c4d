//! The security timeline of an account, in words.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, Result, handler,
    web::{Data, Query},
};
use serde::Deserialize;

use super::{
    html,
    view::{When, path_in_query},
    viewer::{Frame, Viewer},
};
use crate::{
    app::App,
    db::{EventFilter, SecurityEvent},
    device,
    routes::{event_details::EventDetails, security_events},
};

const PER_PAGE: u32 = 25;

#[derive(Deserialize)]
struct Asked {
    /// Which events.
    #[serde(default)]
    show: Show,
    /// The page.
    cursor: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Show {
    #[default]
    All,
    Refused,
    Warning,
    Critical,
}

impl Show {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::All, "all", "Everything"),
        (Self::Refused, "refused", "What was refused"),
        (Self::Warning, "warning", "Warnings"),
        (Self::Critical, "critical", "Critical"),
    ];

    fn filter(self) -> EventFilter {
        match self {
            Self::All => EventFilter::default(),
            Self::Refused => EventFilter { success: Some(false), ..EventFilter::default() },
            Self::Warning => EventFilter { severity: Some("warning"), ..EventFilter::default() },
            Self::Critical => EventFilter { severity: Some("critical"), ..EventFilter::default() },
        }
    }
}

struct Choice {
    value: &'static str,
    label: &'static str,
    is_chosen: bool,
}

/// One event, as its user reads it.
struct Event {
    at: When,
    what: String,
    /// A sentence on what it means, or why it was.
    more: Option<String>,
    device: Option<String>,
    network: Option<String>,
    /// Class and text of a badge, for what is worth a look.
    badge: Option<(&'static str, &'static str)>,
    is_here: bool,
    by_other: bool,
}

#[derive(Template)]
#[template(path = "pages/activity.html")]
struct Activity {
    frame: Frame,
    events: Vec<Event>,
    choices: Vec<Choice>,
    is_filtered: bool,
    /// The link to the page of what happened before.
    next: Option<String>,
}

/// `GET /account/activity?show=…&cursor=…`
#[handler]
pub async fn activity_page(Data(app): Data<&Arc<App>>, viewer: Viewer, Query(asked): Query<Asked>) -> Result<Response> {
    let session_id = viewer.session()?.session_id;
    let (filter, cursor) = (asked.show.filter(), asked.cursor.as_deref());
    let (events, next) =
        security_events::page(app, &viewer.credential, &viewer.caller, filter, PER_PAGE, cursor).await?;
    let event = |event: SecurityEvent| {
        let details = event.details.as_deref().and_then(EventDetails::of).unwrap_or_default();
        let (what, more) = describe(&event.action, &details);
        Event {
            at: event.created_at.into(),
            what,
            more,
            device: event.user_agent.as_deref().map(device::name),
            network: event.network,
            badge: match (event.severity.as_str(), event.success) {
                ("critical", _) => Some(("bad", "Critical")),
                (_, false) => Some(("warning", "Refused")),
                ("warning", true) => Some(("warning", "Worth a look")),
                _ => None,
            },
            is_here: event.session_id == Some(session_id),
            by_other: event.actor_user_id.is_some() && event.actor_user_id != event.user_id,
        }
    };
    let choice = |(show, value, label)| Choice { value, label, is_chosen: show == asked.show };
    let shown = Show::ALL.iter().find(|(show, ..)| *show == asked.show).map_or("all", |(_, value, _)| value);
    Ok(html(&Activity {
        frame: viewer.frame,
        events: events.into_iter().map(event).collect(),
        choices: Show::ALL.map(choice).into(),
        is_filtered: asked.show != Show::All,
        next: next.map(|cursor| format!("/account/activity?show={shown}&cursor={}", path_in_query(&cursor))),
    })?)
}

/// What happened, for whom it happened to.
fn describe(action: &str, details: &EventDetails) -> (String, Option<String>) {
    let reason = details.reason.as_deref().map(because);
    let named = || details.name.as_deref().map(|name| format!("“{name}”"));
    let (what, more) = match action {
        "user_created" => ("Account made", None),
        "user_logged_in" => match details.method.as_deref() {
            Some("password") => ("Signed in with the password", None),
            Some("federated") => ("Signed in at the identity provider", details.provider.clone()),
            _ => ("Signed in", None),
        },
        "user_login_failed" => (
            "Somebody tried to sign in",
            Some(match details.locked {
                Some(true) => "Signing in was locked at that time.".into(),
                _ => "The password was wrong.".into(),
            }),
        ),
        "new_device_login" => ("First sign-in on this device", None),
        "auth_session_created" => ("Session opened", None),
        "user_logged_out" => ("Signed out", None),
        "session_revoked" | "session_family_revoked" | "refresh_token_revoked" => ("Session ended", reason),
        "session_expired" => ("Session expired", None),
        "token_replay_detected" => (
            "An old session token was used again",
            Some("Somebody may have had a copy of it, so the session was ended. Change your password if you do not know the device.".into()),
        ),
        "token_overtaken" => ("A refresh was overtaken by another one", None),
        "token_ahead_of_database" => ("A session token was newer than the database", None),
        "session_fast_forwarded" => ("Session went on after a failover", None),
        "user_account_locked" => (
            "Signing in was locked for a while",
            details.failures.map(|failures| format!("After {failures} wrong passwords.")),
        ),
        "user_account_unlocked" => ("Signing in was unlocked", None),
        "user_password_changed" => ("Password changed", None),
        "password_reset_requested" => ("A new password was asked for by e-mail", None),
        "password_reset_completed" => ("Password reset by e-mail", None),
        "email_verified" => ("E-mail address verified", None),
        "email_change_requested" => ("Another e-mail address was asked for", None),
        "user_email_changed" => ("E-mail address changed", None),
        "step_up_completed" => ("Confirmed that it is you", None),
        "step_up_failed" => ("A confirmation that it is you failed", None),
        "personal_access_token_created" => ("Access token made", named()),
        "personal_access_token_revoked" => ("Access token revoked", named()),
        "personal_access_token_used" => ("Access token used", named()),
        "identity_linked" => ("Identity provider linked", details.provider.clone()),
        "invalid_csrf_token" => ("A request came without the proof that it is from our page", None),
        "device_fingerprint_mismatch" => ("A session was used by what looks like another device", None),
        "suspicious_activity_detected" => ("Something looked suspicious", details.pattern.clone()),
        "rate_limit_exceeded" => ("Too many requests", None),
        "session_organization_switched" => ("Session switched to another organization", None),
        "organization_created" => ("Organization founded", None),
        "organization_invitation_accepted" => ("Invitation accepted", None),
        "user_role_created" => ("Role given", details.role.clone()),
        "user_role_changed" => ("Role changed", details.to.clone()),
        "user_role_removed" => ("Role taken", details.role.clone()),
        "operator_appointed" => ("Made an operator", None),
        "operator_dismissed" => ("No operator any more", None),
        // A word of the audit log that this page does not know yet.
        action => {
            let mut words = action.replace('_', " ");
            if let Some(first) = words.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            return (words, reason);
        }
    };
    (what.to_owned(), more)
}

/// Why a session ended.
fn because(reason: &str) -> String {
    match reason {
        "logged_out" => "You signed out.".into(),
        "session_revoked" => "You signed this device out.".into(),
        "token_replay" => "An old token of it was used again.".into(),
        "password_changed" => "The password was changed.".into(),
        "password_reset" => "The password was reset.".into(),
        "user_disabled" => "The account was deactivated.".into(),
        "membership_removed" => "You left the organization.".into(),
        "max_sessions_per_user" => "You signed in on too many devices.".into(),
        "ended_by_organization" => "An administrator of your organization ended it.".into(),
        reason => format!("Reason: {}", reason.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_yet_is_told_in_its_own_words() {
        let details = EventDetails::of(r#"{"reason": "moon_full"}"#).unwrap();
        let told = describe("werewolf_seen", &details);
        assert_eq!(told, ("Werewolf seen".to_owned(), Some("Reason: moon full".to_owned())));
        assert_eq!(describe("", &EventDetails::default()), (String::new(), None));
        assert_eq!(describe("übel", &EventDetails::default()).0, "übel");
    }

    #[test]
    fn why_a_session_ended_is_said() {
        let details = EventDetails::of(r#"{"reason": "password_changed"}"#).unwrap();
        let (what, more) = describe("session_revoked", &details);
        assert_eq!((what.as_str(), more.as_deref()), ("Session ended", Some("The password was changed.")));
    }
}
