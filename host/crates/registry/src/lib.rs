//! Which instances there are, which of them are available, and which one the next request goes to.
//!
//! The crate has no sockets and no clock of its own: every method that depends on time takes the current [`Instant`],
//! so that leases, health and balancing are plain state machines.
//!
//! - [`instance`]: the words: [`Namespace`], [`Name`], [`Address`], [`Location`].
//! - [`lease`]: how long a remote instance lives without a heartbeat.
//! - [`health`]: when failures make an instance unavailable, and what brings it back.
//! - [`balance`]: exact round robin.
//! - [`retry`]: how many requests may be sent a second time; [`Retries`]: how many were, by namespace.
//! - [`snapshot`]: what the data plane reads: immutable, without a lock.
//! - [`registry`](crate::Registry): puts them together; the only thing that changes.
//!
//! [`Instant`]: std::time::Instant

pub mod balance;
pub mod health;
pub mod instance;
pub mod lease;
mod registry;
pub mod retry;
pub mod snapshot;
mod sorted;
mod tally;

pub use health::HealthPolicy;
pub use instance::{Address, InstanceInfo, InvalidAddress, InvalidName, Location, Name, Namespace, Rotation};
pub use registry::{Config, RegisterError, Registration, Registry, UnknownInstance};
pub use retry::{RetryBudget, RetryPolicy};
pub use snapshot::{Group, Member, Snapshot};
pub use tally::{REST, Retries};
