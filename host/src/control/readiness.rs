//! `GET /healthz`, `/livez` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use registry::Registry;
use serde_json::{Value, json};

use super::Control;
use crate::swap::ComponentInfo;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// How far the process is, shared by the composition root, which moves it on, and `/readyz`, which tells.
/// Starting, then ready, then draining; never back.
#[derive(Clone, Default)]
pub(crate) struct Readiness {
    phase: Arc<AtomicU8>,
}

impl Readiness {
    /// Starting.
    pub(crate) fn new() -> Self {
        Self::default()
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

    /// Why the host is not ready, if it isn't: without an available instance of each routed component, it can't be.
    pub(crate) fn obstacle(&self, registry: &Registry, components: &[ComponentInfo]) -> Option<String> {
        match self.phase.load(Ordering::Relaxed) {
            STARTING => return Some("starting".to_owned()),
            DRAINING => return Some("draining".to_owned()),
            _ => {}
        }
        let snapshot = registry.snapshot();
        let available = |component: &&ComponentInfo| {
            let group = snapshot.namespace(&component.namespace);
            let instances = component.instances.iter();
            group.is_some_and(|group| instances.filter_map(|name| group.find(name)).any(|member| member.is_available()))
        };
        let waiting =
            components.iter().filter(|component| component.route.is_some()).find(|routed| !available(routed))?;
        Some(format!("no instance of the component \"{}\" is available", waiting.name))
    }
}

/// `GET /healthz` and `/livez`: 200, because the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: 200 `{"status":"ok"}`, or 503 `{"status":"unavailable","reason"}`.
pub(super) async fn ready(State(control): State<Arc<Control>>) -> (StatusCode, Json<Value>) {
    match control.readiness.obstacle(&control.registry, &control.components.list()) {
        None => (StatusCode::OK, Json(json!({"status": "ok"}))),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unavailable", "reason": reason}))),
    }
}
