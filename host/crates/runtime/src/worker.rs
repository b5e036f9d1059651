//! Workers: the threads of the data plane.
//!
//! Each has its own single-threaded runtime, its own pools and its own HTTP client, so that a request stays on the
//! thread that accepted it. They share the [`Assembly`], which is replaced as a whole and never changed: a swap is the
//! moment when another one takes its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use registry::{Member, Registry, Snapshot};
use store::Store;
use tokio::runtime::Handle;
use trace::Tracer;

use crate::counters::{ComponentStats, Counters};
use crate::relay::Relay;
use crate::remote::Client;
use crate::revision::{Instance, Revision};
use crate::router::{Routed, Router};

/// How often guests and connections that nobody needs are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What all workers serve: the published revisions. Immutable.
#[derive(Default)]
pub(crate) struct Assembly {
    /// By the component's name.
    components: BTreeMap<String, Publication>,
    /// The instances of all of them, by namespace, then by name; and those that are just being removed.
    instances: BTreeMap<String, BTreeMap<String, Arc<Instance>>>,
    router: Arc<Router>,
}

/// A revision that is being served.
#[derive(Clone)]
pub(crate) struct Publication {
    pub(crate) revision: Arc<Revision>,
    /// Unique in the process: a revision can be published more than once.
    pub(crate) number: u64,
}

impl Assembly {
    pub(crate) fn new(components: BTreeMap<String, Publication>) -> Self {
        let mut instances: BTreeMap<String, BTreeMap<String, Arc<Instance>>> = BTreeMap::new();
        let revisions = components.values().map(|publication| &publication.revision);
        for revision in revisions.clone() {
            let namespace = instances.entry(revision.namespace().to_string()).or_default();
            let named = revision.instances().iter().map(|instance| (instance.name.to_string(), instance.clone()));
            namespace.extend(named);
        }
        let router = Arc::new(Router::new(revisions.map(|revision| revision.spec())));
        Self { components, instances, router }
    }

    /// The same, with the instances that only `old` has, for requests that have been on their way since before.
    pub(crate) fn with_those_of(&self, old: &Assembly) -> Self {
        let mut instances = old.instances.clone();
        for (namespace, named) in &self.instances {
            instances.entry(namespace.clone()).or_default().extend(named.clone());
        }
        Self { components: self.components.clone(), instances, router: self.router.clone() }
    }

    pub(crate) fn components(&self) -> &BTreeMap<String, Publication> {
        &self.components
    }

    pub(crate) fn is_published(&self, component: &str, number: u64) -> bool {
        self.components.get(component).is_some_and(|publication| publication.number == number)
    }
}

/// What there is at one moment, as one worker sees it. Not held while
/// waiting: it keeps every revision in it.
///
/// Each worker has a copy of its own: were all to count their references to the shared ones, every request would write
/// to memory that all workers write to.
#[derive(Default)]
pub struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    assembly: Arc<Assembly>,
    router: Router,
}

impl View {
    /// Where a request for this path goes, if any component answers it.
    pub fn route(&self, path: &str) -> Option<Routed> {
        self.router.route(path)
    }

    /// The instance behind a member of the registry, unless it was removed.
    pub(crate) fn instance(&self, member: &Member) -> Option<&Instance> {
        let instance = self.assembly.instances.get(member.namespace().as_str())?.get(member.name().as_str())?;
        Some(instance)
    }
}

/// What the workers have in common.
pub(crate) struct Commons {
    pub(crate) registry: Registry,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) assembly: ArcSwap<Assembly>,
    roll: Mutex<Roll>,
}

/// What is counted for metrics. Not on a request's path.
#[derive(Default)]
struct Roll {
    /// By the component's name; those that are not served any more are kept.
    counters: BTreeMap<String, Arc<Counters>>,
    /// All that there are, served or not.
    revisions: Vec<Weak<Revision>>,
}

impl Commons {
    pub(crate) fn new(registry: Registry, store: Arc<dyn Store>, tracer: Option<Tracer>) -> Arc<Self> {
        let (assembly, roll) = (ArcSwap::default(), Mutex::default());
        Arc::new(Self { registry, store, tracer, assembly, roll })
    }

    /// The counters of the component of that name, always the same.
    pub(crate) fn counters(&self, component: &str) -> Arc<Counters> {
        self.roll().counters.entry(component.to_owned()).or_default().clone()
    }

    /// Counts a new revision's guests, as long as it lives.
    pub(crate) fn enrol(&self, revision: &Arc<Revision>) {
        let mut roll = self.roll();
        roll.revisions.retain(|known| known.strong_count() > 0);
        roll.revisions.push(Arc::downgrade(revision));
    }

    /// How all components are doing, in order of name.
    pub(crate) fn stats(&self) -> Vec<ComponentStats> {
        let (mut stats, revisions) = {
            let roll = self.roll();
            let stats = roll.counters.iter().map(|(name, counters)| ComponentStats::new(name, counters));
            let revisions: Vec<_> = roll.revisions.iter().filter_map(Weak::upgrade).collect();
            (stats.collect::<Vec<_>>(), revisions)
        };
        for revision in revisions {
            if let Some(of) = stats.iter_mut().find(|of| *of.component == *revision.spec().name) {
                of.guests += revision.census();
            }
        }
        stats
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of the data plane. Cheap to clone; lives as long as the process.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    id: usize,
    runtime: Handle,
    relay: Arc<Relay>,
    commons: Arc<Commons>,
    client: OnceLock<Client>,
    /// The newest one that was needed.
    view: Mutex<Arc<View>>,
}

impl Worker {
    /// Starts the thread. It ends with the process.
    pub(crate) fn start(id: usize, commons: Arc<Commons>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker = Self(Arc::new(Inner {
            id,
            runtime: runtime.handle().clone(),
            relay: Arc::default(),
            commons,
            client: OnceLock::new(),
            view: Mutex::default(),
        }));
        let own = worker.clone();
        std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            let relay = own.relay().clone();
            runtime.spawn(async move { relay.run().await });
            runtime.block_on(own.sweep());
        })?;
        Ok(worker)
    }

    /// Its number, from 0.
    pub fn id(&self) -> usize {
        self.0.id
    }

    /// Runs a task on the thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.runtime.spawn(task);
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Wakes its tasks from other threads.
    pub(crate) fn relay(&self) -> &Arc<Relay> {
        &self.0.relay
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.commons.registry
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.commons.store
    }

    /// What records traces, if anybody wants them.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.0.commons.tracer.as_ref()
    }

    pub(crate) fn commons(&self) -> &Arc<Commons> {
        &self.0.commons
    }

    pub(crate) fn client(&self) -> &Client {
        self.0.client.get_or_init(Client::new)
    }

    /// What there is now.
    pub fn view(&self) -> Arc<View> {
        let snapshot = self.registry().snapshot();
        let assembly = self.0.commons.assembly.load();
        let mut view = self.0.view.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&view.snapshot, &snapshot) || !Arc::ptr_eq(&view.assembly, &assembly) {
            let router = assembly.router.copy();
            *view = Arc::new(View { snapshot: snapshot.clone(), assembly: assembly.clone(), router });
        }
        view.clone()
    }

    async fn sweep(self) {
        let mut interval = tokio::time::interval(SWEEP);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let assembly = self.0.commons.assembly.load_full();
            let now = Instant::now();
            for instance in assembly.components.values().flat_map(|publication| publication.revision.instances()) {
                instance.pool(self.id()).sweep(now);
            }
            if let Some(client) = self.0.client.get() {
                client.sweep();
            }
        }
    }
}
