//! The internal address: registrations, look-ups, swaps, health and listings, for operators and remote services.
//!
//! Runs on the control runtime, never on a worker, and touches the data plane only through the registry's snapshots.
//! Lives from [`serve`] until its shutdown future. Bounded by the constants in `server` (connections, head, time) and
//! in `body`. Parts: `server` (connections), `auth` (token), `origin` (whose pages may ask), `body`, `components` (swaps), `kv`
//! (the store), `registration`, `lookup`, `listing`, `readiness`, `metrics`, `log_level`, `status` (what is going on, also as a
//! stream), `dashboard` (the page that shows it), `own` (which addresses are this host's), `leases` (the passing of time),
//! `changes` (what becomes of instances, for the log).

mod auth;
mod body;
mod changes;
mod components;
mod dashboard;
mod kv;
mod leases;
mod listing;
mod log_level;
mod lookup;
mod metrics;
mod origin;
mod own;
mod readiness;
mod registration;
mod server;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};
use problem::{Code, Problem};
use registry::Registry;
use tokio::net::TcpListener;
use trace::Tracer;

use crate::facts::Observer;
use crate::linger::linger;
use crate::metrics::Metrics;
use crate::telemetry::Level;
use crate::token::Token;

pub(crate) use components::{Components, LARGEST_COMPONENT, Revisions};
pub(crate) use kv::Kv;
pub(crate) use listing::{Instance, Rotation};
pub(crate) use readiness::Readiness;
pub(crate) use status::Streams;

/// What the internal address answers with.
pub(crate) struct Control {
    /// The instances.
    pub(crate) registry: Registry,
    /// What `/kv` answers from.
    pub(crate) kv: Kv,
    /// What `/readyz` answers.
    pub(crate) readiness: Readiness,
    /// What requests must show, if anything.
    pub(crate) token: Option<Token>,
    /// Where the public address really listens.
    pub(crate) public: SocketAddr,
    /// Where the internal address really listens.
    pub(crate) internal: SocketAddr,
    /// What `/components` shows and swaps.
    pub(crate) components: Components,
    /// What `/metrics` shows.
    pub(crate) metrics: Metrics,
    /// What records traces, if anybody wants them.
    pub(crate) tracer: Option<Tracer>,
    /// What `/log-level` shows and sets.
    pub(crate) log_level: Level,
    /// What `/status` shows.
    pub(crate) observer: Observer,
    /// Those who watch it.
    pub(crate) streams: Streams,
}

/// Serves `listener` until `shutdown` completes, then lets requests in flight finish for a bounded time, no longer than
/// `shutdown` says is left.
pub(crate) async fn serve(listener: TcpListener, control: Control, shutdown: impl Future<Output = Duration>) {
    let control = Arc::new(control);
    let shutdown = async {
        let left = shutdown.await;
        // They would never end by themselves.
        control.streams.end();
        left
    };
    tokio::select! {
        () = server::serve(listener, router(control.clone()), shutdown) => {}
        () = leases::expire(&control.registry) => {}
        () = changes::tell(&control.registry, control.observer.failures(), control.tracer.as_ref()) => {}
        () = control.observer.keep_sampling() => {}
        () = control.streams.feed(&control.observer) => {}
    }
}

fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/register", post(registration::register))
        .route("/register/{namespace}/{name}", delete(registration::deregister))
        .route("/heartbeat", post(registration::heartbeat))
        .route("/api/register", post(registration::register_caller))
        .route("/api/lookup", post(lookup::lookup))
        .route("/", get(dashboard::page))
        .route("/dashboard/{file}", get(dashboard::file))
        .route("/status", get(status::status))
        .route("/status/events", get(status::events))
        .route("/instances", get(listing::instances))
        .route("/instances/{namespace}/{name}", put(listing::rotate))
        .route("/components", get(components::list))
        .route("/components/{name}", put(components::swap))
        .route("/components/{name}/revisions", get(components::revisions))
        .route("/components/{name}/rollback", post(components::rollback))
        .route("/kv/{bucket}", kv::of_bucket())
        // A key has slashes as it likes. That an empty one is refused is for the store to say.
        .route("/kv/{bucket}/", kv::of_key())
        .route("/kv/{bucket}/{*key}", kv::of_key())
        .route("/metrics", get(metrics::metrics))
        .route("/log-level", get(log_level::show).put(log_level::set))
        .route("/healthz", get(readiness::alive))
        .route("/livez", get(readiness::alive))
        .route("/readyz", get(readiness::ready))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&control), auth::require_token))
        .layer(middleware::from_fn_with_state(Arc::clone(&control), origin::refuse_foreign))
        .with_state(control)
}

async fn not_found(body: Body) -> Failure {
    linger(body);
    Problem::not_found().into()
}

/// axum adds the `Allow` header.
async fn method_not_allowed(method: Method, uri: Uri, body: Body) -> Failure {
    linger(body);
    let detail = format!("{method} is not possible on {}; the header \"allow\" lists what is", uri.path());
    Problem::new(Code::MethodNotAllowed, detail).into()
}

/// A problem as an answer of a handler.
struct Failure(Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response::<Body>()
    }
}

#[cfg(test)]
mod tests;
