//! The CSRF token of a page's session.

use std::sync::Arc;

use poem::{FromRequest, Request, RequestBody, web::Data};
use poem_openapi::{Object, OpenApi, types::Example};
use uuid::Uuid;

use super::Tag;
use crate::{
    app::App,
    cookies,
    error::{Code, Fail, Problem, refusals},
    json::Json,
};

/// What to show beside the cookies.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct CsrfTokenResponse {
    /// For the header `x-csrf-token`; good as long as the session.
    csrf_token: String,
}

impl Example for CsrfTokenResponse {
    fn example() -> Self {
        Self { csrf_token: "iqmVbBSJ1hVnSrIJnB4Nh3aYJc0nXcIu1qH3fPVyF9c".into() }
    }
}

/// The session of the cookies that came along, whichever of the two is still there.
struct CookieSession(Option<Uuid>);

impl<'a> FromRequest<'a> for CookieSession {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let app = request.data::<Arc<App>>().ok_or_else(|| Problem::from(Code::InternalError))?;
        let by_access = || Some(app.access_tokens.verify(cookies::read(request, cookies::ACCESS)?)?.sid);
        let by_refresh = || {
            let (token, _) = cookies::read_refresh(request, app.adopted_tokens.as_ref())?;
            Some(app.read_refresh_token(&app.token_keys(), token)?.csrf_subject())
        };
        Ok(Self(by_access().or_else(by_refresh)))
    }
}

refusals!(CsrfTokenRefusals: [Code::AuthenticationRequired]);

/// The CSRF token of a page's session.
pub struct CsrfTokenApi;

#[OpenApi(tag = "Tag::Sessions")]
impl CsrfTokenApi {
    /// Get the CSRF token
    ///
    /// For pages whose session is in cookies: every request but GET shows it in the header `x-csrf-token`. It is the
    /// session's, not the tab's, and stays the same as long as the session lives. A page of another site cannot read it.
    #[oai(path = "/api/auth/csrf-token", method = "get", operation_id = "getCsrfToken")]
    async fn csrf_token(
        &self,
        app: Data<&Arc<App>>,
        session: CookieSession,
    ) -> Result<Json<CsrfTokenResponse>, Fail<CsrfTokenRefusals>> {
        let session_id = session.0.ok_or(Code::AuthenticationRequired)?;
        Ok(Json(CsrfTokenResponse { csrf_token: cookies::csrf_token(&app.token_keys(), session_id) }))
    }
}
