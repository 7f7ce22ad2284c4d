//! The account: what its user sees, and ends.

use std::sync::Arc;

use askama::Template;
use poem::{Response, Result, handler, web::Data};
use uuid::Uuid;

use super::{
    html,
    view::When,
    viewer::{Frame, Viewer},
};
use crate::{app::App, db::ListedSession};

struct Device {
    id: Uuid,
    name: String,
    network: Option<String>,
    signed_in: When,
    last_used: When,
    ends: When,
    is_current: bool,
}

impl From<ListedSession> for Device {
    fn from(session: ListedSession) -> Self {
        Self {
            id: session.id,
            name: session.device_name.unwrap_or_else(|| "Unknown device".into()),
            network: session.network,
            signed_in: session.created_at.into(),
            last_used: session.last_used_at.into(),
            ends: session.expires_at.into(),
            is_current: session.is_current,
        }
    }
}

#[derive(Template)]
#[template(path = "pages/devices.html")]
struct Devices {
    frame: Frame,
    devices: Vec<Device>,
}

/// `GET /account`: where one is signed in.
#[handler]
pub async fn devices_page(Data(app): Data<&Arc<App>>, viewer: Viewer) -> Result<Response> {
    let sessions = app.db.list_sessions(&viewer.credential, &viewer.caller).await?;
    let devices = sessions.into_iter().map(Device::from).collect();
    Ok(html(&Devices { frame: viewer.frame, devices })?)
}
