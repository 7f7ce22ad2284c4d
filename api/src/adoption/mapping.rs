//! The mapping file: which column of the old tables is what. `sql/adopt/examples/` has three, with every key explained.
//!
//! Here it is read and made JSON; whether its tables and columns exist, and can be read as what they are named for, the
//! database checks (`sql/adopt/mapping.sql`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The whole file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Users>,
    sessions: Sessions,
}

/// `[users]`. Left out when the users are in auth.users already, under the ids that the old sessions name.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Users {
    /// With its schema; it may be a view. It stays where it is.
    table: String,
    #[serde(default = "utc")]
    time_zone: String,
    id: String,
    email: String,
    name: Option<String>,
    password_hash: Option<String>,
    email_verified: Option<String>,
    disabled: Option<String>,
    active: Option<String>,
    created_at: Option<String>,
}

/// `[sessions]`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sessions {
    /// With its schema. It is moved aside.
    table: String,
    #[serde(default = "utc")]
    time_zone: String,
    /// Columns that the view under the old name shows as null, like the token.
    #[serde(default)]
    hide: Vec<String>,
    /// How the old system's users had proved who they are (RFC 8176).
    #[serde(default = "password")]
    amr: Vec<String>,
    token_format: TokenFormat,
    id: String,
    user_id: String,
    token: String,
    family_id: Option<String>,
    rotated_from: Option<String>,
    replaced_by: Option<String>,
    user_agent: Option<String>,
    device_name: Option<String>,
    ip: Option<String>,
    created_at: Option<String>,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    absolute_expires_at: Option<String>,
    revoked: Option<String>,
}

/// What the old system kept of a refresh token, in the words of `ADOPTED_TOKEN_FORMAT`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum TokenFormat {
    Plain,
    Sha256Hex,
    HmacSha256,
}

fn utc() -> String {
    "UTC".into()
}

fn password() -> Vec<String> {
    vec!["pwd".into()]
}

/// Keys that are not the name of a column.
const OPTIONS: [&str; 5] = ["table", "time_zone", "hide", "amr", "token_format"];

impl Mapping {
    /// Reads the file; an error is a sentence for the operator.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}.", file.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", file.display()))
    }

    /// Reads its text; an error is a sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mapping: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if mapping.sessions.rotated_from.is_some() && mapping.sessions.replaced_by.is_some() {
            return Err("name rotated_from (the row before) or replaced_by (the row after), not both.".into());
        }
        Ok(mapping)
    }

    /// Whether there are password hashes to take over, for which the pepper is needed.
    pub fn has_passwords(&self) -> bool {
        self.users.as_ref().is_some_and(|users| users.password_hash.is_some())
    }

    /// For the database: the options of each section, and `columns`: role to column.
    pub fn to_json(&self) -> Value {
        let sections = match json!(self) {
            Value::Object(sections) => sections,
            _ => Map::new(),
        };
        let section = |(name, keys): (String, Value)| {
            let keys = keys.as_object().cloned().unwrap_or_default();
            let named = keys.into_iter().filter(|(_, value)| !value.is_null());
            let (mut options, columns): (Map<_, _>, Map<_, _>) =
                named.partition(|(key, _)| OPTIONS.contains(&key.as_str()));
            options.insert("columns".into(), columns.into());
            (name, Value::Object(options))
        };
        sections.into_iter().map(section).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_columns_are_told_apart() {
        let mapping = Mapping::parse(
            "[sessions]\ntable = 'public.t'\nid = 'id'\nuser_id = 'u'\ntoken = 'h'\ntoken_format = 'sha256-hex'\nrevoked = 'gone'\n",
        );
        let expected = json!({"sessions": {
            "table": "public.t", "time_zone": "UTC", "hide": [], "amr": ["pwd"], "token_format": "sha256-hex",
            "columns": {"id": "id", "user_id": "u", "token": "h", "revoked": "gone"},
        }});
        let mapping = mapping.unwrap();
        assert_eq!(mapping.to_json(), expected);
        assert!(!mapping.has_passwords());
    }

    #[test]
    fn a_misspelt_key_and_a_contradiction_are_refused() {
        let good = "[sessions]\ntable = 't'\nid = 'id'\nuser_id = 'u'\ntoken = 'h'\ntoken_format = 'plain'\n";
        assert!(Mapping::parse(good).is_ok());
        for (more, told) in [
            ("expire_at = 'x'\n", "expire_at"),
            ("rotated_from = 'a'\nreplaced_by = 'b'\n", "not both"),
            ("[users]\ntable = 'u'\nid = 'id'\n", "email"),
            ("token_format = 'md5'\n", "token_format"),
        ] {
            let why = Mapping::parse(&format!("{good}{more}")).err().unwrap();
            assert!(why.contains(told), "{more}: {why}");
        }
        let unknown_format = good.replace("plain", "md5");
        assert!(Mapping::parse(&unknown_format).err().unwrap().contains("sha256-hex"));
    }

    #[test]
    fn the_worked_examples_can_be_read() {
        for text in [
            include_str!("../../../sql/adopt/examples/auth_sessions.toml"),
            include_str!("../../../sql/adopt/examples/refresh_tokens.toml"),
            include_str!("../../../sql/adopt/examples/sessions.toml"),
        ] {
            assert!(Mapping::parse(text).unwrap().has_passwords());
        }
    }
}
