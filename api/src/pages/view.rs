//! How pages write times and addresses.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

/// A time, in UTC; `assets/pages.js` writes it anew in the reader's own time zone.
pub struct When(DateTime<Utc>);

impl From<DateTime<Utc>> for When {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl When {
    /// For `<time datetime=…>`.
    pub fn iso(&self) -> String {
        self.0.to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} UTC", self.0.format("%-d %b %Y, %H:%M"))
    }
}

/// A path as a value in a query.
pub fn path_in_query(path: &str) -> String {
    url::form_urlencoded::byte_serialize(path.as_bytes()).collect()
}
