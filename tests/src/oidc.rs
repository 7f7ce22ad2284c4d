//! A real OpenID provider on loopback (`tests/oidc`), and a browser that goes there and back.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Answer, TestDb};

/// The callback that the provider knows. Nobody listens there: [`Browser`] takes the answer to the service itself.
pub const CALLBACK: &str = "http://127.0.0.1:9/api/auth/oidc/callback";

/// A running provider. Ends when dropped.
pub struct OidcProvider {
    child: Child,
    issuer: String,
    http: reqwest::Client,
}

/// Somebody with an address that the provider has verified.
pub fn person(subject: &str, email: &str) -> Value {
    json!({"sub": subject, "email": email, "email_verified": true, "name": "Ada Lovelace"})
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

impl OidcProvider {
    /// Starts one; the first of a clone installs it.
    pub async fn start() -> Self {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/oidc/run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tests/oidc/run");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
        let listening = tokio::time::timeout(Duration::from_secs(120), lines.next_line()).await;
        let Ok(Ok(Some(line))) = listening else {
            let _ = child.kill().await;
            let mut complaints = String::new();
            while let Ok(Some(line)) = said.next_line().await {
                complaints += &(line + "\n");
            }
            panic!("tests/oidc/run did not listen ({listening:?}); it said:\n{complaints}");
        };
        // Somebody has to read what it says from now on, or it waits.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let issuer = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected: {line}")).to_owned();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, issuer, http }
    }

    /// Its name in tokens, and its URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The service's settings for logins through it, in the given database and with more of them.
    pub fn settings<'a>(&'a self, database_url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut settings = vec![
            ("GOOGLE_CLIENT_ID", "service, native-app"),
            ("OIDC_ISSUER", self.issuer()),
            ("FEDERATION_DATABASE_URL", database_url),
            ("OIDC_REDIRECT_URL", CALLBACK),
            ("OIDC_CLIENT_SECRET", "the secret of service"),
            ("OIDC_POST_LOGIN_URL", "/welcome"),
        ];
        settings.extend(more);
        settings
    }

    /// What an ID token of that person for the service says now.
    pub fn claims(&self, person: &Value) -> Value {
        let mut claims = json!({"iss": self.issuer, "aud": "service", "iat": now(), "exp": now() + 600});
        for (name, value) in person.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        claims
    }

    /// A JWT with these claims, signed with the provider's own key of the header's `alg`.
    pub async fn sign(&self, header: Value, payload: &Value) -> String {
        self.signed(json!({"header": header, "payload": payload})).await
    }

    /// The same, signed with another key under the name of the provider's.
    pub async fn sign_as_somebody_else(&self, header: Value, payload: &Value) -> String {
        self.signed(json!({"header": header, "payload": payload, "foreign": true})).await
    }

    /// An ID token as it should be, of a person; always another one.
    pub async fn token(&self, person: &Value) -> String {
        let mut claims = self.claims(person);
        claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
        self.sign(json!({"alg": "RS256"}), &claims).await
    }

    async fn signed(&self, what: Value) -> String {
        let signed = self.post("/test/sign", &what).await;
        signed["token"].as_str().expect("a token").to_owned()
    }

    /// New keys under new names, at once.
    pub async fn rotate(&self) {
        self.post("/test/rotate", &json!({})).await;
    }

    /// How `/jwks` and `/token` are answered from now on.
    pub async fn behave(&self, how: Value) {
        self.post("/test/behave", &how).await;
    }

    /// How often a path was asked for so far.
    pub async fn asked(&self, path: &str) -> u64 {
        let answer = self.http.get(format!("{}/test/asked", self.issuer)).send().await.expect("the provider");
        answer.json::<Value>().await.expect("JSON")[path].as_u64().unwrap_or(0)
    }

    /// Ends it, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("kill");
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.http.post(format!("{}{path}", self.issuer)).json(body).send().await.expect("the provider");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }
}

/// The URL of the login that opens federated sessions.
pub fn federation_url(db: &TestDb) -> String {
    db.url("auth_federation_service")
}

/// The parts of a JWT, decoded: header and claims.
pub fn parts(token: &str) -> (Value, Value) {
    let part = |n| {
        let text = token.split('.').nth(n).expect("a part");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
    };
    (part(0), part(1))
}

/// A browser: it keeps cookies, site by site, and goes where it is sent when told to.
pub struct Browser {
    http: reqwest::Client,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for Browser {
    fn default() -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        Self { http: http.expect("a client"), cookies: BTreeMap::new() }
    }
}

impl Browser {
    /// Opens a page, and goes nowhere else.
    pub async fn get(&mut self, url: &str) -> Answer {
        let site = site(url);
        let jar = self.cookies.entry(site).or_default();
        let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = self.http.get(url);
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        for set in response.headers().get_all(SET_COOKIE) {
            let set = set.to_str().expect("a cookie").to_owned();
            let (name, value) = set.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            let lower = set.to_lowercase();
            if lower.contains("max-age=0") || lower.contains("expires=thu, 01 jan 1970") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.expect("a body").to_vec() }
    }

    /// A cookie of a site, by its name.
    pub fn cookie(&self, url: &str, name: &str) -> Option<&str> {
        self.cookies.get(&site(url))?.get(name).map(String::as_str)
    }

    /// Puts a cookie there; none: takes it away.
    pub fn set_cookie(&mut self, url: &str, name: &str, value: Option<&str>) {
        let jar = self.cookies.entry(site(url)).or_default();
        match value {
            Some(value) => jar.insert(name.to_owned(), value.to_owned()),
            None => jar.remove(name),
        };
    }

    /// Begins a web login at the service and goes through the provider as that person; returns the URL at the service
    /// that the provider sends the browser to, which has not been opened yet.
    pub async fn go_to_provider(&mut self, service: &str, start: &str, person: &Value) -> String {
        let started = self.get(&format!("{service}{start}")).await.expect(303);
        let hint = match person.as_str() {
            Some(word) => word.to_owned(),
            None => person.to_string(),
        };
        let hint: String = hint.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut next = format!("{}&login_hint={hint}", location(&started));
        for _ in 0..6 {
            let answer = self.get(&next).await.expect(303);
            let there = location(&answer);
            if let Some(answered) = there.strip_prefix("http://127.0.0.1:9") {
                return format!("{service}{answered}");
            }
            next = if there.starts_with('/') { format!("http://{}{there}", site(&next)) } else { there };
        }
        panic!("the provider sends the browser round in circles");
    }
}

/// Where an answer sends the browser.
#[track_caller]
pub fn location(answer: &Answer) -> String {
    answer.header(LOCATION.as_str()).unwrap_or_else(|| panic!("goes nowhere: {}", answer.text())).to_owned()
}

fn site(url: &str) -> String {
    url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an http URL").to_owned()
}
