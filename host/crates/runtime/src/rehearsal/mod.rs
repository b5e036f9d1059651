//! A rehearsal: live requests are run on a revision that is not published yet, and the answers compared.

mod compare;
mod report;
mod tap;
mod tape;

pub use compare::VOLATILE;
pub use report::{
    Count, DifferenceGroup, Example, Latency, NotPromoted, Promote, RefusedRequests, RehearsalReport, Sides,
    UnknownPromote,
};

/// Requests that a rehearsal can have at most.
pub const MAX_REQUESTS: usize = 10_000;
