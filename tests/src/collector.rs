//! A collector of traces: an OTLP receiver, which keeps what it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;

use crate::otlp::{
    AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, OneValue, Span as Message, SpanKind,
    Status, StatusCode,
};
use crate::{Builder, Remote};

/// Keeps what it is sent. Ends when it is dropped.
pub struct Collector {
    remote: Remote,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    headers: Vec<BTreeMap<String, String>>,
    /// What came, as it came.
    bytes: Vec<u8>,
}

/// A span that was received. Ids are hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: String,
    /// Itself.
    pub id: String,
    /// Its parent; empty if it has none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `Internal`, `Server` or `Client`.
    pub kind: String,
    /// Nanoseconds since 1970.
    pub begun: u64,
    /// Nanoseconds since 1970.
    pub ended: u64,
    /// Its attributes, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether its status is an error.
    pub failed: bool,
}

impl Collector {
    /// Starts one that takes everything.
    pub fn start() -> Self {
        let received = Arc::<Mutex<Received>>::default();
        let taking = received.clone();
        let remote = Remote::start(move |exchange| {
            assert_eq!((exchange.method.as_str(), exchange.target.as_str()), ("POST", "/v1/traces"));
            assert_eq!(exchange.headers["content-type"], "application/x-protobuf");
            let headers = exchange.headers.clone().into_iter().collect();
            let body = exchange.body().expect("a whole body");
            lock(&taking).take(headers, body);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            exchange.answer(200, &[("content-type", "application/x-protobuf")], &answer);
        });
        Self { remote, received }
    }

    /// Has a host send its spans here, all of them, the last ones when it stops.
    pub fn collects_from(&self, host: Builder) -> Builder {
        host.env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.remote.url()).env("OTEL_BSP_MAX_QUEUE_SIZE", "10000")
    }

    /// Where it is, for those who send to it in another way.
    pub fn url(&self) -> String {
        self.remote.url()
    }

    /// What was received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received().spans.clone()
    }

    /// What was received of one trace.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        self.received().spans.iter().filter(|span| span.trace == id).cloned().collect()
    }

    /// The traces of which something was received.
    pub fn traces(&self) -> BTreeSet<String> {
        self.spans().into_iter().map(|span| span.trace).collect()
    }

    /// One trace as a tree: the names, each indented below its parent's, siblings in the order in which they began.
    pub fn tree(&self, id: &str) -> String {
        let spans = self.trace(id);
        let is_root = |span: &&Span| spans.iter().all(|other| other.id != span.parent);
        let mut tree = String::new();
        for root in spans.iter().filter(is_root) {
            draw(root, &spans, 0, &mut tree);
        }
        tree
    }

    /// Who sent it all.
    pub fn resource(&self) -> BTreeMap<String, String> {
        self.received().resource.clone()
    }

    /// The headers of each export.
    pub fn headers(&self) -> Vec<BTreeMap<String, String>> {
        self.received().headers.clone()
    }

    /// Whether a text is anywhere in what was received.
    pub fn saw(&self, text: &str) -> bool {
        self.received().bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Received {
    fn take(&mut self, headers: BTreeMap<String, String>, body: Vec<u8>) {
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("an export of traces");
        self.headers.push(headers);
        self.bytes.extend(body);
        for of_one in request.resource_spans {
            self.resource = texts(of_one.resource.expect("a resource").attributes);
            self.spans.extend(of_one.scope_spans.into_iter().flat_map(|scope| scope.spans).map(Span::new));
        }
    }
}

impl Span {
    fn new(message: Message) -> Self {
        let kind = match message.kind() {
            SpanKind::Internal => "Internal",
            SpanKind::Server => "Server",
            SpanKind::Client => "Client",
            other => panic!("{other:?} in {message:?}"),
        };
        Self {
            trace: hex(&message.trace_id),
            id: hex(&message.span_id),
            parent: hex(&message.parent_span_id),
            kind: kind.to_owned(),
            begun: message.start_time_unix_nano,
            ended: message.end_time_unix_nano,
            attributes: texts(message.attributes),
            failed: message.status.as_ref().map(Status::code) == Some(StatusCode::Error),
            name: message.name,
        }
    }

    /// An attribute; empty if it has none of that name.
    pub fn get(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).map_or("", String::as_str)
    }
}

fn draw(span: &Span, all: &[Span], depth: usize, tree: &mut String) {
    tree.push_str(&format!("{}{}\n", "  ".repeat(depth), span.name));
    let mut children: Vec<_> = all.iter().filter(|child| child.parent == span.id).collect();
    children.sort_by_key(|child| child.begun);
    for child in children {
        draw(child, all, depth + 1, tree);
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(OneValue::String(text)) => text,
        Some(OneValue::Int(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
