//! OTLP 1.x: as much of `opentelemetry/proto` (`trace/v1`, `common/v1`, `resource/v1`, `collector/trace/v1`) as is sent.
//!
//! Numbers of fields are the standard's and never change. The crate `opentelemetry-proto` has all of the messages, but
//! brings the whole SDK with it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};
use trace::{Kind, Span, Value};

/// `STATUS_CODE_ERROR`
const ERROR: i32 = 2;

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// `Resource`: who tells of the spans.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// `Span`
#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "OneValue", tags = "1, 3")]
    value: Option<OneValue>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OneValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

impl Resource {
    pub(super) fn new(attributes: Vec<(String, String)>) -> Self {
        Self {
            attributes: attributes.into_iter().map(|(key, text)| KeyValue::new(key, OneValue::Text(text))).collect(),
        }
    }
}

impl Request {
    /// Tells of these spans.
    pub(super) fn new(resource: &Resource, spans: impl IntoIterator<Item = Box<Span>>) -> Self {
        let clock = Clock::now();
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let spans = spans.into_iter().map(|span| SpanMessage::new(*span, &clock)).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Self { resource_spans: vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }] }
    }
}

impl SpanMessage {
    fn new(span: Span, clock: &Clock) -> Self {
        let attributes = span.attributes.into_iter().map(|(key, value)| {
            let value = match value {
                Value::Text(text) => OneValue::Text(text.into_owned()),
                Value::Number(number) => OneValue::Number(number),
            };
            KeyValue::new(key.to_owned(), value)
        });
        Self {
            trace_id: span.trace.to_bytes().to_vec(),
            span_id: span.id.to_bytes().to_vec(),
            parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.to_bytes().to_vec()),
            name: span.name.into_owned(),
            kind: match span.kind {
                Kind::Internal => 1,
                Kind::Server => 2,
                Kind::Client => 3,
            },
            start_time_unix_nano: clock.at(span.begun),
            end_time_unix_nano: clock.at(span.ended),
            attributes: attributes.collect(),
            status: span.failed.then_some(Status { code: ERROR }),
        }
    }
}

impl KeyValue {
    fn new(key: String, value: OneValue) -> Self {
        Self { key, value: Some(AnyValue { value: Some(value) }) }
    }
}

/// One moment on both clocks, so that all spans of a batch keep their distances.
struct Clock {
    monotonic: Instant,
    /// Nanoseconds since 1970.
    system: u128,
}

impl Clock {
    fn now() -> Self {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { monotonic: Instant::now(), system }
    }

    /// Nanoseconds since 1970 at a moment that has passed.
    fn at(&self, moment: Instant) -> u64 {
        let ago = self.monotonic.saturating_duration_since(moment).as_nanos();
        u64::try_from(self.system.saturating_sub(ago)).unwrap_or(u64::MAX)
    }
}
