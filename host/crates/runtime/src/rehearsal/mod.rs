//! A rehearsal: live requests are run once more on a revision that is not published yet, and the answers compared.
//!
//! Lives from when a revision is ready until it is published or not; one for a component at a time. While it lasts, each
//! worker samples one request after the other ([`sampler`]). A sampled request is served by the active revision, in a pool of
//! its own with one request at a time for each guest, so that all that its guest receives from outside is known to
//! belong to it, and is put on a [`tape`]. When its answer has left, the same request runs on the new revision, on the
//! [`backstage`] thread, in a world where nothing gets out ([`stage`]): it plays against the tape. What the two answered
//! is [`compare`]d; the [`findings`] become the [`report`], and that decides on the [`promotion`].
//!
//! What a rehearsed guest can do: read the store, and write to an overlay that ends with the request; send requests
//! that the live run sent too; read its directories. It has no sockets. What it prints goes to the log, under its
//! component's name with ` (rehearsal)` behind it. Clocks and random numbers are real: what puts them into answers differs.
//!
//! What bounds it: [`RehearsalOptions::within`]; one sample for each worker at a time, with a pause behind it
//! ([`turns`]); one second run at a time; [`MAX_REQUESTS`]; of each request the first mebibyte of its bodies and what a tape holds. What is more makes
//! a sample useless, never a request fail.

mod backstage;
mod compare;
mod findings;
mod promotion;
mod report;
mod sampler;
mod stage;
mod tap;
mod tape;
mod turns;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store::Store;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::revision::{Revision, TrialError, Venue};
use crate::worker::Worker;

pub(crate) use backstage::Backstage;
pub use promotion::{NotPromoted, Promote, UnknownPromote};
pub use report::{Count, DifferenceGroup, Example, Latency, RefusedRequests, RehearsalReport, Sides};
pub(crate) use sampler::{Sampler, Switch};
pub(crate) use stage::Stage;

use self::findings::{Findings, Run, Skip};
use self::turns::Turns;

/// Requests that a rehearsal can have at most.
pub(crate) const MAX_REQUESTS: usize = 10_000;

/// How to rehearse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RehearsalOptions {
    /// How many requests are to be compared, at most 10,000.
    pub requests: usize,
    /// After how long the rehearsal ends with those that it has.
    pub within: Duration,
    /// How long live requests that were sampled may go on after their revision was replaced.
    pub drain: Duration,
}

/// As many requests within 60 s.
impl RehearsalOptions {
    /// For this many requests.
    pub fn new(requests: usize, drain: Duration) -> Self {
        Self { requests: requests.min(MAX_REQUESTS), within: Duration::from_secs(60), drain }
    }
}

/// What the samplers of one rehearsal share.
pub(crate) struct Rehearsal {
    store: Arc<dyn Store>,
    backstage: Backstage,
    /// When it ends.
    end: Instant,
    /// Requests that may still be taken.
    left: AtomicUsize,
    /// By worker.
    turns: Box<[Turns]>,
    findings: Mutex<Findings>,
    /// Told when a request was compared.
    progress: Notify,
}

impl Rehearsal {
    /// Lets a worker take a request, if it may.
    fn take(&self, worker: usize) -> bool {
        if !self.turns[worker].take(Instant::now()) {
            return false;
        }
        let took = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if !took {
            self.free(worker, Duration::ZERO);
        }
        took
    }

    /// Ends a worker's turn, of which the second run took so long.
    fn free(&self, worker: usize, took: Duration) {
        self.turns[worker].end(Instant::now(), took);
    }

    fn skipped(&self, reason: Skip) {
        self.findings().skip(reason);
        self.left.fetch_add(1, Relaxed);
    }

    fn compared(&self, request: &str, old: &Run, new: &Run, refused: Vec<String>) {
        self.findings().compare(request, old, new, refused);
        self.progress.notify_one();
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the last request, but not longer than until the end.
    async fn finish(&self, requests: usize) {
        while self.findings().compared() < requests {
            if timeout_at(self.end.into(), self.progress.notified()).await.is_err() {
                self.left.store(0, Relaxed);
                let on_their_way = self.turns.iter().filter(|turns| turns.is_taken()).count();
                (0..on_their_way).for_each(|_| self.findings().skip(Skip::TimeUp));
                return;
            }
        }
    }
}

/// Rehearses `new` with the requests that `active` gets.
///
/// # Errors
/// The guests for it could not be started.
pub(crate) async fn rehearse(
    active: &Arc<Revision>,
    new: &Revision,
    workers: &[Worker],
    store: Arc<dyn Store>,
    backstage: &Backstage,
    options: RehearsalOptions,
) -> Result<RehearsalReport, TrialError> {
    let (begun, drain) = (Instant::now(), options.drain);
    let live = Company { revision: active.for_rehearsal(&Venue::Workers), serves: Some(active.clone()), drain };
    let venue = Venue::Backstage(backstage.thread().clone());
    let rehearsed = Company { revision: new.for_rehearsal(&venue), serves: None, drain };
    live.revision.warm().await?;
    rehearsed.revision.warm().await?;

    let spread = turns::spread(options.requests, workers.len(), options.within);
    let rehearsal = Arc::new(Rehearsal {
        store,
        backstage: backstage.clone(),
        end: begun + options.within,
        left: AtomicUsize::new(options.requests),
        turns: workers.iter().map(|_| Turns::new(begun, spread)).collect(),
        findings: Mutex::default(),
        progress: Notify::new(),
    });
    {
        let _sampling = Sampling::start(active, &live.revision, &rehearsed.revision, &rehearsal, workers);
        rehearsal.finish(options.requests).await;
    }
    Ok(rehearsal.findings().report(options.requests, begun.elapsed()))
}

/// The time during which requests are sampled.
struct Sampling {
    active: Arc<Revision>,
    live: Arc<Revision>,
}

impl Sampling {
    fn start(
        active: &Arc<Revision>,
        live: &Arc<Revision>,
        rehearsed: &Revision,
        rehearsal: &Arc<Rehearsal>,
        workers: &[Worker],
    ) -> Self {
        for (instance, live) in active.instances().iter().zip(live.instances()) {
            // An instance that the new revision has not is not rehearsed.
            let Some(rehearsed) = rehearsed.instances().iter().find(|other| other.name == instance.name) else {
                continue;
            };
            for worker in workers.iter().map(Worker::id) {
                let sampler = Sampler {
                    rehearsal: rehearsal.clone(),
                    worker,
                    live: live.pool(worker).clone(),
                    rehearsed: rehearsed.pool(worker).clone(),
                };
                instance.pool(worker).rehearsal().set(Some(Arc::new(sampler)));
            }
        }
        Self { active: active.clone(), live: live.clone() }
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        for (instance, live) in self.active.instances().iter().zip(self.live.instances()) {
            for (pool, live) in instance.pools.iter().zip(&live.pools) {
                pool.rehearsal().set(None);
                // They were the active revision's requests, whoever served them.
                pool.credit(live.outcomes());
            }
        }
    }
}

/// The pools of a rehearsal, on one side. Ends with it; requests that are under way may go on for as long as `drain`.
struct Company {
    revision: Arc<Revision>,
    /// The revision whose requests these are: they may go on as if it had them itself.
    serves: Option<Arc<Revision>>,
    drain: Duration,
}

impl Drop for Company {
    fn drop(&mut self) {
        let (revision, serves, drain) = (self.revision.clone(), self.serves.take(), self.drain);
        if let Ok(runtime) = Handle::try_current() {
            let serves = serves.map(|serves| Arc::downgrade(&serves));
            runtime.spawn(async move {
                match serves {
                    Some(serves) => revision.retire_with(serves, drain).await,
                    None => drop(revision.retire(drain).await),
                }
            });
        }
    }
}
