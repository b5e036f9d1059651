//! `GET /metrics`: the same as at the public address, which can be told not to show them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::response::IntoResponse;

use super::Control;

/// `GET /metrics`: 200, in the format that the client asks for.
pub(super) async fn metrics(State(control): State<Arc<Control>>, headers: HeaderMap) -> impl IntoResponse {
    let (format, text) = control.metrics.scrape(&headers).await;
    ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text)
}
