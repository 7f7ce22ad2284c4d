//! Under which URLs clients know this service.

use url::{Host, Url};

use super::{ConfigError, Reader};
use crate::routes::metadata::Metadata;

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "PUBLIC_URL",
        "",
        "Under which URL clients reach this service: https://auth.example.org. Needed for \
         /.well-known/oauth-authorization-server (RFC 8414)",
    ),
    (
        "JWT_ISSUER",
        "",
        "The claim iss; when not set, PUBLIC_URL, or auth_sessions without one. One that is no URL has no \
         /.well-known/oauth-authorization-server. To change it ends all access tokens; sessions live on",
    ),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The issuer of access tokens, and what RFC 8414 has to say of it, when it is a URL.
    pub(super) fn issuer(&self) -> Result<(String, Option<Metadata>), ConfigError> {
        let public_url = match self.optional("PUBLIC_URL") {
            None => None,
            Some(url) => {
                Some(base_url(&url).map_err(|why| ConfigError(format!("PUBLIC_URL={url} cannot be used: {why}.")))?)
            }
        };
        let issuer = match (self.optional("JWT_ISSUER"), &public_url) {
            (Some(issuer), _) => issuer,
            (None, Some(url)) => url.clone(),
            (None, None) => "auth_sessions".to_owned(),
        };
        // Exactly as it stands in the tokens: clients compare the two letter by letter.
        let metadata = base_url(&issuer).ok().map(|base| Metadata::new(&issuer, &public_url.unwrap_or(base)));
        Ok((issuer, metadata))
    }
}

/// A URL to put paths behind, without a slash at its end.
fn base_url(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && local) {
        return Err("it must begin with https:// (http:// is for localhost)");
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("it must be scheme, host and path alone");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ToJSON;

    use crate::config::tests::with;

    #[test]
    fn metadata_wants_an_issuer_that_is_a_url() {
        let metadata = |changes: &[(&str, &str)]| {
            let config = with(changes).unwrap();
            let metadata = config.metadata.map(|found| found.to_json().unwrap());
            let field = |name: &str| metadata.as_ref().map(|found| found[name].as_str().unwrap().to_owned());
            (config.issuer, field("issuer"), field("jwks_uri"))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(metadata(&[]), ("auth_sessions".into(), None, None));
        assert_eq!(
            metadata(&[("JWT_ISSUER", "mine"), ("PUBLIC_URL", "https://a.example")]),
            ("mine".into(), None, None)
        );
        assert_eq!(
            metadata(&[("PUBLIC_URL", "https://a.example/auth/")]),
            (
                "https://a.example/auth".into(),
                some("https://a.example/auth"),
                some("https://a.example/auth/.well-known/jwks.json")
            )
        );
        assert_eq!(
            metadata(&[("JWT_ISSUER", "https://i.example/"), ("PUBLIC_URL", "http://127.0.0.1:8080")]),
            (
                "https://i.example/".into(),
                some("https://i.example/"),
                some("http://127.0.0.1:8080/.well-known/jwks.json")
            )
        );
        for url in
            ["a.example", "http://a.example", "https://a.example?x=1", "https://u:p@a.example", "ftp://localhost"]
        {
            assert!(with(&[("PUBLIC_URL", url)]).err().unwrap().contains("PUBLIC_URL"), "{url}");
        }
    }
}
