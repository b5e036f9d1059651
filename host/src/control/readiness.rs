//! `GET /healthz`, `/livez` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use registry::{Name, Namespace, Registry};
use serde_json::{Value, json};

use super::Control;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// How far the process is, shared by the composition root, which moves it on, and `/readyz`, which tells.
/// Starting, then ready, then draining; never back.
#[derive(Clone)]
pub(crate) struct Readiness {
    phase: Arc<AtomicU8>,
    /// Each routed component's name, namespace and instances.
    routed: Arc<[Routed]>,
}

/// A routed component.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// Its name in the manifest.
    pub(crate) component: String,
    /// The namespace of its instances.
    pub(crate) namespace: Namespace,
    /// Its instances.
    pub(crate) instances: Vec<Name>,
}

impl Readiness {
    /// Starting. `routed` are the components without which the host can't be ready.
    pub(crate) fn new(routed: impl IntoIterator<Item = Routed>) -> Self {
        Readiness { phase: Arc::new(AtomicU8::new(STARTING)), routed: routed.into_iter().collect() }
    }

    /// Both addresses are served. Has no effect on a draining host.
    pub(crate) fn serving(&self) {
        // A failed exchange means that the phase is a later one.
        let _ = self.phase.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No new connections are accepted from now on.
    pub(crate) fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Relaxed);
    }

    /// Whether the host is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == DRAINING
    }

    /// Why the host is not ready, if it isn't.
    pub(crate) fn obstacle(&self, registry: &Registry) -> Option<String> {
        match self.phase.load(Ordering::Relaxed) {
            STARTING => return Some("starting".to_owned()),
            DRAINING => return Some("draining".to_owned()),
            _ => {}
        }
        let snapshot = registry.snapshot();
        let available = |routed: &&Routed| {
            let group = snapshot.namespace(routed.namespace.as_str());
            let instances = routed.instances.iter();
            group.is_some_and(|group| {
                instances.filter_map(|name| group.find(name.as_str())).any(|member| member.is_available())
            })
        };
        let waiting = self.routed.iter().find(|routed| !available(routed))?;
        Some(format!("no instance of the component \"{}\" is available", waiting.component))
    }
}

/// `GET /healthz` and `/livez`: 200, because the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: 200 `{"status":"ok"}`, or 503 `{"status":"unavailable","reason"}`.
pub(super) async fn ready(State(control): State<Arc<Control>>) -> (StatusCode, Json<Value>) {
    match control.readiness.obstacle(&control.registry) {
        None => (StatusCode::OK, Json(json!({"status": "ok"}))),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unavailable", "reason": reason}))),
    }
}
