//! What clients may take of this process.

use std::time::Duration;

use super::{ConfigError, Reader};
use crate::server::ClientBounds;

/// Name, default and meaning.
pub const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "MAX_CONNECTIONS",
        "10000",
        "Connections of clients at once, 1 to 1000000; more wait. Each takes an open file: the limit for them (ulimit -n) is \
         raised as far as it goes",
    ),
    (
        "MAX_CONNECTIONS_PER_NETWORK",
        "1000",
        "Connections at once from one network (a /24 of IPv4, a /64 of IPv6), 1 to 1000000; more are closed. Those of \
         TRUSTED_PROXIES are not counted",
    ),
    (
        "CLIENT_TIMEOUT_SECONDS",
        "30",
        "How long a client may take to send the headers of a request, to begin the next one, and to read an answer, 1 to \
         3600",
    ),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn client_bounds(&self) -> Result<ClientBounds, ConfigError> {
        Ok(ClientBounds {
            connections: self.number("MAX_CONNECTIONS", 1, 1_000_000)? as usize,
            connections_per_network: self.number("MAX_CONNECTIONS_PER_NETWORK", 1, 1_000_000)? as usize,
            patience: Duration::from_secs(self.number("CLIENT_TIMEOUT_SECONDS", 1, 3600)?),
            proxies: self.proxies()?,
        })
    }
}
