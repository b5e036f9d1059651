//! The connections of the internal address.
//!
//! One task each, at most [`CONNECTIONS`]; further ones wait in the kernel's queue. A request's head must arrive within
//! [`HEAD`], which is also how long a kept connection may be idle. Who takes nothing of an answer for [`STALL`] is let go. At
//! the end, requests in flight get [`DRAIN`], or what is left of the time that the whole host has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::patience::Patient;

/// Most connections at a time.
const CONNECTIONS: usize = 1024;

/// For the head of a request to arrive.
const HEAD: Duration = Duration::from_secs(30);

/// Most bytes of a head.
const HEAD_BYTES: usize = 32 << 10;

/// For a client to take something of what it is sent.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// For requests in flight to finish at the end, if there is more time.
const DRAIN: Duration = Duration::from_secs(5);

/// For the same if there is no time left: idle connections are to be closed, not cut off.
const BRIEF: Duration = Duration::from_millis(100);

/// How long to wait when no connection can be accepted, which is when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Both ends of the connection that a request came by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Serves until `shutdown` completes, and then until the requests in flight are done, or the time is over that it says is
/// left, at most [`DRAIN`].
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = Duration>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    // Dropping the set at the end cuts what is still open.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    let left = loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            left = &mut shutdown => break left,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the internal address could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(connection) = ends(&stream) else {
            continue;
        };
        let router = router.clone().layer(axum::Extension(ConnectInfo(connection)));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, STALL)), TowerToHyperService::new(router));
        let served = graceful.watch(served);
        connections.spawn(async move {
            // A client that breaks off or sends no HTTP is nothing to report.
            let _ = served.await;
            drop(place);
        });
    };
    drop(listener);
    let patience = left.clamp(BRIEF, DRAIN);
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections to the internal address were still open after {patience:?} and are cut off");
    }
}

/// Both ends; None if the peer is gone already.
fn ends(stream: &TcpStream) -> Option<Connection> {
    // Small answers: nothing to gain from waiting for more. A failure costs time, not correctness.
    let _ = stream.set_nodelay(true);
    Some(Connection { peer: stream.peer_addr().ok()?, local: stream.local_addr().ok()? })
}
