//! Logging in through an OpenID provider: who a token says somebody is. What becomes of it, the database decides.

mod flow;
mod id_token;
mod provider;

use chrono::Utc;
use openidconnect::{ClientId, IssuerUrl, Nonce};

pub use self::{
    flow::{Callback, CodeFlow, Landing, STATE_COOKIE, forget, is_path},
    id_token::Person,
    provider::is_safe,
};
use self::{
    id_token::{Expected, Refusal, verify},
    provider::{Fetched, Provider},
};
use crate::{
    config::DatabaseConfig,
    db::Db,
    error::{Code, Problem},
};

/// Logins through an OpenID provider.
pub struct FederationConfig {
    /// The provider.
    pub issuer: IssuerUrl,
    /// For whom its tokens are; the first is this service.
    pub client_ids: Vec<String>,
    /// A login of its own.
    pub database: DatabaseConfig,
    /// Web logins by redirect.
    pub flow: Option<CodeFlow>,
}

/// What is needed of a provider, and of the database for its people.
pub struct Federation {
    /// Logged in as a member of `auth_federation`: it can open federated sessions and nothing else.
    pub db: Db,
    /// For web logins, when it is configured.
    pub flow: Option<CodeFlow>,
    provider: Provider,
    client_ids: Vec<ClientId>,
}

impl Federation {
    /// Asks and connects to nothing yet.
    pub fn new(config: FederationConfig) -> Result<Self, String> {
        let client_ids: Vec<ClientId> = config.client_ids.into_iter().map(ClientId::new).collect();
        Ok(Self {
            db: Db::new(config.database)?.named("federation"),
            provider: Provider::new(config.issuer)?,
            flow: config.flow,
            client_ids,
        })
    }

    /// Whether browsers can be sent to the provider, and come back to this site itself.
    pub fn comes_back_here(&self) -> bool {
        self.flow.as_ref().is_some_and(CodeFlow::comes_back_here)
    }

    /// Who the token says this is. Every token that does not say so is refused in the same words.
    pub async fn verify(&self, token: &str, nonce: Option<&str>) -> Result<Person, Problem> {
        let known = self.known().await?;
        let nonce = nonce.map(|nonce| Nonce::new(nonce.to_owned()));
        let judge = |fetched: &Fetched| {
            let expected =
                Expected { issuer: self.provider.issuer(), client_ids: &self.client_ids, nonce: nonce.as_ref() };
            verify(token, fetched.keys(), &expected, Utc::now())
        };
        let reason = match judge(&known) {
            Ok(person) => return Ok(person),
            Err(Refusal::Invalid(reason)) => reason,
            // The provider may have a new key.
            Err(Refusal::UnknownKey) => match self.provider.newer_than(Some(&known)).await.map_err(unavailable)? {
                None => "key",
                Some(newer) => match judge(&newer) {
                    Ok(person) => return Ok(person),
                    Err(Refusal::Invalid(reason)) => reason,
                    Err(Refusal::UnknownKey) => "key",
                },
            },
        };
        tracing::info!(reason, "an ID token was refused");
        Err(Code::InvalidIdToken.into())
    }

    async fn known(&self) -> Result<std::sync::Arc<Fetched>, Problem> {
        self.provider.known().await.map_err(unavailable)
    }
}

fn unavailable(_: provider::Unavailable) -> Problem {
    Code::IdentityProviderUnavailable.into()
}
