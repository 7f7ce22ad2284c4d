//! The public keys of access tokens.

use std::{sync::Arc, time::Duration};

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, types::Example};

use super::Tag;
use crate::{
    app::App,
    error::{Fail, refusals},
    json::Json,
};

/// An Ed25519 public key (RFC 8037).
#[derive(Object)]
struct PublicKey {
    /// `OKP`
    kty: String,
    /// `Ed25519`
    crv: String,
    /// The key, base64url.
    x: String,
    /// `EdDSA`
    alg: String,
    /// `sig`
    #[oai(rename = "use")]
    usage: String,
    /// What a token's header names it by.
    kid: String,
}

/// A set of public keys (RFC 7517 §5).
#[derive(Object)]
#[oai(example)]
struct KeySet {
    keys: Vec<PublicKey>,
}

impl Example for KeySet {
    fn example() -> Self {
        // RFC 8037, appendix A.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into();
        Self { keys: vec![PublicKey::new("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".into(), x)] }
    }
}

impl PublicKey {
    fn new(kid: String, x: String) -> Self {
        Self { kty: "OKP".into(), crv: "Ed25519".into(), x, alg: "EdDSA".into(), usage: "sig".into(), kid }
    }
}

#[derive(ApiResponse)]
enum Keys {
    /// The keys. The first signs; all verify.
    #[oai(status = 200)]
    Found(Json<KeySet>, #[oai(header = "Cache-Control")] String),
}

/// How long a set of keys may be kept by who asked for it: so long a new key is published before it signs.
pub const MAX_AGE: Duration = Duration::from_secs(300);

refusals!(JwksRefusals: []);

/// Public keys.
pub struct JwksApi;

#[OpenApi(tag = "Tag::Service")]
impl JwksApi {
    /// Public keys of access tokens
    ///
    /// For whoever verifies access tokens without asking this service; a session that has ended they notice at the
    /// token's expiry only.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "getJwks")]
    async fn jwks(&self, app: Data<&Arc<App>>) -> Result<Keys, Fail<JwksRefusals>> {
        let signing_keys = app.keys.signing_keys();
        let keys = signing_keys.all().iter();
        let keys = keys.map(|key| PublicKey::new(key.kid.clone(), key.public.clone())).collect();
        // A new key is put last before it signs (`keys.rs`): an old answer harms nobody.
        Ok(Keys::Found(Json(KeySet { keys }), format!("public, max-age={}", MAX_AGE.as_secs())))
    }
}
