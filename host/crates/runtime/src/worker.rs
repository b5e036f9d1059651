//! Workers: the threads of the data plane.
//!
//! Each has its own single-threaded runtime, its own pools and its own HTTP client, so that a request stays on the
//! thread that accepted it. They share the [`Assembly`], which is replaced as a whole and never changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use registry::{Member, Registry, Snapshot};
use store::Store;
use tokio::runtime::Handle;

use crate::pool::Pool;
use crate::remote::Client;

/// How often guests that nobody needs are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What all workers serve. Immutable.
#[derive(Default)]
pub(crate) struct Assembly {
    /// By namespace, then by name.
    pub(crate) instances: BTreeMap<String, BTreeMap<String, Arc<Instance>>>,
}

/// An instance that is served in process.
pub(crate) struct Instance {
    /// Its pools, by worker.
    pub(crate) pools: Box<[Arc<Pool>]>,
    /// Its name, as a header's value.
    pub(crate) served_by: HeaderValue,
}

impl Instance {
    pub(crate) fn pool(&self, worker: usize) -> &Arc<Pool> {
        &self.pools[worker]
    }

    pub(crate) fn served_by(&self) -> &HeaderValue {
        &self.served_by
    }
}

/// What there is at one moment, as one worker sees it. A request holds on to it while it is on its way.
///
/// Each worker has a copy of its own: were all to count their references to the shared ones, every request would write
/// to memory that all workers write to.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    assembly: Arc<Assembly>,
}

impl View {
    /// The instance behind a member of the registry, unless it was unloaded.
    pub(crate) fn instance(&self, member: &Member) -> Option<&Instance> {
        let instance = self.assembly.instances.get(member.namespace().as_str())?.get(member.name().as_str())?;
        Some(instance)
    }
}

/// What the workers have in common.
pub(crate) struct Commons {
    pub(crate) registry: Registry,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) assembly: ArcSwap<Assembly>,
}

/// A thread of the data plane. Cheap to clone; lives as long as the process.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    id: usize,
    runtime: Handle,
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
            commons,
            client: OnceLock::new(),
            view: Mutex::default(),
        }));
        let own = worker.clone();
        std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || runtime.block_on(own.sweep()))?;
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

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.commons.registry
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.commons.store
    }

    pub(crate) fn client(&self) -> &Client {
        self.0.client.get_or_init(Client::new)
    }

    /// What there is now.
    pub(crate) fn view(&self) -> Arc<View> {
        let snapshot = self.registry().snapshot();
        let assembly = self.0.commons.assembly.load();
        let mut view = self.0.view.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&view.snapshot, &snapshot) || !Arc::ptr_eq(&view.assembly, &assembly) {
            *view = Arc::new(View { snapshot: snapshot.clone(), assembly: assembly.clone() });
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
            for instance in assembly.instances.values().flat_map(BTreeMap::values) {
                instance.pool(self.id()).sweep(now);
            }
        }
    }
}
