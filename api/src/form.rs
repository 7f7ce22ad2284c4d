//! Forms in: `application/x-www-form-urlencoded` bodies, for the endpoints whose RFCs want them. The sibling of
//! `json.rs`, as bounded and as strict.
//!
//! The rules of RFC 6749 §3.2: a parameter without a value counts as left out, one that we do not know is ignored, one
//! that we know must not come twice. Beyond it, what is badly encoded is refused, not guessed at.

use poem::{Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{
    Deserializer,
    de::{DeserializeOwned, IntoDeserializer, Visitor, value::Error, value::MapDeserializer},
    forward_to_deserialize_any,
};

use crate::{
    error::{Code, Problem},
    json,
};

/// A form, as the body of a request.
pub struct Form<T>(pub T);

impl<T: Type> Payload for Form<T> {
    const CONTENT_TYPE: &'static str = "application/x-www-form-urlencoded";

    fn check_content_type(content_type: &str) -> bool {
        json::is_media_type(content_type, Self::CONTENT_TYPE)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<'a, T: Type + DeserializeOwned + Send> ApiExtractor<'a> for Form<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> Result<Self> {
        let bytes = json::bytes(body).await?;
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(Self::check_content_type) {
            return Err(Problem::with_detail(Code::UnsupportedMediaType, MEDIA_TYPE).into());
        }
        Ok(Self(parse(&bytes)?))
    }
}

const MEDIA_TYPE: &str = "The body must be application/x-www-form-urlencoded.";

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut parameters = Vec::new();
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            return Err(Problem::with_detail(Code::MalformedForm, "The body is not well encoded."));
        };
        if !value.is_empty() {
            parameters.push((name, Value(value)));
        }
    }
    // serde's derive refuses a second `name`, and passes over names that the type does not have.
    T::deserialize(MapDeserializer::<_, Error>::new(parameters.into_iter()))
        .map_err(|error| Problem::with_detail(Code::MalformedForm, json::without_values(&error.to_string())))
}

/// One name or value of a form (the URL standard's `application/x-www-form-urlencoded`): `+` is a blank, `%41` is `A`.
/// None when it is not well encoded, or no UTF-8.
pub fn decode(text: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => 16 * hex_digit(*rest.next()?)? + hex_digit(*rest.next()?)?,
            byte => *byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16)?.try_into().ok()
}

/// A value that is there; serde's own texts do not know that they may be optional.
struct Value(String);

impl IntoDeserializer<'_> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::field::{AnyToken, Text};

    #[derive(Debug, Deserialize)]
    struct Sample {
        token: Text<AnyToken>,
        token_type_hint: Option<String>,
    }

    fn parsed(body: &str) -> (String, Option<String>) {
        let sample = parse::<Sample>(body.as_bytes()).unwrap();
        (sample.token.checked().unwrap().to_owned(), sample.token_type_hint)
    }

    fn refused(body: &[u8]) -> String {
        let problem = parse::<Sample>(body).unwrap_err();
        assert_eq!(problem.code(), Code::MalformedForm);
        format!("{problem:?}")
    }

    #[test]
    fn a_form_is_read_by_the_rules_of_the_rfc() {
        assert_eq!(parsed("token=a"), ("a".into(), None));
        assert_eq!(parsed("token=a%2Bb+c&token_type_hint=x"), ("a+b c".into(), Some("x".into())));
        assert_eq!(parsed("&token=%C3%A4&"), ("ä".into(), None));
        assert_eq!(parsed("token=a=b"), ("a=b".into(), None));
        assert_eq!(parsed("unknown=1&token=a&unknown=2"), ("a".into(), None));
        assert_eq!(parsed("token_type_hint=&token=a&token_type_hint"), ("a".into(), None), "without a value: left out");
        assert_eq!(parsed("tok%65n=a"), ("a".into(), None));
    }

    #[test]
    fn what_is_badly_encoded_missing_or_there_twice_is_refused() {
        for body in [
            &b""[..],
            b"token=",
            b"other=a",
            b"token=a&token=a",
            b"token=a&tok%65n=b",
            b"token=%",
            b"token=%4",
            b"token=%zz",
            b"token=%+1",
            b"token=%ff",
            b"token=a&x=%fg",
            b"token=\xff",
            b"token=a%00b",
            b"{\"token\":\"a\"}",
        ] {
            refused(body);
        }
        assert!(refused(b"other=hunter2").contains("missing field `token`"));
        assert!(!refused(b"token=hunter2&token=hunter2").contains("hunter2"));
    }

    #[test]
    fn only_a_form_is_a_form() {
        for content_type in ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=UTF-8"] {
            assert!(Form::<String>::check_content_type(content_type));
        }
        for content_type in ["application/json", "multipart/form-data", "application/x-www-form-urlencodedx", ""] {
            assert!(!Form::<String>::check_content_type(content_type));
        }
    }
}
