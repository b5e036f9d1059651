//! The bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use problem::{Code, Problem};

use super::{Control, Failure, dashboard};
use crate::linger::linger;

/// Paths that answer without the token, because probes and scrapers rarely have one. They tell nothing worth hiding. Neither
/// do the dashboard's own files: what it shows, it asks for with the token.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/metrics"];

/// Lets a request through if it shows the token, or needs none. Runs before routing is visible, so that a caller without
/// the token doesn't learn which paths exist.
pub(super) async fn require_token(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let Some(token) = &control.token else {
        return next.run(request).await;
    };
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let path = request.uri().path();
    if OPEN.contains(&path) || dashboard::is_file(path) || shown.is_some_and(|shown| token.matches(shown)) {
        return next.run(request).await;
    }
    // A component, for example: the answer is to be seen.
    linger(request.into_body());
    let detail = "the internal address needs the header \"authorization: Bearer TOKEN\"";
    Failure(Problem::new(Code::Unauthorized, detail)).into_response()
}

/// The token in `Bearer TOKEN`; the scheme's case doesn't matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
