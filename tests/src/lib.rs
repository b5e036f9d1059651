//! What the end-to-end tests are written in: a running host, requests, fake remote instances.
//!
//! Tests see what users see: the real binary, its command line, its two addresses, its log and its exit code. All run
//! side by side, each with its own host on free ports and in its own directory, and each host ends with its test.
//!
//! - [`Host`]: a running host and how to start one.
//! - [`Client`], [`Reply`]: ordinary requests. [`Wire`]: odd ones, byte by byte.
//! - [`Remote`]: an instance outside of the host, made by the test. [`Collector`]: what traces are sent to.
//! - [`Load`]: many clients at once, which miss nothing. [`revision`]: what components are swapped for.
//! - [`Disk`]: a small one, to be filled.
//! - [`artifact`]: the binary under test and the guests, built once.
//! - [`Metrics`]: what a host's `/metrics` says.
//! - [`eventually`]: waits for a state. Nothing else waits.
//! - [`need`]: tests that need something this machine may not have.

pub mod artifact;
mod collector;
mod disk;
mod host;
mod http;
pub mod load;
mod log;
mod metrics;
mod needs;
mod otlp;
mod remote;
pub mod revision;
pub mod strace;
mod usage;
mod wait;
mod wire;

pub use crate::collector::{Collector, Span};
pub use crate::disk::Disk;
pub use crate::host::{Builder, Host, Run};
pub use crate::http::{Client, Reply, Request};
pub use crate::load::Load;
pub use crate::log::Log;
pub use crate::metrics::Metrics;
pub use crate::needs::{missing, program, rounds};
pub use crate::remote::{Exchange, Remote};
pub use crate::usage::Usage;
pub use crate::wait::{PATIENCE, eventually, eventually_true};
pub use crate::wire::{Head, Wire};
