//! A receiver of what leaves the service for others: traces (OTLP over HTTP) and reports of errors (Sentry's envelopes). It
//! takes what a real one takes, read with the protocols' own crates, and nothing else, and keeps every byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use sentry_types::protocol::v7::{Envelope, EnvelopeItem, Event};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a receiver does with what it is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// Takes it.
    Takes,
    /// 503: come again.
    IsBusy,
    /// Does not answer until its mood changes.
    Hangs,
}

/// A receiver on loopback.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    mood: watch::Sender<Mood>,
}

#[derive(Default)]
struct State {
    spans: Mutex<Vec<Span>>,
    events: Mutex<Vec<Event<'static>>>,
    bytes: Mutex<Vec<u8>>,
    refused: Mutex<Vec<String>>,
}

/// A span, as it was received.
#[derive(Clone, Debug)]
pub struct Span {
    /// In hex.
    pub trace_id: String,
    /// In hex.
    pub id: String,
    /// In hex; empty for the root of a trace.
    pub parent_id: String,
    /// Its name.
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Whether it is marked as failed.
    pub is_error: bool,
    /// As text.
    pub attributes: BTreeMap<String, String>,
    /// What is said of who sent it.
    pub resource: BTreeMap<String, String>,
}

impl Receiver {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<State>::default();
        let (mood, watched) = watch::channel(Mood::Takes);
        let kept = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, mood) = (kept.clone(), watched.clone());
                let service = hyper::service::service_fn(move |request| answer(request, state.clone(), mood.clone()));
                tokio::spawn(async move {
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
        Self { address, state, mood }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn otlp(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For `SENTRY_DSN`.
    pub fn dsn(&self) -> String {
        format!("http://public@{}/42", self.address)
    }

    /// From now on it does this.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// The spans that it took; panics when it was sent something that no receiver takes.
    pub fn spans(&self) -> Vec<Span> {
        self.expect_no_refusals();
        self.state.spans.lock().expect("not poisoned").clone()
    }

    /// The spans of one trace.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace_id == trace_id).collect()
    }

    /// The error reports that it took.
    pub fn events(&self) -> Vec<Event<'static>> {
        self.expect_no_refusals();
        self.state.events.lock().expect("not poisoned").clone()
    }

    /// Every byte that it was sent: paths, headers, bodies.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.bytes.lock().expect("not poisoned").clone()
    }

    fn expect_no_refusals(&self) {
        let refused = self.state.refused.lock().expect("not poisoned");
        assert!(refused.is_empty(), "no receiver takes this: {refused:?}");
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
    mut mood: watch::Receiver<Mood>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    {
        let mut bytes = state.bytes.lock().expect("not poisoned");
        bytes.extend_from_slice(format!("{} {}\n", head.method, head.uri).as_bytes());
        for (name, value) in &head.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&body);
    }
    let _ = mood.wait_for(|mood| *mood != Mood::Hangs).await;
    if *mood.borrow() == Mood::IsBusy {
        let mut busy = Response::new(Full::default());
        *busy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(busy);
    }
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let taken = match (head.method.as_str(), head.uri.path()) {
        ("POST", "/v1/traces") if header("content-type") == "application/x-protobuf" => state.take_spans(&body),
        ("POST", "/api/42/envelope/") if header("x-sentry-auth").contains("sentry_key=public") => {
            state.take_envelope(&body)
        }
        (method, path) => Err(format!("{method} {path} {:?}", head.headers)),
    };
    Ok(match taken {
        Ok((kind, body)) => Response::builder().header("content-type", kind).body(body.into()).expect("an answer"),
        Err(why) => {
            state.refused.lock().expect("not poisoned").push(why);
            Response::builder().status(400).body(Full::default()).expect("an answer")
        }
    })
}

type Taken = Result<(&'static str, Vec<u8>), String>;

impl State {
    fn take_spans(&self, body: &[u8]) -> Taken {
        let export = ExportTraceServiceRequest::decode(body).map_err(|error| error.to_string())?;
        let mut spans = self.spans.lock().expect("not poisoned");
        for sent in export.resource_spans {
            let resource = attributes(sent.resource.map(|resource| resource.attributes).unwrap_or_default());
            for span in sent.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if span.trace_id.len() != 16 || span.span_id.len() != 8 || span.end_time_unix_nano == 0 {
                    return Err(format!("an invalid span: {span:?}"));
                }
                // Nothing of ours has these: where they come in, what is in them must be looked at, too.
                if !span.events.is_empty() || !span.links.is_empty() || !span.trace_state.is_empty() {
                    return Err(format!("a span with more than it should have: {span:?}"));
                }
                let status = span.status.unwrap_or_default();
                if !status.message.is_empty() {
                    return Err(format!("a status with words: {status:?}"));
                }
                spans.push(Span {
                    trace_id: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent_id: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    is_error: status.code == 2,
                    attributes: attributes(span.attributes),
                    resource: resource.clone(),
                });
            }
        }
        Ok(("application/x-protobuf", ExportTraceServiceResponse::default().encode_to_vec()))
    }

    fn take_envelope(&self, body: &[u8]) -> Taken {
        let envelope = Envelope::from_slice(body).map_err(|error| error.to_string())?;
        for item in envelope.into_items() {
            match item {
                EnvelopeItem::Event(event) => self.events.lock().expect("not poisoned").push(*event),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(("application/json", b"{}".to_vec()))
    }
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
