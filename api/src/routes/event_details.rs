//! What a user is told of an event's details: what is listed here, in the form that is listed here, and nothing else.
//! The audit log knows more (marks of tokens, counters of generations, what other people typed), for operators.

use poem_openapi::Object;
use serde_json::{Map, Value};
use uuid::Uuid;

/// More about an event; which of it there is depends on the action.
#[derive(Debug, Default, PartialEq, Object)]
#[oai(rename_all = "camelCase")]
pub struct EventDetails {
    /// Why: `logged_out`, `token_replay`, `password_changed`, …
    #[oai(skip_serializing_if_is_none)]
    pub reason: Option<String>,
    /// How somebody logged in: `password`, `federated`, …
    #[oai(skip_serializing_if_is_none)]
    pub method: Option<String>,
    /// Through which provider.
    #[oai(skip_serializing_if_is_none)]
    pub provider: Option<String>,
    /// How the user proved who they are (RFC 8176).
    #[oai(skip_serializing_if_is_none)]
    pub amr: Option<Vec<String>>,
    /// The sessions that it ended.
    #[oai(skip_serializing_if_is_none)]
    pub sessions: Option<Vec<Uuid>>,
    /// How often it happened so far; of what is not written down each time.
    #[oai(skip_serializing_if_is_none)]
    pub times: Option<i64>,
    /// How many logins failed in a row.
    #[oai(skip_serializing_if_is_none)]
    pub failures: Option<i64>,
    /// Whether logins were locked at that time.
    #[oai(skip_serializing_if_is_none)]
    pub locked: Option<bool>,
    /// Which role was given or taken.
    #[oai(skip_serializing_if_is_none)]
    pub role: Option<String>,
    /// What it was before: a role, or an organization.
    #[oai(skip_serializing_if_is_none)]
    pub from: Option<String>,
    /// What it is now: a role, or an organization.
    #[oai(skip_serializing_if_is_none)]
    pub to: Option<String>,
    /// Which invitation.
    #[oai(skip_serializing_if_is_none)]
    pub invitation_id: Option<Uuid>,
    /// Which personal access token.
    #[oai(skip_serializing_if_is_none)]
    pub token_id: Option<Uuid>,
    /// Which personal access tokens were ended.
    #[oai(skip_serializing_if_is_none)]
    pub token_ids: Option<Vec<Uuid>>,
    /// The name of a personal access token.
    #[oai(skip_serializing_if_is_none)]
    pub name: Option<String>,
    /// Its scopes.
    #[oai(skip_serializing_if_is_none)]
    pub scopes: Option<Vec<String>>,
    /// The confidential client that did it.
    #[oai(skip_serializing_if_is_none)]
    pub client_id: Option<String>,
    /// What looked suspicious.
    #[oai(skip_serializing_if_is_none)]
    pub pattern: Option<String>,
    /// What was done about another device than the session's own.
    #[oai(skip_serializing_if_is_none)]
    pub policy: Option<String>,
}

impl EventDetails {
    /// From the database's JSON; none when there is nothing for users in it. A member of another form than is promised is
    /// left out.
    pub fn of(json: &str) -> Option<Self> {
        let members: Map<String, Value> = serde_json::from_str(json).ok()?;
        let text = |name: &str| members.get(name)?.as_str().map(str::to_owned);
        let number = |name: &str| members.get(name)?.as_i64();
        let id = |name: &str| members.get(name)?.as_str()?.parse().ok();
        let texts = |name: &str| {
            let texts = members.get(name)?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>()
        };
        let ids = |name: &str| texts(name)?.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Uuid>>>();
        let details = Self {
            reason: text("reason"),
            method: text("method"),
            provider: text("provider"),
            amr: texts("amr"),
            sessions: ids("sessions"),
            times: number("times"),
            failures: number("failures"),
            locked: members.get("locked").and_then(Value::as_bool),
            role: text("role"),
            from: text("from"),
            to: text("to"),
            invitation_id: id("invitation_id"),
            token_id: id("token_id"),
            token_ids: ids("token_ids"),
            name: text("name"),
            scopes: texts("scopes"),
            client_id: text("client_id"),
            pattern: text("pattern"),
            policy: text("policy"),
        };
        (details != Self::default()).then_some(details)
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ToJSON;

    use super::*;

    #[test]
    fn only_what_is_listed_gets_out() {
        let json = r#"{"reason": "token_replay", "reused_jti": "00000002-6b00-8682-9a6f-2c1e4e0fa4b9",
                       "presented_generation": 1, "sessions": ["0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162"], "times": 4,
                       "email": "bob@example.org", "locked": false}"#;
        let told = EventDetails::of(json).unwrap().to_json_string();
        assert_eq!(
            told,
            r#"{"locked":false,"reason":"token_replay","sessions":["0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162"],"times":4}"#
        );
    }

    #[test]
    fn another_form_than_promised_is_left_out() {
        let json = r#"{"reason": {"a": 1}, "times": "4", "sessions": ["x"], "amr": [1], "locked": 1, "token_id": 7}"#;
        for json in [json, "{}", "[]", "null", "nonsense", r#"{"reused_jti": "x"}"#] {
            assert_eq!(EventDetails::of(json), None, "{json}");
        }
    }
}
