//! One connection on its worker, from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::Worker;
use tokio::sync::watch;

use super::accept::adopt;
use super::forwarded::Peer;
use super::refusal::{self, Refusing, Turns};
use super::{Edge, request};
use crate::patience::Patient;

/// Most bytes of a body that are read at once, if they come so fast. Memory that a connection may take, while it is used.
const READ_AT_ONCE: usize = 256 << 10;

/// Serves the requests of a connection one after another. When `draining` becomes true, the one under way is the last.
pub(super) async fn serve(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    edge: Arc<Edge>,
    worker: Worker,
    mut draining: watch::Receiver<bool>,
) {
    let stream = match adopt(stream) {
        Ok(stream) => Patient::new(stream, edge.limits.body_idle),
        Err(error) => {
            tracing::debug!(%peer, "a connection was lost before its first byte: {error}");
            return;
        }
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(edge.limits.head_timeout)
        // What is a little over the limits is let in, so that it gets a proper answer; see `request`.
        .max_buf_size(READ_AT_ONCE.max(2 * edge.limits.head_bytes))
        .max_headers(2 * edge.limits.headers);
    let context = (edge, worker, Peer::new(peer));
    let turns = Turns::default();
    let service = service_fn(|request| {
        let ((edge, worker, peer), turn) = (&context, turns.begin());
        async move { Ok::<_, Infallible>(request::answer(edge, worker, peer, request, turn).await) }
    });
    let stream = Refusing::new(stream, turns.clone(), |code| refusal::answer(&context.0, &context.1, code));
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let drained = async { draining.wait_for(|draining| *draining).await.is_ok() };
    let served = tokio::select! {
        biased;
        served = serving.as_mut() => served,
        _ = drained => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, "a connection ended early: {error}");
    }
}
