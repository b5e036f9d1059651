//! What OpenTelemetry's environment variables say of traces. Their names and meanings are the standard's
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>); but a value that isn't one ends
//! the start, instead of being passed over.
//!
//! Traces are exported if an endpoint is given, or `OTEL_TRACES_EXPORTER` is `otlp`.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use reqwest::Url;
use trace::{Capacity, Root, Sampler};

/// Where traces go if it is only said that they do.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
/// What is added to an endpoint for all signals.
const PATH: &str = "v1/traces";
/// The only protocol there is here.
const PROTOCOL: &str = "http/protobuf";
/// Most spans that the queue may be told to hold: a gigabyte or so.
const MAX_QUEUE: usize = 1 << 20;

/// How traces are recorded and exported.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which are.
    pub(crate) sampler: Sampler,
    /// How many spans wait.
    pub(crate) capacity: Capacity,
    /// Where they are sent.
    pub(super) endpoint: Url,
    /// With these headers. They may hold secrets.
    pub(super) headers: HeaderMap,
    /// How long sending may take.
    pub(super) timeout: Duration,
    /// How long spans wait for others.
    pub(super) delay: Duration,
    /// Who we are.
    pub(super) resource: Vec<(String, String)>,
}

/// A variable with a value that isn't one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {reason}")]
pub(crate) struct BadVariable {
    variable: &'static str,
    reason: String,
}

impl Settings {
    /// Those of the process's environment; none if traces are not wanted.
    pub(crate) fn of_process() -> Result<Option<Self>, BadVariable> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, BadVariable> {
        let variables = Variables(variable);
        if variables.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = variables.text("OTEL_TRACES_EXPORTER");
        let Some(endpoint) = endpoint(&variables, exporter.as_deref())? else { return Ok(None) };
        let protocol = variables.either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
        if let Some((name, _)) = protocol.filter(|(_, protocol)| protocol != PROTOCOL) {
            return Err(bad(name, format!("traces are only sent by {PROTOCOL}, to port 4318 as a rule")));
        }
        let compression = variables.either("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION");
        if let Some((name, _)) = compression.filter(|(_, compression)| compression != "none") {
            return Err(bad(name, "traces are only sent uncompressed; write none".to_owned()));
        }
        let certificate = variables.either("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
        if let Some((name, _)) = certificate {
            return Err(bad(name, "certificates of one's own are not supported; use a local collector".to_owned()));
        }
        let timeout = variables.either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let timeout = timeout.map_or(Ok(10_000), |(name, text)| positive(name, &text))?;
        Ok(Some(Self {
            sampler: sampler(&variables)?,
            capacity: capacity(&variables)?,
            endpoint,
            headers: headers(&variables)?,
            timeout: Duration::from_millis(timeout.min(variables.number("OTEL_BSP_EXPORT_TIMEOUT", 30_000)?)),
            delay: Duration::from_millis(variables.number("OTEL_BSP_SCHEDULE_DELAY", 5000)?),
            resource: resource(&variables)?,
        }))
    }

    /// The endpoint without what could be a secret.
    pub(super) fn origin(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }
}

fn endpoint<V: Fn(&str) -> Option<String>>(
    variables: &Variables<V>,
    exporter: Option<&str>,
) -> Result<Option<Url>, BadVariable> {
    let (one, all) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
    let given = variables.either(one, all);
    let (name, text) = match (exporter, given) {
        (Some("none"), _) | (None, None) => return Ok(None),
        (Some("otlp"), None) => (all, DEFAULT_ENDPOINT.to_owned()),
        (None | Some("otlp"), Some(given)) => given,
        (Some(other), _) => {
            return Err(bad("OTEL_TRACES_EXPORTER", format!("{other:?} is no exporter there is; write otlp or none")));
        }
    };
    let wrong = |reason: &str| bad(name, format!("{reason}; write a URL like \"{DEFAULT_ENDPOINT}\""));
    let mut url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("it doesn't begin with http:// or https://"));
    }
    if name == all {
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(Some(url))
}

fn sampler<V: Fn(&str) -> Option<String>>(variables: &Variables<V>) -> Result<Sampler, BadVariable> {
    let name = "OTEL_TRACES_SAMPLER";
    let Some(text) = variables.text(name) else { return Ok(Sampler::default()) };
    let mut sampler = Sampler::from_str(&text).map_err(|error| bad(name, format!("{text:?}: {error}")))?;
    let name = "OTEL_TRACES_SAMPLER_ARG";
    if let (Root::Ratio(ratio), Some(text)) = (&mut sampler.root, variables.text(name)) {
        let given = text.parse().ok().filter(|given| (0.0..=1.0).contains(given));
        *ratio = given.ok_or_else(|| bad(name, format!("{text:?} is no ratio; write a number from 0 to 1")))?;
    }
    Ok(sampler)
}

fn capacity<V: Fn(&str) -> Option<String>>(variables: &Variables<V>) -> Result<Capacity, BadVariable> {
    let size = |name, default: usize| {
        let size = usize::try_from(variables.number(name, default as u64)?).unwrap_or(usize::MAX);
        if size > MAX_QUEUE { Err(bad(name, format!("it is more than {MAX_QUEUE}"))) } else { Ok(size) }
    };
    let queue = size("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?;
    let name = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
    let batch = size(name, 512.min(queue))?;
    if batch > queue {
        return Err(bad(name, format!("a batch of {batch} is more than the queue of {queue} holds")));
    }
    Ok(Capacity { queue, batch })
}

/// What is wrong is told by its place only: names may be secrets as well, if somebody has written a value without one.
fn headers<V: Fn(&str) -> Option<String>>(variables: &Variables<V>) -> Result<HeaderMap, BadVariable> {
    let given = variables.either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
    let Some((name, text)) = given else { return Ok(HeaderMap::new()) };
    let headers = pairs(name, &text)?.into_iter().zip(1..).map(|((key, value), place)| {
        let header = HeaderName::from_str(&key).ok().zip(HeaderValue::from_str(&value).ok());
        let (key, mut value) =
            header.ok_or_else(|| bad(name, format!("pair {place} is no header; write name=value")))?;
        value.set_sensitive(true);
        Ok((key, value))
    });
    headers.collect()
}

fn resource<V: Fn(&str) -> Option<String>>(variables: &Variables<V>) -> Result<Vec<(String, String)>, BadVariable> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = variables.text(name).map_or(Ok(Vec::new()), |text| pairs(name, &text))?;
    if let Some(service) = variables.text("OTEL_SERVICE_NAME") {
        attributes.retain(|(key, _)| key != "service.name");
        attributes.push(("service.name".to_owned(), service));
    }
    for (key, value) in [("service.name", "hostler"), ("service.version", env!("CARGO_PKG_VERSION"))] {
        if attributes.iter().all(|(known, _)| known != key) {
            attributes.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(attributes)
}

/// `key=value,key=value`, the values percent-encoded.
fn pairs(name: &'static str, text: &str) -> Result<Vec<(String, String)>, BadVariable> {
    let wrong = || bad(name, "it isn't of the form key=value,key=value, with values percent-encoded".to_owned());
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
            Ok((key.trim().to_owned(), value.into_owned()))
        })
        .collect()
}

/// Environment variables. One that is empty is as good as none.
struct Variables<V>(V);

impl<V: Fn(&str) -> Option<String>> Variables<V> {
    fn text(&self, name: &str) -> Option<String> {
        self.0(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The one for traces, or else the one for everything, and which of them it was.
    fn either(&self, traces: &'static str, all: &'static str) -> Option<(&'static str, String)> {
        [traces, all].into_iter().find_map(|name| Some((name, self.text(name)?)))
    }

    fn number(&self, name: &'static str, default: u64) -> Result<u64, BadVariable> {
        self.text(name).map_or(Ok(default), |text| positive(name, &text))
    }
}

fn positive(name: &'static str, text: &str) -> Result<u64, BadVariable> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| bad(name, format!("{text:?} is no whole number above 0")))
}

fn bad(variable: &'static str, reason: String) -> BadVariable {
    BadVariable { variable, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, BadVariable> {
        Settings::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn settings(variables: &[(&str, &str)]) -> Settings {
        read(variables).expect("it is right").expect("traces are wanted")
    }

    #[test]
    fn traces_are_exported_where_somebody_asks_for_it() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_TRACES_SAMPLER", "always_on")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "TRUE")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).expect("it is right").is_none(), "{variables:?}");
        }
        for (variables, endpoint) in [
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")][..], "http://c:4318/v1/traces"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/a/")], "https://c/a/v1/traces"),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/as/it/is")], "http://c:4318/as/it/is"),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], "http://localhost:4318/v1/traces"),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/")],
                "http://b/",
            ),
        ] {
            assert_eq!(settings(variables).endpoint.as_str(), endpoint);
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_standard_has_it() {
        let settings = settings(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(settings.sampler, Sampler { parent_based: true, root: Root::All });
        assert_eq!(settings.capacity, Capacity { queue: 2048, batch: 512 });
        assert_eq!((settings.timeout, settings.delay), (Duration::from_secs(10), Duration::from_secs(5)));
        assert!(settings.headers.is_empty());
        let [(name, service), (version, _)] = &settings.resource[..] else { panic!("{settings:?}") };
        assert_eq!((name.as_str(), service.as_str(), version.as_str()), ("service.name", "hostler", "service.version"));
    }

    #[test]
    fn everything_can_be_said() {
        let settings = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20YTpi, x-tenant = one"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "700"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,deployment.environment.name=a%20b,service.version=7"),
        ]);
        assert_eq!(settings.headers["authorization"], "Basic YTpi");
        assert_eq!(settings.headers["x-tenant"], "one");
        assert!(!format!("{settings:?}").contains("YTpi"), "{settings:?}");
        assert_eq!((settings.timeout, settings.delay), (Duration::from_millis(700), Duration::from_millis(50)));
        assert_eq!(settings.capacity, Capacity { queue: 10, batch: 10 });
        assert_eq!(settings.sampler, Sampler { parent_based: true, root: Root::Ratio(0.25) });
        let resource: Vec<_> = settings.resource.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected = [("deployment.environment.name", "a b"), ("service.version", "7"), ("service.name", "shop")];
        assert_eq!(resource, expected);
    }

    #[test]
    fn what_is_said_of_traces_goes_before_what_is_said_of_everything() {
        settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ]);
        for (all, traces, fine, wrong) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none", "gzip"),
        ] {
            let error = read(&[("OTEL_TRACES_EXPORTER", "otlp"), (all, fine), (traces, wrong)]).expect_err(traces);
            assert_eq!(error.variable, traces);
        }
    }

    #[test]
    fn a_value_that_is_none_is_told_with_its_variable() {
        for (name, value, said) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "begin with http://"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "no URL", "write a URL"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "uncompressed"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem", "not supported"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "5ecret", "key=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,two words=5ecret", "pair 2 is no header"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Basic 5ecret==", "pair 1 is no header; write name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=5ecret%0A", "pair 1 is no header"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "whole number"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999", "more than"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "queue of 2048"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_always_on"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5", "from 0 to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN", "from 0 to 1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a", "key=value"),
        ] {
            // The last of the same name is not looked at.
            let variables = [
                (name, value),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ];
            let error = read(&variables).expect_err(name).to_string();
            assert!(error.starts_with(name) && error.contains(said), "{error}");
            assert!(!error.contains("5ecret"), "{error}");
        }
    }
}
