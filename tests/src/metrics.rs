//! What Prometheus would read: the text of `/metrics`, of the service or of the exporter, taken apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::Api;

/// A sample: its labels and its value.
pub type Sample = (BTreeMap<String, String>, f64);

/// Samples by the names of their metrics.
pub type Samples = BTreeMap<String, Vec<Sample>>;

/// The samples of a text in Prometheus' format, or OpenMetrics'; panics on a line that is none.
pub fn samples(text: &str) -> Samples {
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("name{{labels}} value: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| {
            let (name, value) = label.split_once("=\"")?;
            Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
        samples.entry(name.to_owned()).or_default().push((labels.collect(), value));
    }
    samples
}

/// A metric as it is served or documented: its name, as its samples have it (without `_bucket` and the like of a histogram),
/// its type and the names of its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric {
    /// `auth_api_requests_total`.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// Without `le`.
    pub labels: Vec<String>,
}

/// What a text in the format of OpenMetrics serves; panics when a metric has no help, or one sample has other labels than
/// another one.
pub fn metrics(text: &str) -> BTreeSet<Metric> {
    let samples = samples(text);
    let words = |prefix: &'static str| text.lines().filter_map(move |line| line.strip_prefix(prefix)?.split_once(' '));
    assert!(text.ends_with("# EOF\n"), "cut off");
    let helped: BTreeSet<&str> = words("# HELP ").filter(|(_, help)| !help.is_empty()).map(|(name, _)| name).collect();
    let metric = |(name, kind): (&str, &str)| {
        assert!(helped.contains(name), "{name} has no help");
        let (name, first) = match kind {
            "counter" => (format!("{name}_total"), format!("{name}_total")),
            "info" => (format!("{name}_info"), format!("{name}_info")),
            "histogram" => (name.to_owned(), format!("{name}_count")),
            _ => (name.to_owned(), name.to_owned()),
        };
        let samples = samples.get(&first).unwrap_or_else(|| panic!("{name} has no sample"));
        let labels: BTreeSet<Vec<String>> =
            samples.iter().map(|(labels, _)| labels.keys().cloned().collect()).collect();
        assert_eq!(labels.len(), 1, "{name}: {labels:?}");
        Metric { name, kind: kind.to_owned(), labels: labels.into_iter().next().unwrap_or_default() }
    };
    words("# TYPE ").map(metric).collect()
}

/// What the service at this address tells Prometheus.
pub async fn scrape(api: &Api) -> String {
    let answer = api.get("/metrics", "").await.expect(200);
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(format));
    answer.text()
}

/// The value of one series; panics when it is not there.
#[track_caller]
pub fn value_of(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = samples.get(name).unwrap_or_else(|| panic!("{name} is not served"));
    let fits = |sample: &&Sample| labels.iter().all(|(label, value)| sample.0.get(*label).is_some_and(|v| v == value));
    found.iter().find(fits).unwrap_or_else(|| panic!("{name}: no {labels:?} in {found:?}")).1
}
