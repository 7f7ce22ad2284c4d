//! What a text field may be: the schema that the document shows and the check that is made, side by side.
//!
//! A [`Text`] gives its value only through [`Text::checked`], so that no field is used unchecked.

use std::{borrow::Cow, fmt, marker::PhantomData, str::FromStr};

use email_address::{EmailAddress, Options};
use poem::http::Uri;
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, de::Error};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    adopted_token::{MAX_LENGTH, MIN_LENGTH},
    common_passwords::is_common,
    error::{Code, Problem},
};

/// A rule for a text field.
pub trait Rule: Send + Sync + 'static {
    /// The refusal of a value that does not fit.
    fn refusal() -> Problem;
    /// What the document says.
    fn schema() -> MetaSchema;
    /// Whether a value fits.
    fn fits(value: &str) -> bool;
}

/// A text field that has to be checked before it is used. It may be a secret: it is never printed, and erased.
pub struct Text<R> {
    value: Zeroizing<String>,
    rule: PhantomData<R>,
}

impl<R: Rule> Text<R> {
    /// The value, when it fits its rule.
    pub fn checked(&self) -> Result<&str, Problem> {
        if R::fits(&self.value) { Ok(&self.value) } else { Err(R::refusal()) }
    }
}

impl<R> From<String> for Text<R> {
    fn from(value: String) -> Self {
        Self { value: Zeroizing::new(value), rule: PhantomData }
    }
}

impl<R> fmt::Debug for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(redacted)")
    }
}

impl<'de, R> Deserialize<'de> for Text<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = String::deserialize(deserializer)?;
        // PostgreSQL's text has no NUL; whatever the field, nobody types one.
        if value.contains('\0') { Err(D::Error::custom("a text must not contain NUL")) } else { Ok(value.into()) }
    }
}

impl<R: Rule> Type for Text<R> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "string".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(R::schema()))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

// poem-openapi's derive asks for both ways; bodies are read by serde (`json.rs`), and written in examples only.
impl<R: Rule> ParseFromJSON for Text<R> {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        match value {
            Some(serde_json::Value::String(text)) => Ok(text.into()),
            _ => Err(ParseError::custom("not a text")),
        }
    }
}

impl<R: Rule> ParseFromParameter for Text<R> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Ok(value.to_owned().into())
    }
}

impl<R: Rule> ToJSON for Text<R> {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(serde_json::Value::String((*self.value).clone()))
    }
}

fn text(min: usize, max: usize) -> MetaSchema {
    MetaSchema { min_length: Some(min), max_length: Some(max), ..MetaSchema::new("string") }
}

fn count(value: &str, min: usize, max: usize) -> bool {
    // Bytes first: nobody's long text is counted character by character.
    value.len() <= max * 4 && (min..=max).contains(&value.chars().count())
}

/// Control characters, and the line separators that PostgreSQL's `[[:cntrl:]]` counts among them.
fn is_control(c: char) -> bool {
    c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c)
}

macro_rules! rule {
    ($(#[doc = $doc:literal])+ $name:ident, $refusal:expr, $schema:expr, $fits:expr) => {
        $(#[doc = $doc])+
        pub struct $name;
        impl Rule for $name {
            fn refusal() -> Problem {
                $refusal.into()
            }
            fn schema() -> MetaSchema {
                $schema
            }
            fn fits(value: &str) -> bool {
                let fits: fn(&str) -> bool = $fits;
                fits(value)
            }
        }
    };
}

rule! {
    /// An address that mail can be sent to.
    Email, Code::InvalidEmail, MetaSchema { format: Some("email"), ..text(3, 254) }, |value| {
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        // The database wants exactly one @: a quoted local part is for other systems.
        value.len() <= 254
            && value.matches('@').count() == 1
            && !value.chars().any(|c| c.is_whitespace() || is_control(c))
            && EmailAddress::parse_with_options(value, options).is_ok()
    }
}
rule! {
    /// An address to log in with: one of the wrong form belongs to nobody, and that is all there is to say.
    LoginEmail, (Code::InvalidRequest, "The e-mail must have 1 to 254 characters."),
    text(1, 254),
    |value| count(value, 1, 254)
}
rule! {
    /// A password to be set (NIST SP 800-63B: a length, no rules of composition, none that everybody tries first).
    NewPassword, Code::InvalidPassword,
    MetaSchema { format: Some("password"), ..text(8, 128) },
    |value| count(value, 8, 128) && !is_common(value)
}
rule! {
    /// A password to log in with.
    LoginPassword, (Code::InvalidRequest, "The password must have 1 to 128 characters."),
    MetaSchema { format: Some("password"), ..text(1, 128) },
    |value| count(value, 1, 128)
}
rule! {
    /// The name of a person or an organization.
    Name, Code::InvalidName, text(1, 200), |value| {
        count(value, 1, 200) && !value.chars().any(is_control) && !value.trim().is_empty()
    }
}
rule! {
    /// Why somebody else's session was ended.
    Reason, (Code::InvalidRequest, "The reason must have 1 to 200 characters, none of them control, and not be blank."),
    text(1, 200),
    |value| count(value, 1, 200) && !value.chars().any(is_control) && !value.trim_matches(' ').is_empty()
}
rule! {
    /// The name of a personal access token.
    TokenName, (Code::InvalidName, "The name must have 1 to 100 characters, none of them control, and not be blank."),
    text(1, 100),
    |value| count(value, 1, 100) && !value.chars().any(is_control) && !value.trim().is_empty()
}
rule! {
    /// What a personal access token may do.
    ScopeName, Code::InvalidScope,
    MetaSchema { pattern: Some("^[a-z][a-z0-9_.:-]{0,63}$".into()), ..text(1, 64) },
    |value| {
        let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.:-".contains(&b);
        value.len() <= 64 && value.starts_with(|c: char| c.is_ascii_lowercase()) && value.bytes().all(rest)
    }
}
rule! {
    /// The name of an organization in URLs.
    Slug, Code::InvalidSlug, MetaSchema { pattern: Some("^[a-z0-9]+(-[a-z0-9]+)*$".into()), ..text(3, 50) }, |value| {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (3..=50).contains(&value.len()) && value.split('-').all(part)
    }
}
rule! {
    /// What an organization says of itself.
    Description, Code::InvalidDescription, text(0, 2000), |value| count(value, 0, 2000)
}
rule! {
    /// A web site.
    Website, Code::InvalidWebsite,
    MetaSchema { format: Some("uri"), pattern: Some("^https?://".into()), ..text(10, 500) },
    |value| {
        // Twice: to the letter (no blanks, nothing that a browser would mend), and as a browser follows it.
        let web = |uri: Uri| ["http", "https"].contains(&uri.scheme_str()?).then(|| uri.host().map(str::is_empty))?;
        count(value, 10, 500)
            && Uri::from_str(value).ok().and_then(web) == Some(false)
            && Url::parse(value).is_ok_and(|url| url.has_host())
    }
}
rule! {
    /// An ID token. Any other text is refused by `oidc`, like one that was used.
    IdToken, Code::InvalidIdToken,
    MetaSchema { pattern: Some("^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$".into()), ..text(5, 12_000) },
    |value| value.len() <= 12_000
}
rule! {
    /// What an ID token has to bring back. Any other than the token's is refused with it.
    Nonce, Code::InvalidIdToken, text(1, 512), |value| count(value, 1, 512)
}
rule! {
    /// A path of the site.
    ReturnTo, Code::InvalidReturnTo, MetaSchema { pattern: Some("^/([^/].*)?$".into()), ..text(1, 1024) },
    crate::oidc::is_path
}
rule! {
    /// The token of a mailed link.
    OneTimeToken, Code::InvalidOneTimeToken,
    MetaSchema { pattern: Some("^aso_[A-Za-z0-9_-]{43}$".into()), ..text(47, 47) },
    |value| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        value.strip_prefix("aso_").is_some_and(|rest| rest.len() == 43 && rest.bytes().all(letter))
    }
}
rule! {
    /// A refresh token: one of ours, which `App::read_refresh_token` knows by its form, or one of a system that was taken
    /// over, which has any form. Every other text is refused like a token that was revoked.
    RefreshToken, Code::InvalidRefreshToken, text(MIN_LENGTH, MAX_LENGTH), |_| true
}
rule! {
    /// Any token, of whatever kind, or something that is none.
    AnyToken, Code::MalformedForm, MetaSchema { min_length: Some(1), ..MetaSchema::new("string") }, |_| true
}
rule! {
    /// A refresh token whose session shall end, or something that is none, of which nothing is left to end.
    ShownToken, Code::InvalidRefreshToken, MetaSchema::new("string"), |_| true
}
rule! {
    /// The secret of a confidential client; a wrong one is refused by the database, and an empty one is as good as none.
    ClientSecret, Code::InvalidClient, MetaSchema { format: Some("password"), ..text(0, 100) }, |_| true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits<R: Rule>(value: &str) -> bool {
        Text::<R>::from(value.to_owned()).checked().is_ok()
    }

    #[test]
    fn addresses() {
        for good in ["a@example.org", "first.last+tag@sub.example.org", "ä@example.org"] {
            assert!(fits::<Email>(good), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(250));
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b.c",
            "a@b@c.d",
            "\"a@b\"@c.org",
            "a b@example.org",
            "A <a@example.org>",
            "a@[127.0.0.1]",
            "a@localhost",
            "a\n@example.org",
            &long,
        ] {
            assert!(!fits::<Email>(bad), "{bad}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert!(fits::<NewPassword>(&"ä".repeat(8)) && fits::<NewPassword>(&"ä".repeat(128)));
        assert!(!fits::<NewPassword>("password1") && fits::<LoginPassword>("password1"));
        assert!(!fits::<NewPassword>("1234567") && !fits::<NewPassword>(&"a".repeat(129)));
        assert!(fits::<Name>("Zoë"));
        for bad in ["", "   ", "a\tb", "a\u{2028}b", &"a".repeat(201)] {
            assert!(!fits::<Name>(bad), "{bad:?}");
        }
    }

    #[test]
    fn slugs() {
        for good in ["abc", "a-b", "acme-2", &"a".repeat(50)] {
            assert!(fits::<Slug>(good), "{good}");
        }
        for bad in ["ab", "-ab", "ab-", "a--b", "Abc", "a_b", "äbc", "a\0b", &"a".repeat(51)] {
            assert!(!fits::<Slug>(bad), "{bad}");
        }
    }

    #[test]
    fn websites() {
        assert!(fits::<Website>("https://example.org/about?x=1"));
        for bad in [
            "example.org/about",
            "javascript:alert(1)",
            "ftp://example.org",
            "https://",
            "https:// example.org",
            "https://example.org:99999",
        ] {
            assert!(!fits::<Website>(bad), "{bad}");
        }
    }

    #[test]
    fn a_nul_is_refused_in_any_field() {
        assert!(serde_json::from_str::<Text<Description>>(r#""a\u0000b""#).is_err());
        assert!(serde_json::from_str::<Text<Description>>(r#""ab""#).is_ok());
    }

    #[test]
    fn a_text_is_not_printed() {
        assert_eq!(format!("{:?}", Text::<Name>::from("hunter2".to_owned())), "Text(redacted)");
    }
}
