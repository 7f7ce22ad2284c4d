//! What the service keeps and sends, for tests that speak SQL: secrets, proofs, verifiers, and sessions opened and
//! rotated as the service would do it. The key of the derivation is the tests' own; the database cannot tell.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use crate::sql::value;

/// `count` random bytes.
pub fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// The secret of a refresh token: 32 random bytes that only its holder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(random_bytes(32))
    }

    /// What the holder shows.
    pub fn proof(&self) -> Vec<u8> {
        sha256(&self.0)
    }

    /// What the database keeps.
    pub fn verifier(&self) -> Vec<u8> {
        sha256(&self.proof())
    }
}

/// A refresh token as its holder has it, before it is put on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The session, which is its own family too.
    pub session_id: Uuid,
    /// 0 at login.
    pub generation: i32,
    /// The database's own mark on this generation.
    pub ticket: Vec<u8>,
    /// What proves the holder.
    pub secret: Secret,
}

impl Token {
    /// The secret that follows this one under a nonce: always the same for the same nonce.
    pub fn successor_secret(&self, rotation_nonce: &[u8], generation: i32) -> Secret {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"the tests' derive key").expect("any length will do");
        mac.update(&self.secret.0);
        mac.update(rotation_nonce);
        mac.update(self.session_id.as_bytes());
        mac.update(&generation.to_be_bytes());
        Secret(mac.finalize().into_bytes().to_vec())
    }
}

/// `auth.session_outcome`, but for `retry_after`, which is in seconds.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the columns, under their names
pub struct Outcome {
    pub outcome: String,
    pub session_id: Option<Uuid>,
    pub family_id: Option<Uuid>,
    pub user_id: Option<Uuid>,
    pub organization_id: Option<Uuid>,
    pub generation: Option<i32>,
    pub ticket: Option<Vec<u8>>,
    pub rotation_nonce: Option<Vec<u8>>,
    pub jti: Option<Uuid>,
    pub issued_at: Option<SystemTime>,
    pub auth_time: Option<SystemTime>,
    pub amr: Option<Vec<String>>,
    pub idle_expires_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub retry_after: Option<f64>,
    /// The refresh token that came of it, when one did.
    pub token: Option<Token>,
}

/// The columns of `auth.session_outcome` as [`Outcome`] reads them.
pub const OUTCOME_COLUMNS: &str = "outcome, session_id, family_id, user_id, organization_id, generation, ticket, \
     rotation_nonce, jti, issued_at, auth_time, amr, idle_expires_at, expires_at, \
     extract(epoch from retry_after)::float8 as retry_after";

impl Outcome {
    /// Reads the row of a query of [`OUTCOME_COLUMNS`].
    pub fn from_row(row: &Row) -> Self {
        Self {
            outcome: row.get("outcome"),
            session_id: row.get("session_id"),
            family_id: row.get("family_id"),
            user_id: row.get("user_id"),
            organization_id: row.get("organization_id"),
            generation: row.get("generation"),
            ticket: row.get("ticket"),
            rotation_nonce: row.get("rotation_nonce"),
            jti: row.get("jti"),
            issued_at: row.get("issued_at"),
            auth_time: row.get("auth_time"),
            amr: row.get("amr"),
            idle_expires_at: row.get("idle_expires_at"),
            expires_at: row.get("expires_at"),
            retry_after: row.get("retry_after"),
            token: None,
        }
    }

    /// The token that this outcome granted; panics when it granted none.
    pub fn token(self) -> Token {
        let outcome = self.outcome;
        self.token.unwrap_or_else(|| panic!("{outcome} grants no token"))
    }

    /// The same with the token that it grants to who knows the secret, when it grants one.
    pub fn granting(mut self, secret: Secret) -> Self {
        if let (Some(session_id), Some(generation), Some(ticket)) =
            (self.session_id, self.generation, self.ticket.clone())
        {
            self.token = Some(Token { session_id, generation, ticket, secret });
        }
        self
    }
}

/// What the service derives from a password, in place of argon2id and a pepper.
pub fn password_proof(password: &str) -> Vec<u8> {
    sha256(format!("password {password}").as_bytes())
}

/// The password of everybody who signs up with [`sign_up`].
pub const PASSWORD: &str = "correct horse battery staple";

/// Signs up an individual without an organization and returns the first token; panics unless it worked.
pub async fn sign_up(service: &Client, email: &str) -> Token {
    let outcome = try_sign_up(service, email, None).await.expect("sign_up");
    assert_eq!(outcome.outcome, "signed_up", "{email}");
    outcome.token()
}

/// Signs up, with an organization (name and slug) when there is one.
pub async fn try_sign_up(service: &Client, email: &str, organization: Option<(&str, &str)>) -> Result<Outcome, Error> {
    let secret = Secret::random();
    let (organization_name, organization_slug) = organization.unzip();
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &email,
        &random_bytes(16),
        &sha256(&password_proof(PASSWORD)),
        &secret.verifier(),
        &organization_name,
        &organization_slug,
    ];
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.sign_up(
             email => $1, name => 'Ada Lovelace', user_type => null, password_salt => $2,
             password_params => 'm=65536,t=3,p=1', pepper_id => 1, password_verifier => $3, token_verifier => $4,
             organization_name => $5, organization_slug => $6, correlation_id => 'test')"
    );
    let row = service.query_one(&statement, arguments).await?;
    Ok(Outcome::from_row(&row).granting(secret))
}

/// Logs in: begins, proves the password, completes. The outcome is the database's.
pub async fn log_in(service: &Client, email: &str, password: &str) -> Outcome {
    let version: i32 = service
        .query_one("select verifier_version from auth.begin_login($1, 'm=65536,t=3,p=1', 1)", &[&email])
        .await
        .expect("begin_login")
        .get(0);
    let secret = Secret::random();
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.complete_login(
             email => $1, verifier_version => $2, password_proof => $3, token_verifier => $4, correlation_id => 'test')"
    );
    let row = service
        .query_one(&statement, &[&email, &version, &password_proof(password), &secret.verifier()])
        .await
        .expect("complete_login");
    Outcome::from_row(&row).granting(secret)
}

/// Presents a token for rotation, as the service does; panics when the statement fails.
pub async fn rotate(service: &Client, token: &Token) -> Outcome {
    try_rotate(service, token).await.expect("rotate_session_token")
}

/// Presents a token for rotation, as the service does.
pub async fn try_rotate(service: &Client, token: &Token) -> Result<Outcome, Error> {
    let nonce = random_bytes(16);
    let next = token.generation.wrapping_add(1);
    let row = service
        .query_one(
            &format!(
                "select {OUTCOME_COLUMNS} from auth.rotate_session_token($1, $2, $3, $4, $5, $6, correlation_id => 'test')"
            ),
            &[
                &token.session_id,
                &token.generation,
                &token.ticket,
                &token.secret.proof(),
                &token.successor_secret(&nonce, next).verifier(),
                &nonce,
            ],
        )
        .await?;
    let outcome = Outcome::from_row(&row);
    // A retry is answered with the nonce of the rotation that it repeats: so is its successor.
    match (&outcome.rotation_nonce, outcome.generation) {
        (Some(nonce), Some(generation)) => {
            let secret = token.successor_secret(nonce, generation);
            Ok(outcome.granting(secret))
        }
        _ => Ok(outcome),
    }
}

/// Presents a token that the service has had in hand since then; says the outcome.
pub async fn rotate_received_at(service: &Client, token: &Token, received_at: Option<SystemTime>) -> String {
    let nonce = random_bytes(16);
    let proof = token.secret.proof();
    let next_verifier = token.successor_secret(&nonce, token.generation + 1).verifier();
    let statement = "select outcome from auth.rotate_session_token($1, $2, $3, $4, $5, $6, received_at => $7)";
    value(
        service,
        statement,
        &[&token.session_id, &token.generation, &token.ticket, &proof, &next_verifier, &nonce, &received_at],
    )
    .await
}

/// Rotates `count` times and returns every token on the way, the presented one first.
pub async fn rotate_times(service: &Client, token: Token, count: usize) -> Vec<Token> {
    let mut tokens = vec![token];
    for _ in 0..count {
        let outcome = rotate(service, &tokens[tokens.len() - 1]).await;
        assert_eq!(outcome.outcome, "rotated");
        tokens.push(outcome.token());
    }
    tokens
}

/// How often each outcome came about.
pub fn tally(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for outcome in outcomes {
        *tally.entry(outcome.outcome.as_str()).or_default() += 1;
    }
    tally
}

/// Of callers who presented one token at once: one rotated, the others retried, and all were given the same successor,
/// which this returns. Panics with `context` otherwise.
#[track_caller]
pub fn one_successor(outcomes: Vec<Outcome>, context: &str) -> Token {
    let expected = BTreeMap::from([("retried", outcomes.len() - 1), ("rotated", 1)]);
    assert_eq!(tally(&outcomes), expected, "{context}");
    let mut successors: Vec<Token> = outcomes.into_iter().map(Outcome::token).collect();
    successors.dedup();
    assert_eq!(successors.len(), 1, "one successor: {context}");
    successors.remove(0)
}
