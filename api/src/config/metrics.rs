//! Where metrics are served.

use std::net::SocketAddr;

use super::{ConfigError, Reader};

/// Name, default and meaning.
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[(
    "METRICS_LISTEN",
    "",
    "Address and port of a listener of its own for /metrics; not set, it is served where everything else is (then close it to \
     the world in front of the service); off: nowhere",
)];

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricsListen {
    /// Beside the API.
    WithTheApi,
    /// Only there.
    Own(SocketAddr),
    /// Nowhere.
    Nowhere,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn metrics_listen(&self) -> Result<MetricsListen, ConfigError> {
        match self.optional("METRICS_LISTEN").as_deref() {
            None => Ok(MetricsListen::WithTheApi),
            Some("off") => Ok(MetricsListen::Nowhere),
            Some(_) => Ok(MetricsListen::Own(self.parsed("METRICS_LISTEN")?)),
        }
    }
}
