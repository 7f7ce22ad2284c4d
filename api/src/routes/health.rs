//! Whether the service is alive, and whether it can work.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, types::Example};

use super::Tag;
use crate::{
    app::App,
    error::{Code, DATABASE, Fail, Problem, refusals},
    json::Json,
    upkeep::{NotRight, check_database},
};

#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum Health {
    Ok,
}

/// All is well.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct HealthResponse {
    status: Health,
    /// The version of the service. While nodes are upgraded, it may work with an extension of another one.
    version: String,
}

impl HealthResponse {
    fn ok() -> Self {
        Self { status: Health::Ok, version: env!("CARGO_PKG_VERSION").into() }
    }
}

impl Example for HealthResponse {
    fn example() -> Self {
        Self::ok()
    }
}

refusals!(LiveRefusals: []);
refusals!(ReadyRefusals: DATABASE, [Code::NotReady]);

/// Health.
pub struct HealthApi;

#[OpenApi(tag = "Tag::Service")]
impl HealthApi {
    /// Is the process alive
    ///
    /// Asks nothing of the database: restarting this process would not mend that.
    #[oai(path = "/health/live", method = "get", operation_id = "getLiveness")]
    async fn live(&self) -> Result<Json<HealthResponse>, Fail<LiveRefusals>> {
        Ok(Json(HealthResponse::ok()))
    }

    /// Can it work
    ///
    /// 503 while the database is not right: away, without the extension, or with a version of it that does not understand
    /// all that this service asks.
    #[oai(path = "/health/ready", method = "get", operation_id = "getReadiness")]
    async fn ready(&self, app: Data<&Arc<App>>) -> Result<Json<HealthResponse>, Fail<ReadyRefusals>> {
        match check_database(&app).await {
            Ok(()) => Ok(Json(HealthResponse::ok())),
            Err(NotRight::Unavailable(problem)) => Err(problem.into()),
            // What exactly is for the operator, in the log; the world learns no versions or key ids.
            Err(NotRight::Wrong(why) | NotRight::Hopeless(why)) => {
                tracing::warn!("not ready: {why}");
                Err(Problem::from(Code::NotReady).into())
            }
        }
    }
}
