//! Loads WebAssembly HTTP components and runs requests on them. The only place with wasmtime.
//!
//! From the outside in:
//! - [`Runtime`]: the engine, the [`Worker`]s and what they serve; [`Code`] and [`ComponentSpec`] are what it loads.
//! - [`Revision`]: a component and its configuration, ready to be served, being served, or being retired.
//! - [`Worker::dispatch`]: brings a request to an instance, in process or remote, and tries again where that is safe.
//! - rehearsals: live requests, run once more on a revision that is not published yet.
//! - pools: the guests of one instance on one worker, and the queue for them.
//! - guests: one instantiation each, driven by a task of its own.
//! - capabilities: what guests can import.

mod body;
mod call;
mod capabilities;
mod check;
mod compiler;
mod counters;
mod dispatch;
mod doorbell;
mod engine;
mod gently;
mod guest;
mod health;
mod held;
mod limiter;
mod outbound;
mod pool;
mod priority;
mod rehearsal;
mod relay;
mod remote;
mod revision;
mod router;
mod runtime;
mod rush;
mod spec;
mod state;
mod steps;
mod template;
mod worker;

pub use body::{Body, BodyError, answer_length, content_length, empty, full};
pub use capabilities::store_error_code;
pub use check::{Import, LoadError, Missing, Report, World};
pub use compiler::Compiler;
pub use counters::{Census, ComponentStats};
pub use dispatch::{Hop, MAX_DEPTH, Target, answer_with};
pub use engine::most_guests;
pub use gently::{PIECE, gently};
pub use outbound::{OutboundPolicy, OutboundRuleError};
pub use pool::Outcomes;
pub use rehearsal::{
    Count, DifferenceGroup, Example, Latency, NotPromoted, Promote, RefusedRequests, RehearsalOptions, RehearsalReport,
    Sides, UnknownPromote,
};
pub use remote::{HOPS, remove_hop_by_hop};
pub use revision::Revision;
pub use router::{PathPattern, Routed};
pub use runtime::{Change, Config, PrepareError, Runtime, StartError};
pub use spec::{Buckets, Code, ComponentSpec, Digest, Directory, HealthCheck, Limits, NotADigest, SocketRule};
pub use worker::{View, Worker};
