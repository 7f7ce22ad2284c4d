//! Replays, the newest first; each opens into the story of its family.

use std::sync::Arc;

use askama::Template;
use chrono::{DateTime, Utc};
use poem::{
    Response, Result, handler,
    web::{Data, Query},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{Frame, Scope, ShownIncident, oversee};
use crate::{
    app::App,
    error::{Code, Problem},
    pages::{html, viewer::Viewer},
};

const PAGE: i32 = 50;

#[derive(Deserialize)]
struct Asked {
    organization: Option<Uuid>,
    /// Time (microseconds) and id of the last of the page before.
    after: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/dashboard/incidents.html")]
struct Incidents {
    frame: Frame,
    scope: Scope,
    incidents: Vec<ShownIncident>,
    more: Option<String>,
}

/// `GET /dashboard/incidents?organization=&after=`
#[handler]
pub async fn incidents_page(
    Data(app): Data<&Arc<App>>,
    Query(asked): Query<Asked>,
    viewer: Viewer,
) -> Result<Response> {
    let after =
        match asked.after.as_deref() {
            None => None,
            Some(after) => Some(parse(after).ok_or_else(|| {
                Problem::with_detail(Code::BadRequest, "after must be what this page's own link says.")
            })?),
        };
    let overseer = oversee(app, &viewer, asked.organization).await?;
    let incidents = overseer.incidents(PAGE, after).await?;
    let scope = Scope::of(&overseer.done().await?, asked.organization);
    let more = incidents.last().filter(|_| incidents.len() == PAGE as usize).map(|last| {
        let path = scope.path("/dashboard/incidents");
        let and = if path.contains('?') { "&" } else { "?" };
        format!("{path}{and}after={}-{}", last.detected_at.timestamp_micros(), last.id)
    });
    let incidents = incidents.into_iter().map(Into::into).collect();
    Ok(html(&Incidents { frame: viewer.frame, scope, incidents, more })?)
}

fn parse(after: &str) -> Option<(DateTime<Utc>, i64)> {
    let (micros, id) = after.split_once('-')?;
    // Years that PostgreSQL has, too.
    let micros = micros.parse().ok().filter(|micros| (0..=253_402_300_799_999_999).contains(micros))?;
    Some((DateTime::from_timestamp_micros(micros)?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_place_in_the_list_is_refused() {
        assert_eq!(parse("1000000-7"), Some((DateTime::from_timestamp(1, 0).unwrap(), 7)));
        for after in ["", "-", "1", "1-", "-1-7", "x-1", "1-x", "9223372036854775807-1", "1-9223372036854775808"] {
            assert_eq!(parse(after), None, "{after}");
        }
    }
}
