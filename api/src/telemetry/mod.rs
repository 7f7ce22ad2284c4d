//! What leaves this process beside answers, mail and the log, where it is asked for: traces (OpenTelemetry) and reports of
//! errors (Sentry).
//!
//! Rules: only what these files name leaves, and none of it is a value from a request's URL, body, cookies or credentials, or
//! a parameter of a statement; nothing of a request waits for a receiver: what cannot be delivered is dropped.

mod errors;
mod redaction;
mod traces;

use std::{sync::Arc, time::Duration};

use futures_util::future::Either;
use opentelemetry::trace::FutureExt;
use opentelemetry_sdk::trace::SdkTracerProvider;
use poem::{Request, http::StatusCode};
use sentry::SentryFutureExt;

use self::traces::RequestSpan;
pub use self::{
    errors::{ErrorReports, ErrorsConfig},
    traces::{Ratio, TracesConfig, call, statement, step},
};
use crate::{app::RequestId, error::Code, operations::Operations};

/// How long a graceful stop waits for what is still to be delivered, of each kind.
const FLUSH: Duration = Duration::from_secs(5);

/// What is sent, and where to.
#[derive(Default)]
pub struct TelemetryConfig {
    /// Traces; none: off.
    pub traces: Option<TracesConfig>,
    /// Whether a request's own trace is gone on with.
    pub takes_trace_context: bool,
    /// Error reports; none: off.
    pub errors: Option<ErrorsConfig>,
}

/// What is to be delivered before the process ends.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    errors: Option<Arc<sentry::Client>>,
}

impl Telemetry {
    /// Begins. Not inside an asynchronous runtime: the client of the exporter has one of its own.
    pub fn start(config: TelemetryConfig) -> Result<Self, String> {
        Ok(Self {
            traces: traces::start(config.traces, config.takes_trace_context)?,
            errors: config.errors.map(errors::start).transpose()?,
        })
    }

    /// Delivers what is left, as far as that is possible in a few seconds. Not inside an asynchronous runtime.
    pub fn stop(self) {
        // Side by side: a receiver that hangs takes its own time, and not the other's as well.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Some(provider) = self.traces
                    && let Err(error) = provider.shutdown_with_timeout(FLUSH)
                {
                    tracing::warn!(%error, "the last traces were not delivered");
                }
            });
            // Not closed: that would wait for the end of a delivery that is under way, however long it takes.
            if let Some(client) = self.errors
                && !client.flush(Some(FLUSH))
            {
                tracing::warn!("the last error reports were not delivered");
            }
        });
    }
}

/// One request, as it is told of.
pub struct Observed {
    span: Option<RequestSpan>,
    hub: Option<Arc<sentry::Hub>>,
}

impl Observed {
    /// Begins its span, where there are any.
    pub fn begin(request: &Request, id: &RequestId, operations: &Operations) -> Self {
        let span = traces::begin(request, id, operations);
        Self { hub: errors::hub(request, id, operations, span.as_ref()), span }
    }

    /// The trace that it belongs to: of its own span, or of whoever called.
    pub fn trace_id(&self, request: &Request) -> Option<Arc<str>> {
        let own = self.span.as_ref().map(RequestSpan::trace_id);
        own.or_else(|| traces::trace_id(request.headers())).map(|trace_id| trace_id.to_string().into())
    }

    /// Runs it so that what it does is told of as a part of it.
    pub fn run<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let future = match &self.hub {
            Some(hub) => Either::Left(future.bind_hub(hub.clone())),
            None => Either::Right(future),
        };
        match &self.span {
            Some(span) => Either::Left(future.with_context(span.context().clone())),
            None => Either::Right(future),
        }
    }

    /// Ends its span.
    pub fn end(self, operation: &str, status: StatusCode, refusal: Option<Code>) {
        if let Some(span) = self.span {
            span.end(operation, status, refusal);
        }
    }
}
