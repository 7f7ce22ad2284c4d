//! `/metrics`, for Prometheus: no operation of the API, and not in its document.

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, Response, Route, get, handler, http::header, middleware::CatchPanic, web::Data};

use crate::{
    app::App,
    metrics::{OPENMETRICS, metrics},
};

/// Where they are.
pub const PATH: &str = "/metrics";

/// All metrics of this process and its database, in the text format of OpenMetrics.
#[handler]
pub async fn serve(Data(app): Data<&Arc<App>>) -> poem::Result<Response> {
    let text = metrics().render(app).await?;
    Ok(Response::builder().content_type(OPENMETRICS).header(header::CACHE_CONTROL, "no-store").body(text))
}

/// A listener's of their own: nothing else is there.
pub fn endpoint(app: Arc<App>) -> impl Endpoint<Output = Response> {
    Route::new().at(PATH, get(serve)).data(app).with(CatchPanic::new()).map_to_response()
}
