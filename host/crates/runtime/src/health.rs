//! Health checks of the instances served here: a request through their own pool, again and again.

use std::sync::{Arc, Weak};
use std::time::Instant;

use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Limited};
use tokio::time::{MissedTickBehavior, timeout};

use crate::body;
use crate::capabilities::store_error_detail;
use crate::dispatch::Hop;
use crate::pool::{CallError, Pool};
use crate::revision::Revision;
use crate::spec::HealthCheck;
use crate::worker::Commons;

/// The path that is asked if the manifest names none.
const DEFAULT_PATH: &str = "/healthz";
/// Most bytes of an answer.
const LARGEST_ANSWER: usize = 1 << 20;

/// What a check came to.
enum Checked {
    Passed,
    /// Why it didn't.
    Failed(String),
    /// The instance was too busy to be asked. That counts neither way: to take instances away from a component that has
    /// more to do than it can would make it worse.
    Busy,
}

/// Checks an instance of a revision and tells the registry, for as long as this publication of the revision lasts. One
/// check at a time.
pub(crate) async fn keep_checking(
    commons: Arc<Commons>,
    revision: Weak<Revision>,
    instance: usize,
    worker: usize,
    publication: u64,
) {
    let Some(interval) = revision.upgrade().map(|revision| revision.spec().health.interval) else { return };
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(revision) = revision.upgrade() else { return };
        let is_published = || commons.assembly.load().is_published(&revision.spec().name, publication);
        if !is_published() {
            return;
        }
        let instance = &revision.instances()[instance];
        let passed = match check(instance.pool(worker), &revision.spec().health).await {
            Checked::Passed => true,
            Checked::Failed(_) => false,
            Checked::Busy => continue,
        };
        if !is_published() {
            return;
        }
        commons.registry.record_check(revision.namespace(), &instance.name, passed, Instant::now());
    }
}

/// Checks a pool that nobody else uses yet. The error says what was wrong.
pub(crate) async fn try_once(pool: &Arc<Pool>, how: &HealthCheck) -> Result<(), String> {
    match check(pool, how).await {
        Checked::Passed => Ok(()),
        Checked::Failed(reason) => Err(reason),
        Checked::Busy => Err("no guest had room for it".to_owned()),
    }
}

async fn check(pool: &Arc<Pool>, how: &HealthCheck) -> Checked {
    let path = how.path.as_deref().unwrap_or(DEFAULT_PATH);
    let request = Request::get(format!("http://localhost{path}"))
        .header("x-request-id", HeaderValue::from_static("health-check"))
        .body(body::empty())
        .expect("the manifest's path was checked");
    let failed = |reason: String| Checked::Failed(format!("GET {path} {reason}"));
    match pool.call(Box::new(request), &Hop::new(1, None), Instant::now() + how.timeout).await {
        Ok(answer) => {
            let status = answer.status();
            // The rest of the answer is read, so that the guest isn't given up on.
            match timeout(how.timeout, Limited::new(answer.into_body(), LARGEST_ANSWER).collect()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return failed(format!("was answered {status}, but not to its end: {error}")),
                Err(_) => return failed(format!("was answered {status}, but not to its end within {:?}", how.timeout)),
            }
            let passed = if how.path.is_some() { status.is_success() } else { !status.is_server_error() };
            if passed { Checked::Passed } else { failed(format!("was answered {status}")) }
        }
        Err(CallError::Shed(..)) => Checked::Busy,
        Err(CallError::NotStarted(_)) => failed("was not answered: the guest could not be started".to_owned()),
        Err(CallError::Deadline) => failed(format!("was not answered within {:?}", how.timeout)),
        Err(CallError::Unwritten(error)) => failed(format!("was not answered: {}", store_error_detail(&error))),
        Err(CallError::Failed(failure)) => {
            failed(format!("was not answered: the guest failed ({}); the log says how", failure.reason()))
        }
    }
}
