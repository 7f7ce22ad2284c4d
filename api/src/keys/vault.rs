//! Keys in Vault, or OpenBao: the fields of one secret of a KV store, version 2.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rustify::errors::ClientError as RestError;
use url::Url;
use vaultrs::{
    api::{
        self, EndpointMiddleware,
        kv2::requests::{ReadSecretRequest, SetSecretRequest, SetSecretRequestOptions},
    },
    client::{VaultClient, VaultClientSettingsBuilder},
    error::ClientError,
};
use zeroize::Zeroizing;

use super::{
    KeyError,
    file::KeyFile,
    source::{Revision, Ring, Stored},
};
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What proves to Vault who asks.
pub enum VaultToken {
    /// In a setting.
    Given(Zeroizing<String>),
    /// In a file that somebody else keeps fresh, an agent of Vault's for one: read each time.
    File(KeyFile),
}

/// One secret, as the settings name it.
pub struct VaultConfig {
    /// The server.
    pub address: Url,
    /// Who asks.
    pub token: VaultToken,
    /// Where the store is mounted.
    pub mount: String,
    /// The secret's path in it.
    pub path: String,
    /// Of Vault Enterprise and of OpenBao.
    pub namespace: Option<String>,
}

/// A secret in Vault with a field for each ring.
pub struct Vault {
    config: VaultConfig,
    http: reqwest::Client,
}

impl Vault {
    /// Asks it nothing yet.
    pub fn new(config: VaultConfig) -> Result<Self, KeyError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config("Vault")?)
            // The token is for this server, and a proxy of the environment is not it.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| format!("Vault cannot be asked: {error}"))?;
        Ok(Self { config, http })
    }

    /// As `vault kv get` names it.
    fn name(&self) -> String {
        format!("{}/{} at {}", self.config.mount, self.config.path, self.config.address)
    }

    /// The library's client around our own one: its own would follow redirects, and look for settings in the environment.
    fn client(&self) -> Result<VaultClient, KeyError> {
        let token = match &self.config.token {
            VaultToken::Given(token) => token.clone(),
            VaultToken::File(file) => {
                file.read()
                    .map_err(|why| format!("VAULT_TOKEN_FILE={} cannot be used: {why}", file.path().display()))?
                    .0
            }
        };
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token for Vault has a blank in it, or what is no letter at all.".into());
        }
        let address = self.config.address.as_str().trim_end_matches('/');
        let mut settings = VaultClientSettingsBuilder::default();
        settings.address(address).token("").ca_certs(Vec::new()).identity(None).verify(true);
        let settings = settings.build().map_err(|_| format!("VAULT_ADDR={address} cannot be used."))?;
        Ok(VaultClient {
            http: rustify::clients::reqwest::Client::new(address, self.http.clone()),
            middle: EndpointMiddleware {
                token: (*token).clone(),
                version: "v1".into(),
                wrap: None,
                namespace: self.config.namespace.clone(),
            },
            settings,
        })
    }

    /// These fields of the secret.
    pub async fn read(&self, rings: &[Ring]) -> Result<Vec<Stored>, KeyError> {
        let request = ReadSecretRequest::builder().mount(&*self.config.mount).path(&*self.config.path).build();
        let request = request.map_err(|_| format!("{} cannot be asked for.", self.name()))?;
        let answer = api::exec_with_result(&self.client()?, request).await;
        let secret = answer.map_err(|error| format!("Vault did not give {}: {}", self.name(), reason(&error)))?;
        let serde_json::Value::Object(fields) = secret.data else {
            return Err(format!("Vault did not give {}: what it gave has no fields.", self.name()));
        };
        let version = u32::try_from(secret.metadata.version).unwrap_or_default();
        let changed_at = secret.metadata.created_time.parse::<DateTime<Utc>>().ok();
        let one = |ring: &Ring| {
            let origin = format!("{} of {}", ring.setting(), self.name());
            match fields.get(ring.setting()) {
                None => Err(format!(
                    "{origin} is not there. Add the field: vault kv patch {}/{} {}=…",
                    self.config.mount,
                    self.config.path,
                    ring.setting()
                )),
                Some(serde_json::Value::String(text)) => Ok(Stored {
                    ring: *ring,
                    origin,
                    text: Zeroizing::new(text.trim().to_owned()),
                    changed_at,
                    revision: Revision::Vault(version, fields.clone()),
                }),
                Some(_) => Err(format!("{origin} is not text.")),
            }
        };
        rings.iter().map(one).collect()
    }

    /// Writes one field of the secret, if nobody has written any since it was read.
    pub async fn replace(&self, stored: &Stored, text: Zeroizing<String>) -> Result<(), KeyError> {
        let Revision::Vault(version, fields) = &stored.revision else {
            return Err(format!("{} was not read from Vault.", stored.origin));
        };
        let mut fields = fields.clone();
        fields.insert(stored.ring.setting().to_owned(), serde_json::Value::String((*text).clone()));
        let request = SetSecretRequest::builder()
            .mount(&*self.config.mount)
            .path(&*self.config.path)
            .data(serde_json::Value::Object(fields))
            .options(SetSecretRequestOptions { cas: *version })
            .build()
            .map_err(|_| format!("{} cannot be written.", self.name()))?;
        match api::exec_with_result(&self.client()?, request).await {
            Ok(_) => Ok(()),
            Err(ClientError::APIError { code: 400, errors })
                if errors.iter().any(|error| error.contains("check-and-set")) =>
            {
                Err(format!("{} was changed by somebody else meanwhile. Nothing was changed.", self.name()))
            }
            Err(error) => Err(format!("Vault did not take {}: {}", self.name(), reason(&error))),
        }
    }

    /// Prolongs the token. One that cannot be prolonged works until it ends, which the next reading says.
    pub async fn renew(&self) {
        let Ok(client) = self.client() else { return };
        if vaultrs::token::renew_self(&client, None).await.is_err() {
            tracing::debug!("the token for Vault was not prolonged");
        }
    }
}

/// Why, without what was sent or answered: that has the keys.
fn reason(error: &ClientError) -> String {
    let status = match error {
        ClientError::APIError { code, .. } => Some(*code),
        ClientError::RestClientError { source: RestError::ServerResponseError { code, .. } } => Some(*code),
        _ => None,
    };
    match (status, error) {
        (Some(403), _) => "the token is not known to it, or may not do this.".into(),
        (Some(404), _) => {
            "there is none, or it was deleted. The path is as `vault kv get` takes it, without data/; the \
                           store must be KV version 2."
                .into()
        }
        (Some(503), _) => "it is sealed, or on standby.".into(),
        (Some(code @ 300..=399), _) => format!("it sends us elsewhere ({code}). Name the server that answers."),
        (Some(code), _) => format!("it answered {code}."),
        (None, ClientError::RestClientError { source: RestError::RequestError { source, .. } }) => {
            match source.downcast_ref::<reqwest::Error>() {
                Some(error) if is_about_certificates(error) => {
                    "its certificate is not one that this machine trusts (SSL_CERT_FILE names others).".into()
                }
                Some(error) if error.is_timeout() => "it did not answer in time.".into(),
                Some(error) if error.is_connect() => "it cannot be reached.".into(),
                _ => "it did not answer as an HTTP server does.".into(),
            }
        }
        (None, _) => "what it answered cannot be read.".into(),
    }
}

fn is_about_certificates(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    // What TLS says is wrapped into an error of I/O, which shows it, and is no source of itself.
    causes.into_iter().any(|cause| cause.to_string().contains("certificate"))
}
