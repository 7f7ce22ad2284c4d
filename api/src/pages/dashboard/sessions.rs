//! Sessions: the newest that live, or whatever a search finds.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, Result, handler,
    web::{Data, Query},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{Frame, Scope, oversee};
use crate::{
    app::App,
    db::OverseenSession,
    error::{Code, Problem},
    pages::{
        html,
        view::{When, path_in_query},
        viewer::Viewer,
    },
    routes::paging,
};

/// What the database refuses more of.
const LONGEST_SEARCH: usize = 254;

#[derive(Deserialize)]
struct Asked {
    organization: Option<Uuid>,
    #[serde(default)]
    q: String,
    cursor: Option<String>,
}

/// A session, as it is shown.
pub struct ShownSession {
    /// Its family: where its story is.
    pub family: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// Their name, which may be any text.
    pub name: String,
    /// Their e-mail.
    pub email: String,
    /// What it acts for.
    pub organization: Option<(Uuid, String)>,
    /// For people.
    pub device: String,
    /// As its client says: any text.
    pub user_agent: Option<String>,
    /// Its network.
    pub network: Option<String>,
    /// When it was opened.
    pub opened: When,
    /// When it was last used.
    pub used: When,
    /// When it ends.
    pub ends: When,
    /// How often it was refreshed.
    pub generation: i32,
    /// In a word.
    pub state: &'static str,
    /// The colour of that word.
    pub tone: &'static str,
    /// Whether it can be ended.
    pub is_live: bool,
    /// Why it was revoked, and when.
    pub revoked: Option<(When, String)>,
    /// Whether it is the reader's own.
    pub is_current: bool,
}

impl From<OverseenSession> for ShownSession {
    fn from(session: OverseenSession) -> Self {
        let (state, tone) = match (session.is_live, session.is_replayed, session.revoked.is_some()) {
            (true, ..) => ("live", "good"),
            (_, true, _) => ("replayed", "bad"),
            (_, _, true) => ("revoked", "warning"),
            _ => ("expired", ""),
        };
        Self {
            family: session.family_id,
            user_id: session.user_id,
            name: session.name,
            email: session.email,
            organization: session.organization,
            device: session.device_name.unwrap_or_else(|| "Unknown device".into()),
            user_agent: session.user_agent,
            network: session.network,
            opened: session.created_at.into(),
            used: session.last_used_at.into(),
            ends: session.ends_at.into(),
            generation: session.generation,
            state,
            tone,
            is_live: session.is_live,
            revoked: session.revoked.map(|(at, reason)| (at.into(), reason.replace('_', " "))),
            is_current: session.is_current,
        }
    }
}

#[derive(Template)]
#[template(path = "pages/dashboard/sessions.html")]
struct Sessions {
    frame: Frame,
    scope: Scope,
    search: String,
    sessions: Vec<ShownSession>,
    /// The next page.
    more: Option<String>,
}

/// `GET /dashboard/sessions?organization=&q=&cursor=`
#[handler]
pub async fn sessions_page(Data(app): Data<&Arc<App>>, Query(asked): Query<Asked>, viewer: Viewer) -> Result<Response> {
    if asked.q.chars().count() > LONGEST_SEARCH || asked.q.contains('\0') {
        let detail = "A search has at most 254 characters.";
        return Err(Problem::with_detail(Code::BadRequest, detail).into());
    }
    let page = paging::page(paging::DEFAULT_SIZE, asked.cursor.as_deref())?;
    let overseer = oversee(app, &viewer, asked.organization).await?;
    let sessions = overseer.sessions(&asked.q, &page).await?;
    let scope = Scope::of(&overseer.done().await?, asked.organization);
    let next = paging::next_cursor(&page, &sessions, |session| (session.created_at, session.id));
    let more = next.map(|cursor| {
        let path = scope.path("/dashboard/sessions");
        let and = if path.contains('?') { "&" } else { "?" };
        format!("{path}{and}q={}&cursor={cursor}", path_in_query(&asked.q))
    });
    let sessions = sessions.into_iter().map(Into::into).collect();
    Ok(html(&Sessions { frame: viewer.frame, scope, search: asked.q, sessions, more })?)
}
