//! TLS to those whom the service calls (not of mail: lettre sees to that).

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;

/// With the platform's roots, and the provider of cryptography named here, so that it does not hang on the features of
/// others. `to` is for the error, which is the platform's.
pub fn client_config(to: &str) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let verified = builder.with_safe_default_protocol_versions().and_then(|builder| builder.with_platform_verifier());
    Ok(verified.map_err(|error| format!("TLS to {to} cannot be set up: {error}"))?.with_no_client_auth())
}
