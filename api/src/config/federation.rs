//! The settings of logins through an OpenID provider.

use openidconnect::IssuerUrl;
use url::Url;

use super::{ConfigError, Reader};
use crate::oidc::{self, CodeFlow, FederationConfig, Landing};

/// Logging in through a provider is rare beside refreshing.
const FEDERATION_POOL_SIZE: usize = 4;

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "GOOGLE_CLIENT_ID",
        "",
        "Turns logins through an OpenID provider on: the client id that its ID tokens are for. Several, comma-separated, \
         for apps that show their tokens here; the first is this service's own",
    ),
    ("OIDC_ISSUER", "https://accounts.google.com", "The OpenID provider; https, unless it is on this machine"),
    (
        "FEDERATION_DATABASE_URL",
        "",
        "Required with GOOGLE_CLIENT_ID. Like DATABASE_URL, of a login in role auth_federation, which may do nothing \
         but open sessions for whom the provider vouches for",
    ),
    (
        "OIDC_REDIRECT_URL",
        "",
        "Turns web logins by redirect on: the public URL of /api/auth/oidc/callback, as registered with the provider",
    ),
    ("OIDC_CLIENT_SECRET", "", "The client's secret, where the provider wants one for web logins"),
    (
        "OIDC_POST_LOGIN_URL",
        "/",
        "Where web logins end: a path, or an https URL; a login that failed adds error=… to its query",
    ),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The settings of the provider; none: nobody logs in through one.
    pub(super) fn federation(&self) -> Result<Option<FederationConfig>, ConfigError> {
        let (clients, database) = (self.optional("GOOGLE_CLIENT_ID"), self.optional("FEDERATION_DATABASE_URL"));
        let issuer = self.text("OIDC_ISSUER");
        let flow = self.code_flow()?;
        let Some(clients) = clients else {
            // Half a configuration would look as if it worked.
            return match flow {
                None => Ok(None),
                Some(_) => Err(ConfigError("OIDC_REDIRECT_URL is set and GOOGLE_CLIENT_ID is not. Set both.".into())),
            };
        };
        let client_ids: Vec<String> = clients.split(',').map(|id| id.trim().to_owned()).collect();
        if client_ids.iter().any(|id| id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(ConfigError(
                "GOOGLE_CLIENT_ID cannot be used: it has an empty client id, or a blank in one.".into(),
            ));
        }
        // As it is written: a provider that ends in a slash is another one.
        let issuer = IssuerUrl::new(issuer.clone()).ok().filter(|url| oidc::is_safe(url.url())).ok_or_else(|| {
            ConfigError(format!(
                "OIDC_ISSUER={issuer} cannot be used: it must be an https URL, or one of this machine."
            ))
        })?;
        let hint = "It is like DATABASE_URL, with a login of its own in the role auth_federation.";
        let url = database.ok_or_else(|| ConfigError(format!("FEDERATION_DATABASE_URL is not set. {hint}")))?;
        let database = self.database_at("FEDERATION_DATABASE_URL", &url, FEDERATION_POOL_SIZE)?;
        Ok(Some(FederationConfig { issuer, client_ids, database, flow }))
    }

    fn code_flow(&self) -> Result<Option<CodeFlow>, ConfigError> {
        let (redirect, secret) = (self.optional("OIDC_REDIRECT_URL"), self.optional("OIDC_CLIENT_SECRET"));
        let landing = self.text("OIDC_POST_LOGIN_URL");
        let landing = Landing::parse(&landing)
            .map_err(|why| ConfigError(format!("OIDC_POST_LOGIN_URL={landing} cannot be used: {why}.")))?;
        let Some(redirect) = redirect else { return Ok(None) };
        let redirect_url = Url::parse(&redirect).ok().filter(oidc::is_safe).ok_or_else(|| {
            ConfigError(format!(
                "OIDC_REDIRECT_URL={redirect} cannot be used: it must be https, or on this machine, and end in \
                 /api/auth/oidc/callback."
            ))
        })?;
        Ok(Some(CodeFlow::new(redirect_url, secret, landing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Result<Option<FederationConfig>, String> {
        let reader = Reader(|name: &str| {
            settings.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        });
        reader.federation().map_err(|error| error.to_string())
    }

    #[test]
    fn logins_through_a_provider_are_off_or_complete() {
        assert!(with(&[]).unwrap().is_none());
        let url = "postgres://auth_federation_service:hunter2hunter2@127.0.0.1:5432/auth";
        let complete = [("GOOGLE_CLIENT_ID", "one, two"), ("FEDERATION_DATABASE_URL", url)];
        let federation = with(&complete).unwrap().unwrap();
        assert_eq!(federation.client_ids, ["one", "two"]);
        assert_eq!(federation.issuer.as_str(), "https://accounts.google.com");
        assert!(federation.flow.is_none());
        for (name, value) in [
            ("FEDERATION_DATABASE_URL", ""),
            ("FEDERATION_DATABASE_URL", "nonsense://hunter2hunter2"),
            ("GOOGLE_CLIENT_ID", "one,,two"),
            ("OIDC_ISSUER", "http://accounts.google.com"),
            ("OIDC_ISSUER", "accounts.google.com"),
            ("OIDC_REDIRECT_URL", "http://api.example/api/auth/oidc/callback"),
            ("OIDC_POST_LOGIN_URL", "http://app.example"),
            ("OIDC_POST_LOGIN_URL", "//app.example"),
        ] {
            let sentence = with(&[&[(name, value)], &complete[..]].concat()).err().unwrap();
            assert!(sentence.contains(name) && !sentence.contains("hunter2"), "{name}={value}: {sentence}");
        }
        let redirect = ("OIDC_REDIRECT_URL", "https://api.example/api/auth/oidc/callback");
        assert!(with(&[redirect]).err().unwrap().contains("GOOGLE_CLIENT_ID"));
        assert!(with(&[&[redirect], &complete[..]].concat()).unwrap().unwrap().flow.is_some());
    }
}
