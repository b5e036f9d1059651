//! The public listener. Lives from start-up to the drain.
//!
//! What bounds it: a permit for every open connection; without one nothing is accepted, and clients wait in the
//! kernel's queue.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use runtime::Worker;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::{Edge, connection};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// How long to wait when the process has no file descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A bound public address.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address. Port 0 picks a free one.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address it is bound to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until `drain` resolves; then closes the listener, lets each connection finish the request it
    /// is on, and returns how many were still open after `patience`.
    pub(crate) async fn serve(
        self,
        edge: &Edge,
        workers: &[Worker],
        drain: impl Future<Output = ()>,
        patience: Duration,
    ) -> usize {
        let most = edge.limits.connections;
        let permits = Arc::new(Semaphore::new(most));
        let (draining, _) = watch::channel(false);
        let load: Vec<Arc<AtomicUsize>> = workers.iter().map(|_| Arc::default()).collect();
        let edges: Vec<_> = workers.iter().map(|_| Arc::new(edge.clone())).collect();

        let accepting = async {
            loop {
                let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
                let (stream, peer) = self.accept().await;
                let index = least(&load);
                let open = Open::count(&load[index]);
                let (edge, worker, draining) = (edges[index].clone(), workers[index].clone(), draining.subscribe());
                workers[index].spawn(async move {
                    let _held = (permit, open);
                    connection::serve(stream, peer, edge, worker, draining).await;
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = drain => {}
        }

        drop(self.socket);
        draining.send_replace(true);
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        let finished = tokio::time::timeout(patience, permits.acquire_many(all)).await.is_ok();
        if finished { 0 } else { most - permits.available_permits() }
    }

    async fn accept(&self) -> (std::net::TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok(accepted) => return accepted,
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::warn!("a connection can't be accepted: {error}; trying again");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

/// Whether the client went away before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// The worker with the fewest connections.
fn least(load: &[Arc<AtomicUsize>]) -> usize {
    let least = load.iter().enumerate().min_by_key(|(_, open)| open.load(Relaxed));
    least.map_or(0, |(index, _)| index)
}

/// Counts a connection as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Registers an accepted connection with the runtime of the current thread.
pub(super) fn adopt(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
