//! JSON in and out: bodies bounded in size and time, and refusals that name what is wrong without repeating a value.

use std::time::Duration;

use futures_util::StreamExt;
use poem::{IntoResponse, Request, RequestBody, Response, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::Value;

use crate::{
    error::{Code, Problem},
    strict_schema,
};

/// No request of this service needs more.
const MAX_BODY: usize = 16 * 1024;
/// So much more is read and thrown away: a client that is still sending would not see the answer.
const MAX_DRAINED: usize = 4 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body, of a request or an answer.
pub struct Json<T>(pub T);

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        is_media_type(content_type, Self::CONTENT_TYPE)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ToJSON> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        Response::builder().content_type(Self::CONTENT_TYPE).body(self.0.to_json_string())
    }
}

impl<T: ToJSON> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "Done.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// Whether a `Content-Type` is of that media type, whatever its parameters.
pub fn is_media_type(content_type: &str, media_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(media_type)
}

/// What an absent body stands for, where one may be absent.
pub trait Body: Type + DeserializeOwned + Send {
    /// None: the body is required.
    fn absent() -> Option<Self> {
        None
    }
}

impl<'a, T: Body> ApiExtractor<'a> for Json<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
        strict_schema::close(registry, &T::schema_ref());
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
            required: T::absent().is_none(),
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> Result<Self> {
        let bytes = bytes(body).await?;
        if bytes.is_empty()
            && let Some(absent) = T::absent()
        {
            return Ok(Self(absent));
        }
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(Self::check_content_type) {
            return Err(Problem::from(Code::UnsupportedMediaType).into());
        }
        Ok(Self(parse(&bytes)?))
    }
}

/// A whole body, bounded in size and time.
pub async fn bytes(body: &mut RequestBody) -> Result<Vec<u8>, Problem> {
    tokio::time::timeout(BODY_TIMEOUT, read(body)).await.unwrap_or(Err(Code::RequestTimeout.into()))
}

async fn read(body: &mut RequestBody) -> Result<Vec<u8>, Problem> {
    let mut stream = body.take().map_err(|_| Code::InternalError)?.into_bytes_stream();
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        // The client went away, or broke the framing: nobody will read the answer.
        let chunk = chunk.map_err(|_| Code::BadRequest)?;
        length += chunk.len();
        if length <= MAX_BODY {
            bytes.extend_from_slice(&chunk);
        } else if length > MAX_DRAINED {
            break;
        }
    }
    if length > MAX_BODY { Err(Code::BodyTooLarge.into()) } else { Ok(bytes) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    match serde_json::from_slice(bytes) {
        Err(_) => return Err(Code::MalformedJson.into()),
        Ok(Value::Object(_)) => {}
        Ok(_) => return Err(Problem::with_detail(Code::InvalidRequest, "The body must be a JSON object.")),
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::with_detail(Code::InvalidRequest, without_values(&error.to_string())))
}

/// For an optional object within an object: serde's derive would also take a list of its fields' values in order.
pub fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let object = Option::<serde_json::Map<String, Value>>::deserialize(deserializer)?;
    object.map(|fields| serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)).transpose()
}

/// serde's sentence without what it found: `invalid type: string "…", expected a boolean`, or ``unknown variant `…`, expected
/// …``, may hold a password in the wrong field.
pub fn without_values(sentence: &str) -> String {
    let kind = match sentence.split_once(": ") {
        Some((kind, _)) if kind.starts_with("invalid ") => Some(kind),
        _ if sentence.starts_with("unknown variant ") => Some("unknown variant"),
        _ => None,
    };
    let sentence = match (kind, sentence.rfind(", expected ")) {
        (Some(kind), Some(expected)) => format!("{kind}{}", &sentence[expected..]),
        _ => sentence.to_owned(),
    };
    sentence.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsed
    struct Sample {
        email: String,
        all: Option<bool>,
        kind: Option<Kind>,
        #[serde(default, deserialize_with = "object")]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        One,
        Two,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsed
    struct Inner {
        name: String,
    }

    fn refused(body: &[u8]) -> (Code, String) {
        let problem = parse::<Sample>(body).unwrap_err();
        (problem.code(), format!("{problem:?}"))
    }

    #[test]
    fn what_is_no_json_is_told_from_what_has_another_form() {
        for body in
            [&b""[..], b"{", b"nonsense", b"{\"email\":\"\xff\"}", b"{\"email\":\"a\"} {}", b"{\"email\":\"\\ud800\"}"]
        {
            assert_eq!(refused(body).0, Code::MalformedJson, "{body:?}");
        }
        for body in [
            &b"[]"[..],
            b"null",
            b"{}",
            b"{\"email\":1}",
            b"{\"email\":\"\",\"x\":1}",
            b"{\"email\":\"\",\"email\":\"\"}",
            b"{\"email\":\"\",\"inner\":{}}",
            b"{\"email\":\"\",\"inner\":{\"name\":\"\",\"x\":1}}",
        ] {
            assert_eq!(refused(body).0, Code::InvalidRequest, "{body:?}");
        }
        assert!(parse::<Sample>(br#"{"email":"a","all":null,"inner":{"name":"b"}}"#).is_ok());
    }

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(refused(br#"["a",true,{"name":"b"}]"#).0, Code::InvalidRequest);
        assert_eq!(refused(br#"{"email":"a","inner":["b"]}"#).0, Code::InvalidRequest);
    }

    #[test]
    fn a_refusal_names_the_field_and_repeats_no_value() {
        assert!(refused(b"{}").1.contains("missing field `email`"));
        let (_, text) = refused(br#"{"email":"a","all":"hunter2, expected x"}"#);
        assert!(text.contains("invalid type, expected") && !text.contains("hunter2"), "{text}");
        let (_, text) = refused(br#"{"email":"a","kind":"hunter2, expected x"}"#);
        assert!(text.contains("unknown variant, expected") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn only_json_is_json() {
        for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(Json::<String>::check_content_type(content_type));
        }
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert!(!Json::<String>::check_content_type(content_type));
        }
    }
}
