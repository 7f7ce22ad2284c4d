//! The dashboard: for owners and administrators their active organization, for operators everything, or one organization
//! (`?organization=ID`). How far somebody sees is the database's answer (`sql/oversight.sql`); who sees nothing is refused.
//!
//! Each page reads in one transaction in the name of its reader. What it ends, it ends by operations of the API.

pub mod chart;
mod family;
mod incidents;
pub mod live;
mod overview;
mod sessions;

use std::sync::Arc;

use poem::{Route, get};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    view::When,
    viewer::{Frame, Viewer},
};
use crate::{
    app::App,
    db::{Extent, Incident, Lockout, Overseer, Oversight},
    error::{Code, Problem},
};

/// The routes of the dashboard.
pub fn routes(route: Route) -> Route {
    route
        .at("/dashboard", get(overview::overview_page))
        .at("/dashboard/now", get(overview::now_part))
        .at("/dashboard/sessions", get(sessions::sessions_page))
        .at("/dashboard/incidents", get(incidents::incidents_page))
        .at("/dashboard/families/:id", get(family::family_page))
        .at("/dashboard/events", get(live::events))
}

/// The names of its pages.
pub fn operation(path: &str) -> Option<&'static str> {
    Some(match path {
        "/dashboard" => "dashboardPage",
        "/dashboard/now" => "dashboardNow",
        "/dashboard/sessions" => "overseenSessionsPage",
        "/dashboard/incidents" => "incidentsPage",
        "/dashboard/events" => "dashboardEvents",
        path if path.starts_with("/dashboard/families/") => "familyPage",
        _ => return None,
    })
}

/// What every page of the dashboard may be asked for.
#[derive(Deserialize)]
pub struct Asked {
    /// For operators: one organization.
    organization: Option<Uuid>,
}

/// Begins to read for a viewer who oversees something.
async fn oversee(app: &Arc<App>, viewer: &Viewer, organization: Option<Uuid>) -> Result<Overseer, Problem> {
    app.db.oversee(viewer.session()?, organization).await?.ok_or(Code::InsufficientRole.into())
}

/// What every page of the dashboard shows around its content.
struct Scope {
    /// What is overseen.
    title: String,
    /// And how far.
    hint: &'static str,
    /// Whether it is everything.
    is_all: bool,
    /// Whether there is the way back to everything.
    is_part_of_all: bool,
    /// The organization of a query, where one was asked for.
    organization: Option<Uuid>,
}

impl Scope {
    fn of(oversight: &Oversight, asked: Option<Uuid>) -> Self {
        let title = match &oversight.organization {
            Some((_, _, name)) => name.clone(),
            None => "All organizations".to_owned(),
        };
        let hint = match (oversight.extent, oversight.is_operator) {
            (Extent::All, _) => "You are an operator: you see everybody.",
            (Extent::Organization, true) => "You are an operator, and look at one organization.",
            (Extent::Organization, false) => "What acts for your organization.",
            (Extent::Members, _) => "Of your organization, the members whom you manage, and yourself.",
        };
        Self {
            title,
            hint,
            is_all: oversight.extent == Extent::All,
            is_part_of_all: oversight.is_operator && oversight.organization.is_some(),
            organization: asked,
        }
    }

    /// A path of the dashboard, with the organization that is looked at.
    fn path(&self, path: &str) -> String {
        match self.organization {
            Some(id) => format!("{path}?organization={id}"),
            None => path.to_owned(),
        }
    }

    /// The path of a family's story.
    fn family(&self, id: &Uuid) -> String {
        self.path(&format!("/dashboard/families/{id}"))
    }
}

/// A replay, as it is shown.
struct ShownIncident {
    id: i64,
    at: When,
    family: Option<Uuid>,
    who: String,
    organization: Option<String>,
    shown: String,
    from: String,
    used_from: Option<String>,
    by: Option<String>,
    device: String,
}

impl From<Incident> for ShownIncident {
    fn from(incident: Incident) -> Self {
        let shown = match (incident.presented_generation, incident.current_generation) {
            (Some(presented), Some(current)) if presented == current => {
                format!("a forged token of generation {presented}, the current one")
            }
            (Some(presented), Some(current)) => {
                let distance = current.saturating_sub(presented);
                let behind =
                    if distance == 1 { "one generation".to_owned() } else { format!("{distance} generations") };
                format!("token {presented}, {behind} behind token {current}")
            }
            _ => "an old token".to_owned(),
        };
        Self {
            id: incident.id,
            at: incident.detected_at.into(),
            family: incident.family_id,
            who: person(incident.name, incident.email),
            organization: incident.organization_slug,
            shown,
            from: incident.presented_from.unwrap_or_else(|| "an unknown network".into()),
            used_from: incident.last_used_from,
            by: incident.presented_by,
            device: incident.device_name.unwrap_or_else(|| "Unknown device".into()),
        }
    }
}

/// A lock-out, as it is shown.
struct ShownLockout {
    at: When,
    until: When,
    who: String,
    failures: i32,
    is_locked: bool,
    network: Option<String>,
}

impl From<Lockout> for ShownLockout {
    fn from(lockout: Lockout) -> Self {
        let nobody = lockout.email.is_none();
        Self {
            at: lockout.locked_at.into(),
            until: lockout.locked_until.into(),
            who: if nobody { "An address without an account".into() } else { person(lockout.name, lockout.email) },
            failures: lockout.failures.unwrap_or_default(),
            is_locked: lockout.is_locked,
            network: lockout.network,
        }
    }
}

/// Name and address of somebody who may have been deleted.
fn person(name: Option<String>, email: Option<String>) -> String {
    match (name, email) {
        (Some(name), Some(email)) => format!("{name} <{email}>"),
        (None, Some(email)) => email,
        _ => "A deleted account".into(),
    }
}
