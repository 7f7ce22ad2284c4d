//! Reports of errors, for Sentry: what the log calls an error, and panics.
//!
//! Such a report is made of a few fields that stand here, and `only_what_may_leave` looks at it once more on its way out:
//! free words (causes, what a panic said) stay in the log, which has them under the same request id.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use poem::Request;
use sentry::{
    ClientOptions, Hub, Transport, TransportFactory, TransportOptions,
    protocol::{Context, Event, Level, TraceContext},
    transports::ReqwestHttpTransportOptions,
    types::Dsn,
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context as LayerContext, Layer};

use super::{redaction::redacted, traces::RequestSpan};
use crate::{app::RequestId, operations::Operations, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields of log lines that hold words of ours only.
const FIELDS: [&str; 7] = ["code", "column", "operation", "outcome", "sql", "status", "task"];
/// Headers that say what was sent, and not by whom.
const HEADERS: [&str; 4] = ["accept", "content-length", "content-type", "sec-fetch-site"];
const TAGS: [&str; 3] = ["operation", "request_id", "trace_id"];

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Where reports go.
pub struct ErrorsConfig {
    /// `SENTRY_DSN`.
    pub dsn: Dsn,
    /// What this installation is called there.
    pub environment: String,
}

/// From now on errors are reported.
pub fn start(config: ErrorsConfig) -> Result<Arc<sentry::Client>, String> {
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config("Sentry")?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .build()
        .map_err(|error| format!("errors cannot be reported: {error}"))?;
    let mut options = ClientOptions::new()
        .release(concat!("auth-api@", env!("CARGO_PKG_VERSION")))
        .environment(config.environment)
        .default_integrations(false)
        .max_breadcrumbs(0)
        .before_send(only_what_may_leave)
        .transport(Http(http));
    options.dsn = Some(config.dsn);
    let client = Arc::new(sentry::Client::from(options));
    Hub::main().bind_client(Some(client.clone()));
    report_panics();
    IS_ON.store(true, Ordering::Relaxed);
    Ok(client)
}

/// Its own thread delivers; at most 30 reports wait for it.
struct Http(reqwest::Client);

impl TransportFactory for Http {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        Arc::new(ReqwestHttpTransportOptions::from(options).with_client(self.0.clone()).build())
    }
}

/// What is known of a request while it runs; none: nothing is reported.
pub fn hub(request: &Request, id: &RequestId, operations: &Operations, span: Option<&RequestSpan>) -> Option<Arc<Hub>> {
    if !IS_ON.load(Ordering::Relaxed) {
        return None;
    }
    let hub = Hub::new_from_top(Hub::main());
    let operation = operations.name(request.method(), request.uri().path()).unwrap_or("none").to_owned();
    let method = super::traces::method(request.method()).to_owned();
    let header = |name: &&str| Some(((*name).to_owned(), request.headers().get(*name)?.to_str().ok()?.to_owned()));
    let headers: BTreeMap<String, String> = HEADERS.iter().filter_map(header).collect();
    hub.configure_scope(|scope| {
        scope.set_tag("request_id", id);
        scope.set_tag("operation", operation);
        if let Some(span) = span {
            scope.set_tag("trace_id", span.trace_id());
            scope.set_context(
                "trace",
                TraceContext {
                    trace_id: span.trace_id().to_bytes().into(),
                    span_id: span.span_id().to_bytes().into(),
                    ..TraceContext::default()
                },
            );
        }
        scope.add_event_processor(move |mut event| {
            let request = sentry::protocol::Request {
                method: Some(method.clone()),
                headers: headers.clone(),
                ..Default::default()
            };
            event.request = Some(request);
            Some(event)
        });
    });
    Some(Arc::new(hub))
}

/// Reports what the log calls an error.
pub struct ErrorReports;

impl<S: Subscriber> Layer<S> for ErrorReports {
    fn on_event(&self, line: &tracing::Event<'_>, _: LayerContext<'_, S>) {
        let metadata = line.metadata();
        let is_ours = metadata.target() == "auth_api" || metadata.target().starts_with("auth_api::");
        if *metadata.level() != tracing::Level::ERROR || !is_ours || !IS_ON.load(Ordering::Relaxed) {
            return;
        }
        let mut fields = Fields::default();
        line.record(&mut fields);
        let mut event = Event {
            level: Level::Error,
            logger: Some(metadata.target().to_owned()),
            message: Some(fields.message),
            ..Event::default()
        };
        event.extra.extend(fields.others.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        Hub::with_active(|hub| hub.capture_event(event));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name if FIELDS.contains(&name) => self.others.push((name, format!("{value:?}"))),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Where it was, and not what it said: that may quote a value.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let place = panic.location().map_or_else(|| "somewhere".to_owned(), ToString::to_string);
        let event = Event {
            level: Level::Fatal,
            logger: Some("panic".to_owned()),
            message: Some(format!("panicked at {place}")),
            ..Event::default()
        };
        Hub::with_active(|hub| hub.capture_event(event));
    }));
}

/// A new report, of what may leave of this one: whatever is added to one elsewhere, or by a later version of the library,
/// stays here unless it is named.
fn only_what_may_leave(event: Event<'static>) -> Option<Event<'static>> {
    let request = event.request.map(|request| sentry::protocol::Request {
        method: request.method,
        headers: request
            .headers
            .into_iter()
            .filter(|(name, _)| HEADERS.contains(&name.as_str()))
            .map(|(name, value)| (name, redacted(&value)))
            .collect(),
        ..Default::default()
    });
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(redacted(&text)),
        _ => None,
    };
    let trace = event.contexts.get("trace").and_then(|context| match context {
        Context::Trace(trace) => {
            Some(TraceContext { trace_id: trace.trace_id, span_id: trace.span_id, ..Default::default() })
        }
        _ => None,
    });
    Some(Event {
        event_id: event.event_id,
        timestamp: event.timestamp,
        level: event.level,
        platform: Cow::Borrowed("other"),
        release: event.release,
        environment: event.environment,
        sdk: event.sdk,
        logger: event.logger.map(|logger| redacted(&logger)),
        message: event.message.map(|message| redacted(&message)),
        tags: event.tags.into_iter().filter(|(name, _)| TAGS.contains(&name.as_str())).collect(),
        extra: event
            .extra
            .into_iter()
            .filter(|(name, _)| FIELDS.contains(&name.as_str()))
            .filter_map(|(name, value)| Some((name, text(value)?.into())))
            .collect(),
        contexts: trace.map(|trace| ("trace".to_owned(), Context::from(trace))).into_iter().collect(),
        request,
        ..Event::default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Event<'static>>>>);

    impl Transport for Kept {
        fn send_envelope(&self, envelope: sentry::Envelope) {
            self.0.lock().unwrap().extend(envelope.event().cloned());
        }
    }

    impl TransportFactory for Kept {
        fn create_transport_with_options(&self, _: TransportOptions) -> Arc<dyn Transport> {
            Arc::new(self.clone())
        }
    }

    #[test]
    fn errors_and_panics_are_reported_without_their_reasons() {
        let kept = Kept::default();
        let options = ClientOptions::new().dsn("https://key@sentry.example.org/1").transport(kept.clone());
        let hub = Hub::new(Some(Arc::new(options.before_send(only_what_may_leave).into())), Arc::default());
        IS_ON.store(true, Ordering::Relaxed);
        report_panics();
        Hub::run(Arc::new(hub), || {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(ErrorReports), || {
                tracing::warn!(code = "57P01", "only a warning");
                tracing::error!(target: "another_crate", "not ours");
                tracing::error!(code = "42883", cause = "hunter2", made = 1, "something is missing");
            });
            let secret = "hunter2";
            let _ = std::panic::catch_unwind(|| panic!("it was {secret}"));
        });
        let events = kept.0.lock().unwrap().clone();
        assert_eq!(events.len(), 2, "{events:#?}");
        assert_eq!(events[0].message.as_deref(), Some("something is missing"));
        assert_eq!(events[0].extra.iter().collect::<Vec<_>>(), [(&"code".to_owned(), &"42883".into())]);
        assert!(events[1].message.as_ref().is_some_and(|message| message.starts_with("panicked at api/src/telemetry")));
        assert!(!serde_json::to_string(&events).unwrap().contains("hunter2"), "{events:#?}");
    }

    #[test]
    fn what_is_not_named_does_not_leave() {
        let secret = "asr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let text = || Some(secret.to_owned());
        let all: BTreeMap<String, String> = ["content-type", "cookie", "authorization", "x-csrf-token"]
            .map(|name| (name.to_owned(), secret.to_owned()))
            .into();
        let mut event = Event {
            message: text(),
            logger: text(),
            culprit: text(),
            transaction: text(),
            server_name: Some(secret.into()),
            logentry: Some(sentry::protocol::LogEntry { message: secret.into(), params: vec![secret.into()] }),
            user: Some(sentry::User { email: text(), ..Default::default() }),
            request: Some(sentry::protocol::Request {
                url: format!("https://example.org/{secret}").parse().ok(),
                method: Some("POST".into()),
                data: text(),
                query_string: text(),
                cookies: text(),
                env: all.clone(),
                headers: all.clone(),
            }),
            exception: vec![sentry::protocol::Exception { value: text(), ..Default::default() }].into(),
            breadcrumbs: vec![sentry::Breadcrumb { message: text(), ..Default::default() }].into(),
            ..Event::default()
        };
        event.tags.extend(all.clone());
        event.tags.insert("request_id".into(), "request-1".into());
        event.extra.extend([("sql".to_owned(), "select 1".into()), ("cause".to_owned(), secret.into())]);
        event.contexts.insert("trace".into(), TraceContext { description: text(), ..Default::default() }.into());
        event.contexts.insert("other".into(), Context::Other([("a".to_owned(), secret.into())].into()));

        let event = serde_json::to_value(only_what_may_leave(event).unwrap()).unwrap();
        assert!(!event.to_string().contains("AAECAw"), "{event}");
        assert_eq!(event["extra"], serde_json::json!({"sql": "select 1"}));
        assert_eq!(event["tags"], serde_json::json!({"request_id": "request-1"}));
        let request = serde_json::json!({"method": "POST", "headers": {"content-type": "[redacted]"}});
        assert_eq!(event["request"], request);
    }
}
