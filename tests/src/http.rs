//! A client of the service.

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::tokens::Secret;

/// The password of everybody who signs up with [`Api::signup`].
pub const PASSWORD: &str = "correct horse battery staple";

/// A client with its own connections.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// What signup, login and refresh answer.
#[derive(Clone, Debug)]
pub struct Session {
    /// The JWT.
    pub access_token: String,
    /// The `asr_…` token.
    pub refresh_token: String,
    /// The whole body.
    pub body: Value,
}

/// A confidential client.
#[derive(Clone, Debug)]
pub struct Client {
    /// The `client_id`.
    pub id: String,
    /// The `client_secret`.
    pub secret: String,
}

impl Client {
    /// Registers one in SQL, as the command does.
    pub async fn register(operator: &tokio_postgres::Client, name: &str) -> Self {
        let secret = format!("asc_{}", crate::server::key(&crate::tokens::random_bytes(32)));
        let verifier = Secret(secret.clone().into_bytes()).verifier();
        let row = operator.query_one("select auth.register_client($1, $2)", &[&name, &verifier]).await;
        Self { id: row.expect("register_client").get(0), secret }
    }
}

impl Answer {
    /// Itself, when the status is this one; panics with the body otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {} {}", self.status, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Itself, when it is a well-formed problem+json with this status and this code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.problem_code().as_str()), (status, code), "{}", self.text());
        self
    }

    /// The `code` of a problem+json, whose form is checked.
    #[track_caller]
    pub fn problem_code(&self) -> String {
        let said = format!("{} {}", self.status, self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{said}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{said}");
        assert_eq!(problem["requestId"].as_str(), self.header("x-request-id"), "{said}");
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].is_string(), "no {member}: {said}");
        }
        problem["code"].as_str().expect("checked").to_owned()
    }

    /// The session that this answer grants.
    #[track_caller]
    pub fn session(&self) -> Session {
        let body = self.json();
        let field = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned();
        Session { access_token: field("accessToken"), refresh_token: field("refreshToken"), body: body.clone() }
    }
}

impl Session {
    /// The id of the user.
    pub fn user_id(&self) -> uuid::Uuid {
        self.body["user"]["id"].as_str().and_then(|id| id.parse().ok()).expect("user.id")
    }
}

impl Api {
    /// A client of the service at that URL.
    pub fn new(base: &str) -> Self {
        Self::with_timeout(base, std::time::Duration::from_secs(120))
    }

    /// The same, that gives up on an answer after so long.
    pub fn with_timeout(base: &str, timeout: std::time::Duration) -> Self {
        let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(timeout);
        Self { http: builder.build().expect("a client"), base: base.to_owned() }
    }

    /// A request still to be completed.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends it; panics when there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// Sends it and reads the whole answer.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    /// GET, with a bearer token unless it is empty.
    pub async fn get(&self, path: &str, bearer: &str) -> Answer {
        self.send(with_bearer(self.request(Method::GET, path), bearer)).await
    }

    /// DELETE, with a bearer token unless it is empty.
    pub async fn delete(&self, path: &str, bearer: &str) -> Answer {
        self.send(with_bearer(self.request(Method::DELETE, path), bearer)).await
    }

    /// POST of a JSON body, with a bearer token unless it is empty.
    pub async fn post(&self, path: &str, body: &Value, bearer: &str) -> Answer {
        self.send(with_bearer(self.request(Method::POST, path).json(body), bearer)).await
    }

    /// POST of a form, by a confidential client (id and secret, by HTTP Basic) when there is one.
    pub async fn form(&self, path: &str, form: &[(&str, &str)], client: Option<&Client>) -> Answer {
        let request = self.request(Method::POST, path).form(form);
        self.send(match client {
            Some(client) => request.basic_auth(&client.id, Some(&client.secret)),
            None => request,
        })
        .await
    }

    /// Signs up with [`PASSWORD`]; panics unless it worked.
    pub async fn signup(&self, email: &str) -> Session {
        let body = json!({"email": email, "password": PASSWORD, "name": "Ada Lovelace"});
        self.post("/api/auth/signup", &body, "").await.expect(201).session()
    }

    /// Logs in.
    pub async fn login(&self, email: &str, password: &str) -> Answer {
        self.post("/api/auth/login", &json!({"email": email, "password": password}), "").await
    }

    /// Presents a refresh token.
    pub async fn refresh(&self, refresh_token: &str) -> Answer {
        self.post("/api/auth/refresh", &json!({"refreshToken": refresh_token}), "").await
    }
}

fn with_bearer(request: RequestBuilder, bearer: &str) -> RequestBuilder {
    if bearer.is_empty() { request } else { request.bearer_auth(bearer) }
}
