//! `GET` and `PUT /log-level`: the least important events that are logged.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::body::Fields;
use super::{Control, Failure};
use crate::telemetry::LogLevel;

/// What both answer.
#[derive(Serialize)]
pub(super) struct Shown {
    level: LogLevel,
}

/// `GET /log-level`: 200 `{"level":"info"}`.
pub(super) async fn show(State(control): State<Arc<Control>>) -> Json<Shown> {
    Json(Shown { level: control.log_level.get() })
}

/// `PUT /log-level {"level":"debug"}`: 200 with the new level, which holds from now on and until the process ends.
pub(super) async fn set(State(control): State<Arc<Control>>, fields: Fields) -> Result<Json<Shown>, Failure> {
    let level = fields.parse("level")?;
    let before = control.log_level.get();
    control.log_level.set(level);
    if before != level {
        tracing::warn!(?before, now = ?level, "the log's level was changed");
    }
    Ok(Json(Shown { level }))
}
