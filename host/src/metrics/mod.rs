//! Metrics: what is counted, and how Prometheus gets to see it.
//!
//! - [`http`]: requests at the public address. Recorded on the request's path, so it has to be cheap.
//! - [`store`]: the commits of the log.
//! - [`histogram`]: what both count durations and sizes in.
//! - [`process`]: what the system says of this process.
//! - [`exposition`]: the two text formats, and which of them a client gets.
//!
//! Whatever somebody else counts anyway (the registry, the store, the runtime) is asked when a scrape comes, and never in
//! between. Everything lives as long as the process, so no counter ever goes back. Labels are bounded: each has its bound
//! where its values come from, and here for namespaces, which anybody who may register can make up.

mod exposition;
mod histogram;
mod http;
mod process;
mod store;

use std::fmt;
use std::sync::Arc;

use ::http::HeaderMap;
use ::store::{DurableStore, Store};
use bytes::Bytes;
use registry::{Namespace, Registry};
use tokio::sync::Semaphore;

use crate::telemetry::Dropped;
use exposition::Encoder;
use http::Http;

pub(crate) use exposition::Format;
pub(crate) use http::{Handler, InFlight};
pub(crate) use store::Commits;

/// Namespaces that have a label of their own. Those of this host come first, then the others by name; what is left is
/// counted together, as `other`.
const NAMESPACES: usize = 128;

/// Everything that is measured. Clones are the same.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    http: Http,
    sources: Sources,
    /// One scrape is rendered at a time: it is work, and anybody may ask for it.
    turn: Semaphore,
}

/// Who is asked when a scrape comes.
pub(crate) struct Sources {
    /// The instances.
    pub(crate) registry: Registry,
    /// The namespaces of this host's components.
    pub(crate) namespaces: Vec<Namespace>,
    /// Where values are kept.
    pub(crate) store: Arc<dyn Store>,
    /// The same, if it is on this host's disk.
    pub(crate) durable: Option<Arc<DurableStore>>,
    /// What its log has told.
    pub(crate) commits: Arc<Commits>,
    /// How many lines of the log nobody took.
    pub(crate) dropped: Dropped,
}

impl Metrics {
    /// Begins to measure, on so many workers.
    pub(crate) fn new(workers: usize, sources: Sources) -> Self {
        Self(Arc::new(Inner { http: Http::new(workers), sources, turn: Semaphore::new(1) }))
    }

    /// The handler of that name. Asked for once when routes are made, not on a request's path.
    pub(crate) fn handler(&self, name: &str) -> Arc<Handler> {
        self.0.http.handler(name)
    }

    /// Counts a request as being in flight until the returned guard is dropped.
    pub(crate) fn in_flight(&self, worker: usize) -> InFlight {
        self.0.http.in_flight(worker)
    }

    /// Everything as it is now, in the format that suits the client. Rendered aside: it must not hold up a worker.
    pub(crate) async fn scrape(&self, headers: &HeaderMap) -> (Format, Bytes) {
        let format = Format::negotiate(headers);
        let _turn = self.0.turn.acquire().await.expect("the semaphore is never closed");
        let this = self.clone();
        let rendered = tokio::task::spawn_blocking(move || this.render(format));
        (format, rendered.await.expect("rendering doesn't panic"))
    }

    fn render(&self, format: Format) -> Bytes {
        let this = self.clone();
        exposition::render(format, move |encoder| this.encode(encoder)).into()
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let Inner { http, sources, .. } = &*self.0;
        http.encode(encoder)?;
        sources.encode(encoder)?;
        process::encode(encoder)?;
        encoder.info("build", "The build that is running", &[("version", env!("CARGO_PKG_VERSION"))])
    }
}

#[cfg(test)]
impl Metrics {
    /// Those of a registry, and of nothing else.
    pub(crate) fn of(registry: &Registry) -> Self {
        let sources = Sources {
            registry: registry.clone(),
            namespaces: vec!["storage".parse().expect("a namespace")],
            store: Arc::new(::store::MemoryStore::default()),
            durable: None,
            commits: Arc::default(),
            dropped: Dropped::default(),
        };
        Self::new(1, sources)
    }
}

impl Sources {
    fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let mut instances = encoder.gauge("instances", "Instances that are registered, by namespace and state")?;
        for (namespace, available, total) in self.instances() {
            for (state, count) in [("available", available), ("unavailable", total - available)] {
                instances.sample(&[("namespace", &namespace), ("state", state)], count as u64)?;
            }
        }
        encoder.gauge("store_keys", "Keys in the store")?.sample(&[], self.store.stats().keys)?;
        if let Some(bytes) = self.durable.as_ref().and_then(|store| store.log_bytes()) {
            encoder.gauge("store_log_bytes", "Bytes of the store's log on disk")?.sample(&[], bytes)?;
            self.commits.encode(encoder)?;
        }
        let mut dropped = encoder.counter("log_lines_dropped", "Lines of the host's log that nobody took in time")?;
        dropped.sample(&[], self.dropped.get())
    }

    /// How many instances each namespace has: available, and in all.
    fn instances(&self) -> Vec<(String, usize, usize)> {
        let snapshot = self.registry.snapshot();
        let own = |name: &str| self.namespaces.iter().any(|own| own.as_str() == name);
        let (mut all, others): (Vec<_>, Vec<_>) =
            snapshot.namespaces().partition(|group| own(group.namespace().as_str()));
        all.extend(others);
        let named = all.len().min(NAMESPACES);
        let line = |group: &&Arc<registry::Group>| (group.namespace().to_string(), group.available(), group.total());
        let mut lines: Vec<_> = all[..named].iter().map(line).collect();
        if named < all.len() {
            let rest = &all[named..];
            let sum = |count: fn(&registry::Group) -> usize| rest.iter().map(|group| count(group)).sum();
            lines.push(("other".to_owned(), sum(registry::Group::available), sum(registry::Group::total)));
        }
        lines
    }
}
