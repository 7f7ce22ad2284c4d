//! After another system was taken over: how the service knows its refresh tokens.

use super::{ConfigError, Reader};
use crate::adopted_token::{AdoptedTokens, Format};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "ADOPTED_TOKEN_FORMAT",
        "",
        "How the system that `auth-api adopt` took over kept its refresh tokens: plain, sha256-hex or hmac-sha256. Each is \
         good for one exchange, under the same rules as any refresh. To be unset when auth.adopted_tokens is empty, \
         a session's longest life after the adoption",
    ),
    (
        "ADOPTED_TOKEN_KEY",
        "",
        "The old system's key, for hmac-sha256: its text as it is, or bytes as hex:… or base64:…",
    ),
    (
        "ADOPTED_TOKEN_COOKIE",
        "",
        "The cookie that the old system kept its refresh tokens in; looked at where there is none of ours",
    ),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn adopted_tokens(&self) -> Result<Option<AdoptedTokens>, ConfigError> {
        let Some(name) = self.optional("ADOPTED_TOKEN_FORMAT") else {
            let lonely =
                ["ADOPTED_TOKEN_KEY", "ADOPTED_TOKEN_COOKIE"].into_iter().find(|name| self.optional(name).is_some());
            return match lonely {
                Some(other) => {
                    Err(ConfigError(format!("{other} is set, and ADOPTED_TOKEN_FORMAT is not: set both or none.")))
                }
                None => Ok(None),
            };
        };
        let format = Format::new(&name, self.optional("ADOPTED_TOKEN_KEY").as_deref())
            .map_err(|why| ConfigError(format!("ADOPTED_TOKEN_FORMAT={name} cannot be used: {why}.")))?;
        Ok(Some(AdoptedTokens { format, cookie: self.optional("ADOPTED_TOKEN_COOKIE") }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::with;

    #[test]
    fn the_three_settings_go_together() {
        assert!(with(&[]).unwrap().adopted_tokens.is_none());
        assert!(with(&[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).unwrap().adopted_tokens.is_some());
        let hmac = [("ADOPTED_TOKEN_FORMAT", "hmac-sha256"), ("ADOPTED_TOKEN_KEY", "swordfish")];
        assert!(with(&hmac).unwrap().adopted_tokens.is_some());
        for wrong in [
            &hmac[..1],
            &hmac[1..],
            &[("ADOPTED_TOKEN_COOKIE", "refresh")],
            &[("ADOPTED_TOKEN_FORMAT", "plain"), ("ADOPTED_TOKEN_KEY", "swordfish")],
        ] {
            let sentence = with(wrong).err().unwrap();
            assert!(sentence.contains("ADOPTED_TOKEN_FORMAT") && !sentence.contains("swordfish"), "{sentence}");
        }
    }
}
