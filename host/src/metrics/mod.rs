//! Metrics: what is counted, and how Prometheus gets to see it.
//!
//! - [`http`]: requests at the public address. Recorded on the request's path, so it has to be cheap.
//! - [`store`]: the commits of the log.
//! - [`histogram`]: what both count durations and sizes in.
//! - [`process`]: what the system says of this process.
//! - [`exposition`]: the two text formats, and which of them a client gets.
//!
//! Whatever somebody else counts anyway (the registry, the store, the runtime) is asked when a scrape comes, and never in
//! between. Everything that counts lives as long as the process, so no counter ever goes back. Labels are bounded: each has its
//! bound where its values come from.

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
use registry::Registry;
use runtime::{ComponentStats, Runtime};
use tokio::sync::Semaphore;
use trace::Tracer;

use crate::swap::Swapper;
#[cfg(test)]
use crate::swap::testing;
use crate::telemetry::Dropped;
use exposition::Encoder;
use histogram::Sum;
use http::Http;

pub(crate) use exposition::Format;
pub(crate) use http::Handler;
pub(crate) use store::Commits;

/// Everything that is measured. Clones are the same.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    http: Http,
    sources: Sources,
    /// One scrape is rendered at a time: it is work, and anybody may ask for it.
    turn: Semaphore,
}

/// What has been counted since the start of the process.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Requests that have ended.
    pub(crate) requests: u64,
    /// Those of them that were answered by a 5xx.
    pub(crate) errors: u64,
    /// How long they took.
    pub(crate) durations: Sum,
    /// How long syncs of the store's log took.
    pub(crate) syncs: Sum,
}

/// Nothing.
impl Default for Totals {
    fn default() -> Self {
        Self { requests: 0, errors: 0, durations: Http::no_durations(), syncs: Commits::no_syncs() }
    }
}

/// Who is asked when a scrape comes.
pub(crate) struct Sources {
    /// The instances.
    pub(crate) registry: Registry,
    /// The components.
    pub(crate) runtime: Arc<Runtime>,
    /// Who replaces them.
    pub(crate) swapper: Swapper,
    /// Where values are kept.
    pub(crate) store: Arc<dyn Store>,
    /// The same, if it is on this host's disk.
    pub(crate) durable: Option<Arc<DurableStore>>,
    /// What its log has told.
    pub(crate) commits: Arc<Commits>,
    /// How many lines of the log nobody took.
    pub(crate) dropped: Dropped,
    /// What records traces, if anybody wants them.
    pub(crate) tracer: Option<Tracer>,
}

impl Metrics {
    /// Begins to measure, on so many workers.
    pub(crate) fn new(workers: usize, sources: Sources) -> Self {
        Self(Arc::new(Inner { http: Http::new(workers), sources, turn: Semaphore::new(1) }))
    }

    /// The handler of that name. Cheap, but for the first time.
    pub(crate) fn handler(&self, name: &str) -> &'static Handler {
        self.0.http.handler(name)
    }

    /// A request came to a worker. It must leave again.
    pub(crate) fn came(&self, worker: usize) {
        self.0.http.came(worker);
    }

    /// The answer of one that came has ended.
    pub(crate) fn left(&self, worker: usize) {
        self.0.http.left(worker);
    }

    /// What has been counted until now.
    pub(crate) fn totals(&self) -> Totals {
        let (requests, errors, durations) = self.0.http.totals();
        Totals { requests, errors, durations, syncs: self.0.sources.commits.syncs() }
    }

    /// Requests whose answer has not ended.
    pub(crate) fn in_flight_now(&self) -> u64 {
        self.0.http.in_flight_now()
    }

    /// Who knows the rest.
    pub(crate) fn sources(&self) -> &Sources {
        &self.0.sources
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
            runtime: testing::runtime(),
            swapper: testing::swapper(Vec::new()).0,
            store: Arc::new(::store::MemoryStore::default()),
            durable: None,
            commits: Arc::default(),
            dropped: Dropped::default(),
            tracer: None,
        };
        Self::new(1, sources)
    }
}

impl Sources {
    fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        self.instances(encoder)?;
        self.guests(encoder)?;
        let mut swaps = encoder.counter("swaps", "Swaps of components, by what became of them")?;
        for (component, result, count) in self.swapper.counts() {
            swaps.sample(&[("component", &component), ("result", result)], count)?;
        }
        if let Some(stats) = self.store.stats() {
            encoder.gauge("store_keys", "Keys in the store")?.sample(&[], stats.keys)?;
        }
        if let Some(bytes) = self.durable.as_ref().and_then(|store| store.log_bytes()) {
            encoder.gauge("store_log_bytes", "Bytes of the store's log on disk")?.sample(&[], bytes)?;
            self.commits.encode(encoder)?;
        }
        let help = "Lines of the host's log that were dropped because nobody took them in time";
        encoder.counter("log_lines_dropped", help)?.sample(&[], self.dropped.get())?;
        let (exported, dropped) = self.tracer.as_ref().map_or((0, 0), |tracer| (tracer.exported(), tracer.dropped()));
        encoder.counter("trace_spans_exported", "Spans that the collector has taken")?.sample(&[], exported)?;
        let help = "Spans that were lost: the queue was full, or the collector didn't take them";
        encoder.counter("trace_spans_dropped", help)?.sample(&[], dropped)
    }

    fn instances(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let snapshot = self.registry.snapshot();
        let mut rest = None;
        let mut instances = encoder.gauge("instances", "Instances that are registered")?;
        let mut show = |name: &str, available: usize, total: usize| -> fmt::Result {
            for (state, count) in [("available", available), ("unavailable", total - available)] {
                instances.sample(&[("namespace", name), ("state", state)], count as u64)?;
            }
            Ok(())
        };
        for group in snapshot.namespaces() {
            let (available, total) = (group.available(), group.total());
            if group.is_named() {
                show(group.namespace().as_str(), available, total)?;
            } else {
                let (more_available, more) = rest.unwrap_or_default();
                rest = Some((more_available + available, more + total));
            }
        }
        if let Some((available, total)) = rest {
            show(registry::REST, available, total)?;
        }
        let mut retries = encoder.counter("retries", "Requests that were sent to another instance")?;
        let counted = snapshot.retries();
        for (namespace, count) in &counted.named {
            retries.sample(&[("namespace", namespace.as_str())], *count)?;
        }
        if rest.is_some() || counted.rest > 0 {
            retries.sample(&[("namespace", registry::REST)], counted.rest)?;
        }
        Ok(())
    }

    fn guests(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let stats = self.runtime.stats();
        let mut guests = encoder.gauge("guests", "Guests that are alive, of all revisions")?;
        for ComponentStats { component, guests: census, .. } in &stats {
            for (state, count) in [("busy", census.busy), ("idle", census.idle)] {
                guests.sample(&[("component", component), ("state", state)], count as u64)?;
            }
        }
        let mut waiting = encoder.gauge("requests_waiting", "Requests that wait for a guest")?;
        for ComponentStats { component, guests, .. } in &stats {
            waiting.sample(&[("component", component)], guests.waiting as u64)?;
        }
        let starts: u64 = stats.iter().map(|component| component.starts).sum();
        encoder.counter("guest_starts", "Guests that were started")?.sample(&[], starts)?;
        let help = "Guests that failed, and requests that passed their deadline on one";
        let mut failures = encoder.counter("guest_failures", help)?;
        for ComponentStats { component, failures: counts, .. } in &stats {
            for (reason, count) in counts {
                failures.sample(&[("component", component), ("reason", reason)], *count)?;
            }
        }
        let mut shed = encoder.counter("requests_shed", "Requests that found no guest in time")?;
        for ComponentStats { component, shed: counts, .. } in &stats {
            for (reason, count) in counts {
                shed.sample(&[("component", component), ("reason", reason)], *count)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_namespace_with_series_of_its_own_keeps_them() {
        let (registry, now) = (Registry::new(registry::Config::default()), Instant::now());
        let metrics = Metrics::of(&registry);
        let register = |namespace: &str| {
            let address = "http://10.0.0.7:1".parse().expect("an address");
            let (namespace, name) = (namespace.parse().expect("a name"), "a".parse().expect("a name"));
            registry.register(&namespace, &name, address, now).expect("there is room");
        };
        let retried = |namespace: &str| registry.snapshot().namespace(namespace).expect("it is there").count_retry();
        let shown = async || {
            let text = metrics.scrape(&HeaderMap::new()).await.1;
            let text = String::from_utf8(text.to_vec()).expect("text");
            let ours = |line: &&str| line.starts_with("retries_total{") || line.starts_with("instances{");
            text.lines().filter(ours).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        for number in 100..228 {
            register(&format!("n-{number}"));
        }
        retried("n-227");
        let before = shown().await;
        assert!(before.contains("retries_total{namespace=\"n-227\"} 1"), "{before:?}");
        assert!(!before.iter().any(|line| line.contains(registry::REST)), "{before:?}");

        // It comes before the others in order of name.
        register("a");
        retried("a");
        let after = shown().await;
        assert!(before.is_subset(&after), "{after:?}");
        let new: Vec<_> = after.difference(&before).map(String::as_str).collect();
        let expected = [
            "instances{namespace=\"other\",state=\"available\"} 1",
            "instances{namespace=\"other\",state=\"unavailable\"} 0",
            "retries_total{namespace=\"other\"} 1",
        ];
        assert_eq!(new, expected);
    }
}
