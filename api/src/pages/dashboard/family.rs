//! The story of one family of sessions: what is known of it, and everything that the log tells, in order.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, Result, handler,
    web::{Data, Path, Query},
};
use uuid::Uuid;

use super::{Asked, Frame, Scope, oversee, sessions::ShownSession};
use crate::{
    app::App,
    db::{HistoryEvent, Page},
    error::{Code, Problem},
    pages::{html, view::When, viewer::Viewer},
};

/// Something that happened, as it is shown.
struct Event {
    at: When,
    title: String,
    tone: &'static str,
    action: String,
    network: Option<String>,
    user_agent: Option<String>,
    by: Option<String>,
    request: Option<String>,
    note: Option<String>,
}

impl Event {
    fn of(event: HistoryEvent, owner: Option<Uuid>, reader: Option<Uuid>) -> Self {
        let by = event.actor_id.map(|actor| match actor {
            actor if Some(actor) == owner => "the user".to_owned(),
            actor if Some(actor) == reader => "you".to_owned(),
            actor => format!("user {actor}"),
        });
        Self {
            at: event.at.into(),
            title: event.summary.unwrap_or_else(|| event.action.replace('_', " ")),
            tone: match event.severity.as_str() {
                "critical" => "bad",
                "warning" => "warning",
                _ => "",
            },
            action: event.action,
            network: event.network,
            user_agent: event.user_agent,
            by,
            request: event.correlation_id,
            note: event.note,
        }
    }
}

#[derive(Template)]
#[template(path = "pages/dashboard/family.html")]
struct Family {
    frame: Frame,
    scope: Scope,
    id: Uuid,
    sessions: Vec<ShownSession>,
    events: Vec<Event>,
    is_live: bool,
}

/// `GET /dashboard/families/ID?organization=`
#[handler]
pub async fn family_page(
    Data(app): Data<&Arc<App>>,
    Path(id): Path<Uuid>,
    Query(asked): Query<Asked>,
    viewer: Viewer,
) -> Result<Response> {
    let overseer = oversee(app, &viewer, asked.organization).await?;
    let mut sessions = overseer.sessions(&id.to_string(), &Page { size: 50, after: None }).await?;
    // An id of a user finds sessions, too.
    sessions.retain(|session| session.family_id == id || session.id == id);
    let mut events = Vec::new();
    for session in &sessions {
        events.extend(overseer.history(session.id).await?);
    }
    if sessions.is_empty() {
        // Cleaned away: the log goes further back. A family has its first session's id.
        events = overseer.history(id).await?;
    }
    events.sort_by_key(|event| event.at);
    let scope = Scope::of(&overseer.done().await?, asked.organization);
    if sessions.is_empty() && events.is_empty() {
        return Err(Problem::from(Code::NotFound).into());
    }
    let owner = sessions.first().map(|session| session.user_id);
    let reader = viewer.frame.user_id;
    let events = events.into_iter().map(|event| Event::of(event, owner, Some(reader))).collect();
    let sessions: Vec<ShownSession> = sessions.into_iter().map(Into::into).collect();
    let is_live = sessions.iter().any(|session| session.is_live);
    Ok(html(&Family { frame: viewer.frame, scope, id, sessions, events, is_live })?)
}
