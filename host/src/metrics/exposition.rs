//! The two text formats: OpenMetrics, written by `prometheus-client`, and Prometheus's own, which older scrapers and
//! people with `curl` get.
//!
//! The second is made from the first: samples are the same in both; what differs is how metrics are announced.

use std::fmt::{self, Debug, Write};
use std::sync::Mutex;

use http::HeaderMap;
use http::header::ACCEPT;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::Sum;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// The one that a client prefers. One that has no preference gets what every client reads.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let mut best = (0.0, Self::Prometheus);
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in accepted.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next() {
                Some(media) if media.eq_ignore_ascii_case("application/openmetrics-text") => Self::OpenMetrics,
                Some("text/plain" | "text/*" | "*/*") => Self::Prometheus,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse).unwrap_or(0.0);
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The media type to say.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes what `encode` has to say.
pub(super) fn render(format: Format, encode: impl Fn(&mut Encoder<'_>) -> fmt::Result + Send + 'static) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Once(Mutex::new(encode))));
    let mut metrics = String::new();
    text::encode(&mut metrics, &registry).expect("a String can be written");
    match format {
        Format::OpenMetrics => metrics,
        Format::Prometheus => to_prometheus(&metrics),
    }
}

/// The same metrics in Prometheus's format. There, counters are announced with their `_total`, what is only there for its
/// labels is a gauge, and neither units nor the end are told.
fn to_prometheus(metrics: &str) -> String {
    let mut out = String::with_capacity(metrics.len());
    let mut help = "";
    for line in metrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            write!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n")
                .expect("a String can be written");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The labels of a sample, names and values.
type Labels<'a> = [(&'a str, &'a str)];

/// Takes metrics one after the other.
pub(super) struct Encoder<'a>(DescriptorEncoder<'a>);

/// Takes the samples of a counter.
pub(super) struct Counter<'a>(MetricEncoder<'a>);

/// Takes the samples of a gauge.
pub(super) struct Gauge<'a>(MetricEncoder<'a>);

/// Takes the samples of a histogram.
pub(super) struct Distribution<'a>(MetricEncoder<'a>);

impl Encoder<'_> {
    /// A counter. Its samples are called `name_total`.
    pub(super) fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Counter<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Counter).map(Counter)
    }

    /// A gauge.
    pub(super) fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Gauge<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge).map(Gauge)
    }

    /// A histogram.
    pub(super) fn histogram<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Distribution<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Histogram).map(Distribution)
    }

    /// Labels for their own sake: `name_info`, which is always 1.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &Labels<'_>) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }
}

impl Counter<'_> {
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl EncodeCounterValue) -> fmt::Result {
        if labels.is_empty() {
            return self.0.encode_counter::<NoLabelSet, _, f64>(&value, None);
        }
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }
}

impl Gauge<'_> {
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl EncodeGaugeValue) -> fmt::Result {
        if labels.is_empty() {
            return self.0.encode_gauge(&value);
        }
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }
}

impl Distribution<'_> {
    pub(super) fn sample(&mut self, labels: &Labels<'_>, sum: &Sum) -> fmt::Result {
        let (total, count, buckets) = (sum.sum(), sum.count(), sum.buckets());
        if labels.is_empty() {
            return self.0.encode_histogram::<NoLabelSet>(total, count, &buckets, None);
        }
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(total, count, &buckets, None)
    }
}

/// What the library asks for metrics. Made for one scrape.
struct Once<F>(Mutex<F>);

impl<F> Debug for Once<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl<F: Fn(&mut Encoder<'_>) -> fmt::Result + Send + 'static> Collector for Once<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encode = self.0.lock().expect("it is used once");
        encode(&mut Encoder(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::{Histogram, Scale};
    use super::*;

    static SCALE: Scale = Scale { bounds: &[1_000, 250_000_000], divisor: 1e9 };

    fn some(encoder: &mut Encoder<'_>) -> fmt::Result {
        encoder.counter("deeds", "What was done")?.sample(&[("who", "me"), ("what", "this")], 3u64)?;
        encoder.gauge("mood", "How it is")?.sample(&[], 0.5)?;
        let histogram = Histogram::new(&SCALE);
        histogram.record(2_000);
        let mut sum = Sum::new(&SCALE);
        sum.add(&histogram);
        encoder.histogram("wait_seconds", "How long")?.sample(&[("who", "me")], &sum)?;
        encoder.info("build", "Which one", &[("version", "1")])
    }

    const SAMPLES: [&str; 6] = [
        r#"wait_seconds_sum{who="me"} 0.000002"#,
        r#"wait_seconds_count{who="me"} 1"#,
        r#"wait_seconds_bucket{le="0.000001",who="me"} 0"#,
        r#"wait_seconds_bucket{le="0.25",who="me"} 1"#,
        r#"wait_seconds_bucket{le="+Inf",who="me"} 1"#,
        r#"build_info{version="1"} 1"#,
    ];

    #[test]
    fn writes_openmetrics() {
        let text = render(Format::OpenMetrics, some);
        assert!(
            text.starts_with(
                "# HELP deeds What was done\n# TYPE deeds counter\ndeeds_total{who=\"me\",what=\"this\"} 3\n"
            ),
            "{text}"
        );
        assert!(text.contains("# TYPE build info\n") && text.ends_with("# EOF\n"), "{text}");
        for sample in SAMPLES {
            assert!(text.lines().any(|line| line == sample), "no {sample} in {text}");
        }
    }

    #[test]
    fn writes_prometheus() {
        let text = render(Format::Prometheus, some);
        let begin = "# HELP deeds_total What was done\n# TYPE deeds_total counter\ndeeds_total{who=\"me\",what=\"this\"} 3\n\
                     # HELP mood How it is\n# TYPE mood gauge\nmood 0.5\n# HELP wait_seconds How long\n\
                     # TYPE wait_seconds histogram\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("# TYPE build_info gauge\n") && !text.contains("EOF"), "{text}");
        for sample in SAMPLES {
            assert!(text.lines().any(|line| line == sample), "no {sample} in {text}");
        }
    }

    #[test]
    fn the_client_decides() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.9", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("application/json", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a test's value"));
            assert_eq!(Format::negotiate(&headers), format, "{accept}");
        }
        assert_eq!(Format::negotiate(&HeaderMap::new()), Format::Prometheus);
    }
}
