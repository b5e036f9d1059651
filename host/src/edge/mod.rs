//! The edge: the public address. Accepts connections, hands them evenly to the workers, holds requests to their
//! limits, and gives them to the dispatcher.
//!
//! - [`accept`]: the listener, the bound on connections, the drain.
//! - [`connection`]: one connection on its worker.
//! - [`request`]: what a request must be to get in, and what is added to it.
//! - [`refusal`]: the answer to what can't be read as a request.
//! - [`body`]: bodies that are too large or stand still.
//! - [`exchange`]: what metrics and access log are told of a request. [`trace`]: its first step in a trace. [`failing`]: why
//!   one failed, for operators.

mod accept;
mod body;
mod connection;
mod exchange;
mod failing;
mod forwarded;
mod refusal;
mod request;
mod request_id;
mod trace;

pub(crate) use accept::Listener;

use std::time::Duration;

use ipnet::IpNet;

use crate::facts::Failures;
use crate::metrics::{Handler, Metrics};
use crate::telemetry::AccessLog;

/// What the edge needs to know. Immutable for the life of the process; each worker has a copy, so that references to it are
/// counted apart.
#[derive(Clone)]
pub(crate) struct Edge {
    /// What bounds connections and requests.
    pub(crate) limits: Limits,
    /// Clients whose `x-forwarded-*` headers are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// The handler of requests that have no route.
    pub(crate) unrouted: &'static Handler,
    /// The handler of `/metrics`, if it is answered here.
    pub(crate) metrics_handler: Option<&'static Handler>,
    /// Where requests are logged, if they are.
    pub(crate) access: Option<AccessLog>,
    /// Where those that fail are remembered.
    pub(crate) failures: Failures,
}

/// What bounds connections and requests.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections open at once; more wait in the kernel's queue.
    pub(crate) connections: usize,
    /// How long a request's head may take.
    pub(crate) head_timeout: Duration,
    /// Bytes a request's head may have.
    pub(crate) head_bytes: usize,
    /// Headers a request may have.
    pub(crate) headers: usize,
    /// How long a body, of a request or an answer, may stand still.
    pub(crate) body_idle: Duration,
    /// Bytes a request's body may have.
    pub(crate) body_bytes: u64,
}
