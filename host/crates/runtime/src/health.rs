//! Health checks of the instances served here: a request through their own pool, again and again.

use std::sync::{Arc, Weak};
use std::time::Instant;

use http::{HeaderValue, Request};
use registry::{Name, Namespace, Registry};
use tokio::time::MissedTickBehavior;

use crate::body;
use crate::pool::{CallError, Pool};
use crate::spec::HealthCheck;
use crate::worker::Instance;

/// The path that is asked if the manifest names none.
const DEFAULT_PATH: &str = "/healthz";

/// Checks an instance until it is unloaded and tells the registry. One check at a time.
pub(crate) async fn keep_checking(
    registry: Registry,
    namespace: Namespace,
    name: Name,
    instance: Arc<Instance>,
    worker: usize,
    check: HealthCheck,
) {
    let instance: Weak<Instance> = {
        let weak = Arc::downgrade(&instance);
        drop(instance);
        weak
    };
    let mut interval = tokio::time::interval(check.interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(instance) = instance.upgrade() else { return };
        if let Some(passed) = passes(instance.pool(worker), &check).await {
            registry.record_check(&namespace, &name, passed, Instant::now());
        }
    }
}

/// Whether the instance is healthy. `None` if it was too busy to be asked: to take instances away from a component that
/// has more to do than it can would make it worse.
async fn passes(pool: &Arc<Pool>, check: &HealthCheck) -> Option<bool> {
    let path = check.path.as_deref().unwrap_or(DEFAULT_PATH);
    let request = Request::get(format!("http://localhost{path}"))
        .header("x-request-id", HeaderValue::from_static("health-check"))
        .body(body::empty())
        .expect("the manifest's path was checked");
    match pool.call(request, 1, Instant::now() + check.timeout).await {
        Ok(answer) => {
            let status = answer.status();
            // The rest of the answer is read, so that the guest isn't given up on.
            let drained =
                tokio::time::timeout(check.timeout, http_body_util::BodyExt::collect(answer.into_body())).await;
            let complete = matches!(drained, Ok(Ok(_)));
            Some(complete && if check.path.is_some() { status.is_success() } else { !status.is_server_error() })
        }
        Err(CallError::Shed(_)) => None,
        Err(CallError::NotStarted(_) | CallError::Deadline | CallError::Failed(_)) => Some(false),
    }
}
