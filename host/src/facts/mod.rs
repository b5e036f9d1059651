//! What is going on in this host, as operators see it: one description for `GET /status`, the dashboard's stream, and
//! `host status` with and without `--watch`.
//!
//! The [`Observer`] asks those who know (registry, swaps, runtime, store, counters) when somebody wants to see, and never on
//! a request's path. It remembers only what nobody else does: the last quarter of an hour ([`history`]) and the last
//! failures ([`failures`]), both of fixed size. One for the process. What it tells is bounded but for the components, of which
//! there are as many as the manifest names, each with a few revisions.

mod failures;
mod history;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::control::{Instance, Readiness};
use crate::metrics::Metrics;
use crate::swap::{ComponentInfo, RevisionInfo};
use crate::value::milliseconds;
use history::{INTERVAL, Recorder};

pub(crate) use failures::{Failure, Failures, Kind};
pub(crate) use history::History;

/// Everything there is to see at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Of the host.
    pub(crate) version: String,
    /// Since it was started.
    pub(crate) uptime_ms: u64,
    /// Why it isn't ready, if it isn't: what `/readyz` answers.
    pub(crate) not_ready: Option<String>,
    /// How many instances are picked for requests.
    pub(crate) available: usize,
    /// How many there are.
    pub(crate) total: usize,
    /// In order of namespace and name.
    pub(crate) instances: Vec<Instance>,
    /// How many are left out of `instances` because there are too many for a stream.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unlisted: usize,
    /// In order of name.
    pub(crate) components: Vec<ComponentFacts>,
    /// Requests whose answer has not ended.
    pub(crate) in_flight: u64,
    /// Requests that were sent to another instance, since the start.
    pub(crate) retries: u64,
    /// The last quarter of an hour.
    pub(crate) history: History,
    /// The key-value store.
    pub(crate) store: StoreFacts,
    /// The last failures, newest first.
    pub(crate) failures: Vec<Failure>,
}

/// A component: what `GET /components` says of it, and more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ComponentFacts {
    /// What `GET /components` says.
    #[serde(flatten)]
    pub(crate) info: ComponentInfo,
    /// Its guests.
    pub(crate) guests: GuestFacts,
    /// The revisions that can be gone back to or still have requests, newest publication first.
    pub(crate) revisions: Vec<RevisionInfo>,
}

/// The guests of a component, of all its revisions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GuestFacts {
    /// Those that are starting or serve as many requests as they can.
    pub(crate) busy: usize,
    /// Those with room for a request.
    pub(crate) idle: usize,
    /// Requests that wait for one.
    pub(crate) waiting: usize,
    /// How many have failed since the start of the process, by reason; those that never happened are left out.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// The store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoreFacts {
    /// How many keys there are; null if another host has them.
    pub(crate) keys: Option<u64>,
    /// How large its log on this host's disk is; null if it has none.
    pub(crate) log_bytes: Option<u64>,
}

/// Tells what is going on. Clones are the same.
#[derive(Clone)]
pub(crate) struct Observer(Arc<Inner>);

struct Inner {
    begun: Instant,
    metrics: Metrics,
    readiness: Readiness,
    failures: Failures,
    recorder: Mutex<Recorder>,
}

impl Observer {
    /// Begins to remember.
    pub(crate) fn new(metrics: Metrics, readiness: Readiness, failures: Failures) -> Self {
        let begun = Instant::now();
        let recorder = Mutex::new(Recorder::new(begun, metrics.totals()));
        Self(Arc::new(Inner { begun, metrics, readiness, failures, recorder }))
    }

    /// Takes samples for as long as it is polled. Summing up counters is done aside: there may be many.
    pub(crate) async fn keep_sampling(&self) {
        let mut interval = interval_at((Instant::now() + INTERVAL).into(), INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let this = self.clone();
            let sampled = tokio::task::spawn_blocking(move || this.sample());
            sampled.await.expect("counters are summed up without a panic");
        }
    }

    fn sample(&self) {
        let totals = self.0.metrics.totals();
        let mut recorder = self.0.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.sample(Instant::now(), totals);
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How far the process is.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Where failures are remembered.
    pub(crate) fn failures(&self) -> &Failures {
        &self.0.failures
    }

    /// Everything there is to see now, with at most as many bytes of instances as given; those that are unavailable go
    /// first. Takes a millisecond for a thousand instances: not for a worker's thread.
    pub(crate) fn facts(&self, bytes_of_instances: usize) -> Facts {
        let Inner { begun, metrics, readiness, failures, recorder } = &*self.0;
        let now = Instant::now();
        let sources = metrics.sources();
        let infos = sources.swapper.components();
        let not_ready = readiness.obstacle(&sources.registry, &infos);
        let instances: Vec<Instance> = sources.registry.instances(None, now).into_iter().map(Instance::from).collect();
        let (available, total) = (instances.iter().filter(|instance| instance.is_available()).count(), instances.len());
        let instances = fitting(instances, bytes_of_instances);
        let history = recorder.lock().unwrap_or_else(PoisonError::into_inner).show();
        Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: milliseconds(now.saturating_duration_since(*begun)),
            not_ready,
            available,
            total,
            unlisted: total - instances.len(),
            instances,
            components: components(metrics, infos),
            in_flight: metrics.in_flight_now(),
            retries: sources.registry.snapshot().retries().total(),
            history,
            store: StoreFacts {
                keys: sources.store.stats().map(|stats| stats.keys),
                log_bytes: sources.durable.as_ref().and_then(|store| store.log_bytes()),
            },
            failures: failures.list(),
        }
    }
}

#[cfg(test)]
impl Observer {
    /// One that sees a registry, and nothing else.
    pub(crate) fn of(registry: &registry::Registry) -> Self {
        Self::new(Metrics::of(registry), Readiness::new(), Failures::default())
    }
}

fn components(metrics: &Metrics, infos: Vec<ComponentInfo>) -> Vec<ComponentFacts> {
    let stats = metrics.sources().runtime.stats();
    let facts = infos.into_iter().map(|info| {
        let stats = stats.iter().find(|stats| *stats.component == *info.name);
        let guests = stats.map_or_else(GuestFacts::default, |stats| GuestFacts {
            busy: stats.guests.busy,
            idle: stats.guests.idle,
            waiting: stats.guests.waiting,
            failures: stats
                .failures
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
        });
        // One that is removed at this moment has none.
        let revisions = metrics.sources().swapper.revisions(&info.name).unwrap_or_default();
        ComponentFacts { info, guests, revisions }
    });
    facts.collect()
}

/// As many instances as fit, the unavailable ones first, in the order they came.
fn fitting(instances: Vec<Instance>, bytes: usize) -> Vec<Instance> {
    let size: usize = instances.iter().map(Instance::size).sum();
    if size <= bytes {
        return instances;
    }
    let mut room = bytes;
    let mut fits = vec![false; instances.len()];
    for available in [false, true] {
        for (instance, fits) in instances.iter().zip(&mut fits).filter(|(it, _)| it.is_available() == available) {
            let Some(left) = room.checked_sub(instance.size()) else { break };
            (room, *fits) = (left, true);
        }
    }
    instances.into_iter().zip(fits).filter_map(|(instance, fits)| fits.then_some(instance)).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn retries_are_told_when_their_namespace_has_vanished() {
        let registry = registry::Registry::new(registry::Config::default());
        let observer = Observer::of(&registry);
        let (namespace, name) = ("n".parse().expect("a name"), "a".parse().expect("a name"));
        let address = "http://10.0.0.7:1".parse().expect("an address");
        registry.register(&namespace, &name, address, Instant::now()).expect("there is room");
        registry.snapshot().namespace("n").expect("it is there").count_retry();
        assert_eq!(observer.facts(1 << 20).retries, 1);
        assert!(registry.deregister(&namespace, &name));
        assert_eq!(observer.facts(1 << 20).retries, 1);
    }

    #[test]
    fn what_is_unavailable_is_listed_first_if_not_all_fit() {
        let instance = |name: &str, state: &str| {
            serde_json::from_value(serde_json::json!({
                "namespace": "n", "name": name, "state": state, "address": "in-process", "last_seen_ms": 0
            }))
        };
        let all = [("a", "available"), ("b", "available"), ("c", "unavailable")];
        let all: Vec<Instance> =
            all.map(|(name, state)| instance(name, state).expect("an instance")).into_iter().collect();
        let size = all.iter().map(Instance::size).sum::<usize>();
        let names = |bytes| fitting(all.clone(), bytes).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(size), ["a", "b", "c"]);
        assert_eq!(names(size - 1), ["a", "c"]);
        assert_eq!(names(size / 3 + 1), ["c"]);
        assert!(names(0).is_empty());
    }
}
