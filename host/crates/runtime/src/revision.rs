//! A revision: one immutable component and its configuration, compiled, with the pools of its instances.
//!
//! Its life: it is made and tried ([`Runtime::prepare`](crate::Runtime::prepare)), published, replaced by another one,
//! and retired: its pools serve the requests they have, guests that have none end, and when the last one has ended it is
//! dropped and its memory is free. A request holds the pool it is served by until the last byte of its answer.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use registry::{HealthPolicy, Name, Namespace};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;
use wasmtime::Engine;
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::handler::ProxyPre;

use crate::counters::Census;
use crate::health;
use crate::held::Policy;
use crate::pool::{Outcomes, Pool};
use crate::spec::{ComponentSpec, Digest};
use crate::state::GuestState;
use crate::template::{Shared, Template};
use crate::worker::Worker;

/// How often a revision that is being retired is looked at, apart from when a guest ends.
const LOOK: Duration = Duration::from_millis(500);
/// Guests in a pool for a rehearsal: one serves, and the one before may not be done yet.
const REHEARSAL_GUESTS: usize = 2;
/// For guests to end that are thrown away.
const LAST: Duration = Duration::from_secs(5);

/// A component, its configuration and its pools.
pub struct Revision {
    spec: ComponentSpec,
    digest: Digest,
    shared: Arc<Shared>,
    /// As the manifest lists them.
    instances: Vec<Arc<Instance>>,
    workers: Box<[Worker]>,
}

/// An instance that is served in process.
pub(crate) struct Instance {
    pub(crate) name: Name,
    /// Its pools, by worker.
    pub(crate) pools: Box<[Arc<Pool>]>,
}

/// Where a revision's guests run.
pub(crate) enum Venue {
    /// On the workers, where they serve requests.
    Workers,
    /// On the thread for rehearsals.
    Backstage(Handle),
}

/// Why a revision did not pass its trial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrialError {
    #[error("a guest of it could not be started: {0}")]
    Start(String),
    #[error("it doesn't pass its health check: {0}")]
    Unhealthy(String),
}

impl Instance {
    pub(crate) fn pool(&self, worker: usize) -> &Arc<Pool> {
        &self.pools[worker]
    }
}

impl Revision {
    /// Makes the pools. No guest is started yet.
    pub(crate) fn new(
        engine: Engine,
        pre: ProxyPre<GuestState>,
        digest: Digest,
        spec: ComponentSpec,
        workers: &[Worker],
    ) -> Arc<Self> {
        Self::at(&Venue::Workers, engine, pre, digest, spec, workers)
    }

    /// The same once more, with pools of its own for a rehearsal: guests serve one request at a time, so that what one does
    /// belongs to one request. Backstage, nothing that they do is seen outside.
    pub(crate) fn for_rehearsal(&self, venue: &Venue) -> Arc<Self> {
        let mut spec = self.spec.clone();
        spec.limits.max_instance_concurrent_reuse_count = 1;
        spec.limits.max_guests = REHEARSAL_GUESTS;
        match venue {
            // A client never waits for a guest here: it has the active revision's own.
            Venue::Workers => spec.limits.queue = 0,
            Venue::Backstage(_) => {
                // What the log calls it.
                spec.name.push_str(" (rehearsal)");
                spec.sockets.clear();
                spec.directories.iter_mut().for_each(|directory| directory.writable = false);
            }
        }
        let pre = match &self.shared.pre {
            ProxyPre::P2(pre) => ProxyPre::P2(pre.clone()),
            ProxyPre::P3(pre) => ProxyPre::P3(pre.clone()),
        };
        Self::at(venue, self.shared.engine.clone(), pre, self.digest, spec, &self.workers)
    }

    fn at(
        venue: &Venue,
        engine: Engine,
        pre: ProxyPre<GuestState>,
        digest: Digest,
        spec: ComponentSpec,
        workers: &[Worker],
    ) -> Arc<Self> {
        let commons = workers[0].commons();
        // Nobody is to see what is done backstage.
        let counters = match venue {
            Venue::Workers => commons.counters(&spec.name),
            Venue::Backstage(_) => Arc::default(),
        };
        // What they say leaves in no other way than those that are watched.
        let go_on = matches!(pre, ProxyPre::P2(_))
            && spec.sockets.is_empty()
            && !spec.directories.iter().any(|directory| directory.writable);
        let shared = Arc::new(Shared {
            counters,
            engine,
            component: spec.name.as_str().into(),
            pre,
            config: Arc::new(spec.config.iter().cloned().collect::<WasiConfigVariables>()),
            outbound: Arc::new(spec.outbound.clone()),
            buckets: Arc::new(spec.buckets.clone()),
            directories: spec.directories.clone(),
            sockets: spec.sockets.clone().into(),
            limits: spec.limits.clone(),
            isolated: matches!(venue, Venue::Backstage(_)),
            go_on: Policy::new(go_on),
            queued: AtomicUsize::new(0),
            drained: Notify::new(),
        });
        let instance = |name: &Name| {
            let environment: Arc<[_]> = spec
                .environment
                .iter()
                .map(|(key, value)| (key.clone(), value.replace("{instance}", name.as_str())))
                .collect();
            let pool = |worker: &Worker| {
                let template = Template {
                    shared: shared.clone(),
                    name: name.clone(),
                    // One for each pool: a copy of one would be counted by all workers.
                    served_by: HeaderValue::from_str(name.as_str())
                        .expect("a name has no character a header can't have"),
                    environment: environment.clone(),
                    worker: worker.clone(),
                };
                let runtime = match venue {
                    Venue::Workers => worker.runtime(),
                    Venue::Backstage(runtime) => runtime,
                };
                Pool::new(template, runtime.clone())
            };
            Arc::new(Instance { name: name.clone(), pools: workers.iter().map(pool).collect() })
        };
        let instances = spec.instances.iter().map(instance).collect();
        let revision = Arc::new(Self { spec, digest, shared, instances, workers: workers.into() });
        if matches!(venue, Venue::Workers) {
            commons.enrol(&revision);
        }
        revision
    }

    /// The component's configuration.
    pub fn spec(&self) -> &ComponentSpec {
        &self.spec
    }

    /// What its bytes are named by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What became of the requests and health checks it has served, in all its pools, since it was made.
    pub fn outcomes(&self) -> Outcomes {
        self.pools().map(|pool| pool.outcomes()).fold(Outcomes::default(), |sum, one| sum + one)
    }

    /// Whether a request that began before `time` is not among the [outcomes](Self::outcomes) yet: it has no answer so far.
    pub fn owes_since_before(&self, time: Instant) -> bool {
        self.pools().any(|pool| pool.owes_since_before(time))
    }

    /// How its guests are doing.
    pub(crate) fn census(&self) -> Census {
        let mut sum = Census::default();
        self.pools().for_each(|pool| sum += pool.census());
        sum
    }

    pub(crate) fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    pub(crate) fn health_policy(&self) -> HealthPolicy {
        let check = &self.spec.health;
        HealthPolicy { unhealthy_after: check.unhealthy_after, healthy_after: check.healthy_after }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.spec.namespace
    }

    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.instances.iter().flat_map(|instance| instance.pools.iter())
    }

    /// Starts a guest, lets it answer a health check, and then warms every other pool.
    pub(crate) async fn try_and_warm(&self) -> Result<(), TrialError> {
        let first = self.instances[0].pool(0).clone();
        let check = self.spec.health.clone();
        let trial = async move {
            first.warm().await.map_err(TrialError::Start)?;
            health::try_once(&first, &check).await.map_err(TrialError::Unhealthy)
        };
        self.workers[0].run(trial).await?;
        self.warm().await
    }

    /// Starts a guest in every pool that has none.
    pub(crate) async fn warm(&self) -> Result<(), TrialError> {
        let mut warming = Vec::new();
        for worker in &self.workers {
            let pools: Vec<_> = self.instances.iter().map(|instance| instance.pool(worker.id()).clone()).collect();
            warming.push(worker.run(async move {
                for pool in pools {
                    pool.warm().await.map_err(TrialError::Start)?;
                }
                Ok(())
            }));
        }
        futures::future::try_join_all(warming).await.map(|_| ())
    }

    /// Ends its guests: those without requests at once, the others when they have none any more, and all that are left
    /// after `patience`. It must not be published any more. Returns how many requests were cut off.
    pub async fn retire(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        self.let_go().await;
        if self.drained_by(deadline).await {
            return 0;
        }
        let cut = self.pools().map(|pool| pool.cut()).sum();
        self.drained_by(Instant::now() + LAST).await;
        cut
    }

    /// The same, of one that serves requests in place of another. They may go on for as long as the other is not retired, and
    /// `patience` after that.
    pub(crate) async fn retire_with(&self, other: Weak<Self>, patience: Duration) {
        self.let_go().await;
        // The other one is not kept while this waits.
        while other.upgrade().is_some_and(|other| !other.is_retired()) {
            if self.drained_by(Instant::now() + LOOK).await {
                return;
            }
        }
        self.retire(patience).await;
    }

    fn is_retired(&self) -> bool {
        self.pools().any(|pool| pool.is_retired())
    }

    /// From now on guests end that have nothing to do.
    async fn let_go(&self) {
        for worker in &self.workers {
            let pools: Vec<_> = self.instances.iter().map(|instance| instance.pool(worker.id()).clone()).collect();
            let this = worker.clone();
            // On the worker, so that none of its requests is between finding a pool and coming to it.
            let retire = async move {
                // Its view may be the last to hold this revision.
                this.view();
                for pool in pools {
                    pool.retire();
                }
            };
            worker.run(retire).await;
        }
    }

    async fn drained_by(&self, deadline: Instant) -> bool {
        loop {
            if self.pools().all(|pool| pool.is_empty()) {
                return true;
            }
            let now = Instant::now();
            if deadline <= now {
                return false;
            }
            for pool in self.pools() {
                pool.sweep(now);
            }
            // Out of time: look once more.
            let _ = timeout_at((now + LOOK).min(deadline).into(), self.shared.drained.notified()).await;
        }
    }
}

impl Worker {
    /// Runs a task on the thread and waits for it.
    pub(crate) async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.spawn(async move {
            // Whoever asked may be gone.
            let _ = done.send(task.await);
        });
        result.await.expect("a worker's tasks don't panic and it lives as long as the process")
    }
}
