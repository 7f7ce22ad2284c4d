//! Who a confidential client is: its id and secret by HTTP Basic (`client_secret_basic`) or in the form
//! (`client_secret_post`), one of them (RFC 6749 §2.3.1). What the secret is worth, the database judges.

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    error::{Code, Problem},
    field::{ClientSecret, Text},
    form, keys,
};

const SCHEME: &str = "client";
/// What every client secret starts with: scanners for leaked secrets know it by that.
const SECRET_PREFIX: &str = "asc_";

/// What a client shows, not judged yet. No Debug: the proof is as good as the secret here.
pub struct Client {
    /// Its id: of a form that the database takes.
    pub id: String,
    proof: Zeroizing<[u8; 32]>,
}

impl Client {
    fn new(id: String, secret: &str) -> Result<Self, Problem> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=100).contains(&id.len()) || !id.bytes().all(sane) {
            return Err(Code::InvalidClient.into());
        }
        Ok(Self { id, proof: Zeroizing::new(Sha256::digest(secret).into()) })
    }

    /// SHA-256 of the secret.
    pub fn proof(&self) -> &[u8] {
        &*self.proof
    }
}

/// A new secret of 256 random bits, and its verifier, which is all that the database sees.
pub fn new_secret() -> (Zeroizing<String>, [u8; 32]) {
    let random = Zeroizing::new(keys::random::<32>());
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*random);
    let secret = Zeroizing::new(format!("{SECRET_PREFIX}{encoded}"));
    let verifier = Sha256::digest(Sha256::digest(secret.as_bytes())).into();
    (secret, verifier)
}

/// What the `Authorization` header says of the client.
pub enum ClientHeader {
    /// There is none: the form may tell.
    Absent,
    /// Id and secret.
    Basic(String, Zeroizing<String>),
    /// Something else.
    Unusable,
}

impl ClientHeader {
    fn of(request: &Request) -> Self {
        match request.headers().get(header::AUTHORIZATION) {
            None => Self::Absent,
            Some(value) => Self::basic(value.as_bytes()).unwrap_or(Self::Unusable),
        }
    }

    fn basic(value: &[u8]) -> Option<Self> {
        let (scheme, encoded) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        // Unlike in RFC 7617, both are form-encoded first: so RFC 6749 §2.3.1 has it.
        let secret = Zeroizing::new(form::decode(&decoded[colon + 1..])?);
        Some(Self::Basic(form::decode(&decoded[..colon])?, secret))
    }

    /// The client, from the header or from the form's two parameters.
    pub fn client(self, id: Option<String>, secret: Option<Text<ClientSecret>>) -> Result<Client, Problem> {
        match (self, id, secret) {
            (Self::Basic(..) | Self::Unusable, _, Some(_)) => {
                let twice = "The client must authenticate in one way: by HTTP Basic or in the form.";
                Err(Problem::with_detail(Code::MalformedForm, twice))
            }
            (Self::Basic(id, _), Some(other), None) if id != other => {
                Err(Problem::with_detail(Code::MalformedForm, "client_id names another client than HTTP Basic does."))
            }
            (Self::Basic(id, secret), _, None) => Client::new(id, &secret),
            (Self::Absent, Some(id), Some(secret)) => Client::new(id, secret.checked()?),
            (Self::Absent | Self::Unusable, _, _) => Err(Code::InvalidClient.into()),
        }
    }
}

impl<'a> ApiExtractor<'a> for ClientHeader {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let scheme = MetaSecurityScheme {
            ty: "http",
            description: Some(
                "Id and secret of a confidential client, made by `auth-api clients create`, both form-encoded (RFC 6749 \
                 §2.3.1). Instead of it, the form may hold `client_id` and `client_secret`.",
            ),
            name: None,
            key_in: None,
            scheme: Some("basic"),
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        registry.create_security_scheme(SCHEME, scheme);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(Self::of(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(pair: &str) -> ClientHeader {
        let request = Request::builder().header("authorization", format!("bAsIc {}", STANDARD.encode(pair))).finish();
        ClientHeader::of(&request)
    }

    fn text(secret: &str) -> Option<Text<ClientSecret>> {
        Some(secret.to_owned().into())
    }

    fn code(result: Result<Client, Problem>) -> Code {
        result.err().expect("refused").code()
    }

    #[test]
    fn a_client_is_known_by_header_or_form() {
        let by_header = basic("client_1:s3cret").client(None, None).ok().unwrap();
        let named_twice = basic("client_1:s3cret").client(Some("client_1".into()), None).ok().unwrap();
        let by_form = ClientHeader::Absent.client(Some("client_1".into()), text("s3cret")).ok().unwrap();
        for client in [&by_header, &named_twice, &by_form] {
            assert_eq!((client.id.as_str(), client.proof()), ("client_1", by_form.proof()));
        }
    }

    #[test]
    fn the_header_is_decoded_twice() {
        let encoded = basic("client%5F1:a%3Ab%2Bc+d:e").client(None, None).ok().unwrap();
        let plain = ClientHeader::Absent.client(Some("client_1".into()), text("a:b+c d:e")).ok().unwrap();
        assert_eq!((encoded.id.as_str(), encoded.proof()), ("client_1", plain.proof()));
    }

    #[test]
    fn two_ways_at_once_are_a_malformed_request() {
        assert_eq!(code(basic("a:b").client(Some("a".into()), text("b"))), Code::MalformedForm);
        assert_eq!(code(basic("a:b").client(None, text("b"))), Code::MalformedForm);
        assert_eq!(code(basic("a:b").client(Some("c".into()), None)), Code::MalformedForm);
        assert_eq!(code(ClientHeader::Unusable.client(Some("a".into()), text("b"))), Code::MalformedForm);
    }

    #[test]
    fn what_names_no_client_is_refused_alike() {
        let request = |value: &str| ClientHeader::of(&Request::builder().header("authorization", value).finish());
        for header in ["Basic", "Basic !!!", "Basic YQ==", "Bearer YTpi", "YTpi", ""] {
            assert_eq!(code(request(header).client(None, None)), Code::InvalidClient, "{header}");
        }
        for pair in ["a%:b", "a:%zz", "a\0:b", ":b", "ä:b"] {
            assert_eq!(code(basic(pair).client(None, None)), Code::InvalidClient, "{pair}");
        }
        assert_eq!(code(ClientHeader::Absent.client(None, None)), Code::InvalidClient);
        assert_eq!(code(ClientHeader::Absent.client(Some("a".into()), None)), Code::InvalidClient);
        assert_eq!(code(ClientHeader::Absent.client(None, text("b"))), Code::InvalidClient);
        assert_eq!(code(ClientHeader::Absent.client(Some("a b".into()), text("b"))), Code::InvalidClient);
        assert_eq!(code(ClientHeader::Absent.client(Some("a".repeat(101)), text("b"))), Code::InvalidClient);
    }

    #[test]
    fn a_new_secret_fits_its_verifier_and_needs_no_encoding() {
        let (secret, verifier) = new_secret();
        assert_eq!(form::decode(secret.as_bytes()).as_deref(), Some(secret.as_str()));
        let client = ClientHeader::Absent.client(Some("a".into()), text(&secret)).ok().unwrap();
        assert_eq!(Sha256::digest(client.proof())[..], verifier);
        assert_eq!(secret.len(), SECRET_PREFIX.len() + 43);
        assert_ne!(secret, new_secret().0);
    }
}
