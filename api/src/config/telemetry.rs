//! The settings of traces and error reports: the standard variables of OpenTelemetry and Sentry, as far as they are listed
//! here. What they cannot mean here is refused, where the libraries would go on with something else.

use std::{collections::HashMap, time::Duration};

use url::Url;

use super::{ConfigError, Reader};
use crate::telemetry::{ErrorsConfig, Ratio, TelemetryConfig, TracesConfig};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "Where traces go (OTLP over HTTP): http://127.0.0.1:4318; /v1/traces is added. Without it there are none",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "The same, to the letter: nothing is added"),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "",
        "Headers for it: name=value,name=value, values percent-encoded. They may hold a secret, and then want https",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "", "The same, instead of those"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "http/protobuf is the only one here"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "", "The same"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "none", "none is the only one here"),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "", "The same"),
    (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "10000",
        "Milliseconds that one delivery may take, 1 to 60000; no request waits for it",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "", "The same"),
    ("OTEL_TRACES_EXPORTER", "otlp", "otlp, or none: no traces"),
    ("OTEL_SDK_DISABLED", "false", "true: no traces"),
    (
        "OTEL_PROPAGATORS",
        "tracecontext,baggage",
        "With tracecontext, a request's own trace (traceparent) is gone on with, and its id is in the log and in the audit \
         log even without an endpoint; none: traces begin here. Baggage is not looked at",
    ),
    (
        "OTEL_TRACES_SAMPLER",
        "parentbased_always_on",
        "always_on, always_off, traceidratio, or parentbased_ before one of these: then whoever sends a traceparent says \
         whether its trace is recorded",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", "1", "The ratio of traceidratio, 0 to 1"),
    ("OTEL_SERVICE_NAME", "auth-api", "What this service is called in traces"),
    ("OTEL_RESOURCE_ATTRIBUTES", "", "What else is said of it: name=value,name=value, values percent-encoded"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "2048", "Spans that wait for delivery, 1 to 1000000; more are dropped"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", "Spans in one delivery, 1 to the size of the queue"),
    ("OTEL_BSP_SCHEDULE_DELAY", "5000", "Milliseconds that spans wait for others to go along, 1 to 600000"),
    (
        "SENTRY_DSN",
        "",
        "Where what the log calls an error, and panics, are reported to (Sentry, or what speaks its protocol): without \
         bodies, URLs, addresses and credentials. Without it, nowhere",
    ),
    ("SENTRY_ENVIRONMENT", "production", "What this installation is called there"),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// What leaves for whom.
    pub(super) fn telemetry(&self) -> Result<TelemetryConfig, ConfigError> {
        Ok(TelemetryConfig {
            traces: self.traces()?,
            takes_trace_context: self.takes_trace_context()?,
            errors: self.errors()?,
        })
    }

    fn traces(&self) -> Result<Option<TracesConfig>, ConfigError> {
        // All are looked at, whether or not they will be used: what is wrong shows when it is written.
        let endpoint = self.traces_endpoint()?;
        self.only("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")?;
        self.only("OTEL_EXPORTER_OTLP_COMPRESSION", "none")?;
        let timeout = self.specific("OTEL_EXPORTER_OTLP_TIMEOUT").unwrap_or("OTEL_EXPORTER_OTLP_TIMEOUT".into());
        let timeout = Duration::from_millis(self.number(&timeout, 1, 60_000)?);
        let headers = match self.specific("OTEL_EXPORTER_OTLP_HEADERS") {
            Some(name) => self.headers(&name)?,
            None => HashMap::new(),
        };
        let queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", 1, 1_000_000)?;
        let batch = self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, queue.max(512))?;
        let delay = Duration::from_millis(self.number("OTEL_BSP_SCHEDULE_DELAY", 1, 600_000)?);
        let (ratio, resource) = (self.ratio()?, self.resource()?);
        let is_wanted = match self.text("OTEL_TRACES_EXPORTER").as_str() {
            "otlp" => !self.parsed::<bool>("OTEL_SDK_DISABLED")?,
            "none" => false,
            other => {
                return Err(ConfigError(format!("OTEL_TRACES_EXPORTER={other} cannot be used: it is otlp or none.")));
            }
        };
        let config = |endpoint| TracesConfig {
            endpoint,
            headers,
            timeout,
            resource,
            ratio,
            queue: queue as usize,
            batch: batch.min(queue) as usize,
            delay,
        };
        Ok(endpoint.filter(|_| is_wanted).map(config))
    }

    /// The variable for traces alone, or that for all signals, whichever is set.
    fn specific(&self, general: &str) -> Option<String> {
        let specific = general.replace("_OTLP_", "_OTLP_TRACES_");
        // Both are read, so that the help can be compared with what is read.
        let (own, common) = (self.optional(&specific), self.optional(general));
        own.map(|_| specific).or(common.map(|_| general.to_owned()))
    }

    fn only(&self, name: &str, value: &str) -> Result<(), ConfigError> {
        let name = self.specific(name).unwrap_or_else(|| name.to_owned());
        match self.text(&name) {
            set if set == value => Ok(()),
            set => Err(ConfigError(format!("{name}={set} cannot be used: it must be {value}."))),
        }
    }

    fn traces_endpoint(&self) -> Result<Option<Url>, ConfigError> {
        let Some(name) = self.specific("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        // Not repeated: it may hold a password.
        let unusable = || ConfigError(format!("{name} cannot be used. It must look like http://127.0.0.1:4318."));
        let mut url = Url::parse(&self.text(&name)).map_err(|_| unusable())?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() || url.cannot_be_a_base() {
            return Err(unusable());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError(format!(
                "{name} cannot be used with a password in it. Put credentials into OTEL_EXPORTER_OTLP_HEADERS."
            )));
        }
        if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok(Some(url))
    }

    fn headers(&self, name: &str) -> Result<HashMap<String, String>, ConfigError> {
        use poem::http::{HeaderName, HeaderValue};
        let headers = self.pairs(name)?;
        let is_header = |(name, value): &(String, String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        if !headers.iter().all(is_header) {
            return Err(ConfigError(format!("{name} cannot be used: what is in it are no headers.")));
        }
        Ok(headers.into_iter().collect())
    }

    /// `name=value,name=value`, as in W3C Baggage. The values are not repeated in what is said.
    fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let unusable = || ConfigError(format!("{name} cannot be used. It must look like name=value,name=value."));
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').ok_or_else(unusable)?;
            let key = key.trim();
            if key.is_empty() {
                return Err(unusable());
            }
            Ok((key.to_owned(), percent_decoded(value.trim()).ok_or_else(unusable)?))
        };
        self.text(name).split(',').map(str::trim).filter(|text| !text.is_empty()).map(pair).collect()
    }

    fn resource(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let mut resource = self.pairs("OTEL_RESOURCE_ATTRIBUTES")?;
        let is_set = |resource: &[(String, String)], name| resource.iter().any(|(key, _)| key == name);
        // OTEL_SERVICE_NAME wins, where it is set.
        if self.optional("OTEL_SERVICE_NAME").is_some() || !is_set(&resource, "service.name") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".into(), self.text("OTEL_SERVICE_NAME")));
        }
        if !is_set(&resource, "service.version") {
            resource.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
        }
        Ok(resource)
    }

    fn ratio(&self) -> Result<Ratio, ConfigError> {
        let argument: f64 = self.parsed("OTEL_TRACES_SAMPLER_ARG")?;
        if !(0.0..=1.0).contains(&argument) {
            return Err(ConfigError(format!(
                "OTEL_TRACES_SAMPLER_ARG={argument} cannot be used: it must be between 0 and 1."
            )));
        }
        let sampler = self.text("OTEL_TRACES_SAMPLER");
        let (parent_decides, root) = match sampler.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, sampler.as_str()),
        };
        let of = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument,
            _ => {
                return Err(ConfigError(format!(
                    "OTEL_TRACES_SAMPLER={sampler} cannot be used: it is always_on, always_off, traceidratio, or parentbased_ \
                     before one of these."
                )));
            }
        };
        Ok(Ratio { of, parent_decides })
    }

    fn takes_trace_context(&self) -> Result<bool, ConfigError> {
        let propagators = self.text("OTEL_PROPAGATORS");
        let names: Vec<&str> = propagators.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        match names.iter().find(|name| !["tracecontext", "baggage", "none"].contains(*name)) {
            Some(other) => Err(ConfigError(format!(
                "OTEL_PROPAGATORS={propagators} cannot be used: {other} is none of tracecontext, baggage and none."
            ))),
            None => Ok(names.contains(&"tracecontext")),
        }
    }

    fn errors(&self) -> Result<Option<ErrorsConfig>, ConfigError> {
        let environment = self.text("SENTRY_ENVIRONMENT");
        let Some(dsn) = self.optional("SENTRY_DSN") else { return Ok(None) };
        // Not repeated: it holds a key.
        let dsn = dsn.parse().map_err(|_| {
            ConfigError("SENTRY_DSN cannot be used. It must look like https://key@sentry.example.org/1.".into())
        })?;
        Ok(Some(ErrorsConfig { dsn, environment }))
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Result<TelemetryConfig, String> {
        let reader = Reader(|name: &str| {
            settings.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        });
        reader.telemetry().map_err(|error| error.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");

    #[test]
    fn without_a_receiver_nothing_leaves() {
        for settings in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "auth")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "true")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            let config = with(settings).unwrap();
            assert!(config.traces.is_none() && config.errors.is_none() && config.takes_trace_context);
        }
        assert!(!with(&[("OTEL_PROPAGATORS", "none")]).unwrap().takes_trace_context);
        assert!(with(&[("SENTRY_DSN", "https://key@sentry.example.org/1")]).unwrap().errors.is_some());
    }

    #[test]
    fn the_standard_variables_mean_what_the_standard_says() {
        let traces = with(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20hunter2, x-tenant = a"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%2Cb"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
        ]);
        let traces = traces.unwrap().traces.unwrap();
        assert_eq!(traces.endpoint.as_str(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(traces.headers["authorization"], "Basic hunter2");
        assert_eq!(traces.headers["x-tenant"], "a");
        assert_eq!(traces.ratio, Ratio { of: 0.25, parent_decides: false });
        assert_eq!((traces.queue, traces.batch, traces.timeout.as_secs()), (10, 10, 10));
        let resource: HashMap<_, _> = traces.resource.into_iter().collect();
        assert_eq!(resource["service.name"], "other");
        assert_eq!(resource["deployment.environment.name"], "a,b");

        let own = [
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example.org/own"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2"),
            ("OTEL_SERVICE_NAME", "auth"),
        ];
        let traces = with(&own).unwrap().traces.unwrap();
        assert_eq!(traces.endpoint.as_str(), "https://traces.example.org/own");
        assert_eq!(traces.timeout.as_millis(), 1);
        assert!(traces.resource.contains(&("service.name".into(), "auth".into())));
        assert_eq!(traces.ratio, Ratio { of: 1.0, parent_decides: true });
    }

    #[test]
    fn what_cannot_be_used_is_named_and_no_secret_repeated() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://127.0.0.1:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://ada:hunter2@traces.example.org"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization:hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2%zz"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "author ization=hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_EXPORTER", "jaeger"),
            ("OTEL_SDK_DISABLED", "perhaps"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("SENTRY_DSN", "https://hunter2.example.org"),
            ("SENTRY_DSN", "hunter2"),
        ] {
            let sentence = with(&[(name, value)]).err().unwrap_or_else(|| panic!("{name}={value}"));
            assert!(sentence.contains(name) && !sentence.contains("hunter2"), "{name}={value}: {sentence}");
        }
    }
}
