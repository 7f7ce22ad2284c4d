//! Traces: one span for a request, below it one for each SQL statement, each hash of a password and each call of another
//! server. Work that no request waits for (mail, maintenance) has none.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_otlp::{Protocol, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter,
    },
};
use poem::{
    Request,
    http::{HeaderMap, Method, StatusCode},
};
use url::Url;

use crate::{app::RequestId, error::Code, operations::Operations, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where traces go, and which.
pub struct TracesConfig {
    /// `…/v1/traces`.
    pub endpoint: Url,
    /// Sent along; may hold a secret.
    pub headers: HashMap<String, String>,
    /// For one delivery.
    pub timeout: Duration,
    /// What names this service: `service.name` and more.
    pub resource: Vec<(String, String)>,
    /// Which requests.
    pub ratio: Ratio,
    /// Spans that may wait; more are dropped.
    pub queue: usize,
    /// Spans delivered at once.
    pub batch: usize,
    /// How long spans wait for others to go along.
    pub delay: Duration,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// 0 to 1, of those that are decided here.
    pub of: f64,
    /// Whether a request that brings its trace along says itself.
    pub parent_decides: bool,
}

impl Ratio {
    fn sampler(self) -> Sampler {
        let root = Sampler::TraceIdRatioBased(self.of);
        if self.parent_decides { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static TAKES_TRACE_CONTEXT: AtomicBool = AtomicBool::new(false);

/// From now on there are spans, when there is a place to send them to.
pub fn start(config: Option<TracesConfig>, takes_trace_context: bool) -> Result<Option<SdkTracerProvider>, String> {
    TAKES_TRACE_CONTEXT.store(takes_trace_context, Ordering::Relaxed);
    let Some(config) = config else { return Ok(None) };
    let failed = |why: &dyn std::fmt::Display| format!("traces cannot be sent: {why}");
    let client = reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls::client_config("the receiver of traces")?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(config.timeout)
        .build()
        .map_err(|error| failed(&error))?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(config.endpoint)
        .with_headers(config.headers)
        .with_timeout(config.timeout)
        .with_retry_policy(RetryPolicy::recommended())
        .build()
        .map_err(|error| failed(&error))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue)
        .with_max_export_batch_size(config.batch)
        .with_scheduled_delay(config.delay)
        .build();
    let exporter = Exporter { inner: exporter, is_failing: AtomicBool::new(false) };
    let resource = config.resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(config.ratio.sampler())
        .with_resource(Resource::builder_empty().with_attributes(resource).build())
        .build();
    let _ = TRACER.set(provider.tracer("auth-api"));
    Ok(Some(provider))
}

/// Says when deliveries begin to fail and when they work again; not each time.
#[derive(Debug)]
struct Exporter<E> {
    inner: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Exporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        match (&result, self.is_failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "traces cannot be delivered: they are dropped until they can")
            }
            (Ok(()), true) => tracing::info!("traces are delivered again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The trace that a request was sent in, by its `traceparent` (W3C Trace Context, level 1). `tracestate` is not taken: it
/// is anybody's words, and there is nobody behind us to hand it on to.
fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    if !TAKES_TRACE_CONTEXT.load(Ordering::Relaxed) {
        return None;
    }
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse(value.to_str().ok()?),
        _ => None,
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let mut part = |length: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == length && is_hex).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // A later version may say more, behind these four.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let parent = SpanContext::new(trace, span, flags, true, TraceState::default());
    parent.is_valid().then_some(parent)
}

/// The trace that whoever sent these headers is in.
pub fn trace_id(headers: &HeaderMap) -> Option<TraceId> {
    parent(headers).map(|parent| parent.trace_id())
}

/// A request's span, and the context in which the others become its children.
pub struct RequestSpan {
    context: Context,
    method: &'static str,
    has_route: bool,
}

/// Begins the span of a request; none: there are no traces.
pub fn begin(request: &Request, id: &RequestId, operations: &Operations) -> Option<RequestSpan> {
    let tracer = TRACER.get()?;
    let parent = parent(request.headers());
    let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
    let method = method(request.method());
    let route = operations.route(request.uri().path());
    let name = route.as_ref().map_or(Cow::Borrowed(method), |route| format!("{method} {route}").into());
    let mut attributes =
        vec![KeyValue::new("http.request.method", method), KeyValue::new("auth.request_id", id.to_string())];
    let has_route = route.is_some();
    attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
    let span = tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
    Some(RequestSpan { context: context.with_span(span.start_with_context(tracer, &context)), method, has_route })
}

impl RequestSpan {
    /// What its children are made in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The trace that it is in.
    pub fn trace_id(&self) -> TraceId {
        self.context.span().span_context().trace_id()
    }

    /// Itself.
    pub fn span_id(&self) -> SpanId {
        self.context.span().span_context().span_id()
    }

    /// Ends it, with what came of it.
    pub fn end(self, operation: &str, status: StatusCode, refusal: Option<Code>) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        span.set_attribute(KeyValue::new("auth.operation", operation.to_owned()));
        // Pages have no route of openapi.json, and names all the same.
        if !self.has_route && operation != "none" {
            span.update_name(format!("{} {operation}", self.method));
        }
        if let Some(code) = refusal {
            span.set_attribute(KeyValue::new("auth.problem", code.as_str()));
        }
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// Anybody can make methods up: each would be a name of its own.
pub fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| method.as_str() == *known).unwrap_or("_OTHER")
}

/// A part of a request. It ends when it is dropped.
pub struct Part(Option<Span>);

/// Only below the span of a request, and only when that is recorded.
fn part(name: impl FnOnce() -> Cow<'static, str>, kind: SpanKind, attributes: impl FnOnce() -> Vec<KeyValue>) -> Part {
    let Some(tracer) = TRACER.get() else { return Part(None) };
    Part(Context::map_current(|context| {
        let is_recorded = context.has_active_span() && context.span().span_context().is_sampled();
        is_recorded.then(|| {
            let span = tracer.span_builder(name()).with_kind(kind).with_attributes(attributes());
            span.start_with_context(tracer, context)
        })
    }))
}

/// A step within this process.
pub fn step(name: &'static str) -> Part {
    part(|| name.into(), SpanKind::Internal, Vec::new)
}

/// One SQL statement: constant text, of which the verb and the names of our objects are told.
pub fn statement(sql: &'static str) -> Part {
    let attributes =
        || vec![KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.query.summary", summary(sql))];
    part(|| summary(sql).into(), SpanKind::Client, attributes)
}

/// A request to another server, whose host is one of the settings.
pub fn call(method: &Method, host: Option<&str>) -> Part {
    let method = self::method(method);
    let attributes = || {
        let host = host.map(|host| KeyValue::new("server.address", host.to_owned()));
        [KeyValue::new("http.request.method", method)].into_iter().chain(host).collect()
    };
    part(|| method.into(), SpanKind::Client, attributes)
}

impl Part {
    /// It failed; of the reason only this leaves: a code, never a text.
    pub fn failed(&mut self, code: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", code.into()));
            span.set_status(Status::error(""));
        }
    }
}

/// "select auth.rotate_session_token auth.session_profile": the verb, and in their order the objects of schema auth that a
/// statement names, but for those that say who is asking.
fn summary(sql: &'static str) -> String {
    let mut words: Vec<&str> = sql.split_whitespace().take(1).collect();
    for (at, _) in sql.match_indices("auth.") {
        let rest = &sql[at + "auth.".len()..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let object = &sql[at..at + "auth.".len() + length];
        if length > 0 && !object.starts_with("auth.current_") && !words.contains(&object) {
            words.push(object);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_taken_to_the_letter_or_not_at_all() {
        let parent = parse(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(parent.trace_id().to_string(), TRACE);
        assert!(parent.is_sampled() && parent.is_remote());
        assert!(!parse(&format!("00-{TRACE}-00f067aa0ba902b7-02")).unwrap().is_sampled());
        // A later version says what this one says, and more.
        assert!(parse(&format!("cc-{TRACE}-00f067aa0ba902b7-01-what-will-be")).is_some());
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47367-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_statement_is_told_by_its_verb_and_our_names() {
        for (sql, expected) in [
            ("begin", "begin"),
            (
                "select r.*, p.* from auth.rotate_session_token(session_id => $1) r \
                    left join lateral auth.session_profile(r.session_id) p on true",
                "select auth.rotate_session_token auth.session_profile",
            ),
            (
                "select id = auth.current_session_id() from auth.active_sessions where email = 'ada@example.org'",
                "select auth.active_sessions",
            ),
            ("select 1 from auth.a, auth.b, auth.a where 'auth.' = $1", "select auth.a auth.b"),
        ] {
            assert_eq!(summary(sql), expected);
        }
    }

    #[test]
    fn a_method_that_nobody_knows_has_no_name() {
        assert_eq!(method(&Method::PATCH), "PATCH");
        assert_eq!(method(&Method::from_bytes(b"asr_secret").unwrap()), "_OTHER");
    }
}
