//! What is counted of a component, for metrics. Belongs to its name and lives as long as the process, so that no counter goes
//! back with a revision. Only what is rare is counted here: all workers share the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::call::Failure;

/// Why a guest failed, or a request on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The guest failed.
    Failed(Failure),
    /// A request on it passed its deadline.
    Deadline,
}

/// Why a request was shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// As many were waiting as may.
    QueueFull,
    /// It waited too long.
    Timeout,
    /// There was no room in the process for another guest.
    NoRoom,
}

/// All faults, each counted in its place.
const FAULTS: [Fault; 7] = [
    Fault::Failed(Failure::Start),
    Fault::Failed(Failure::Trap),
    Fault::Failed(Failure::Exit),
    Fault::Failed(Failure::Stuck),
    Fault::Failed(Failure::Replaced),
    Fault::Failed(Failure::Error),
    Fault::Deadline,
];
/// The names of [`Shed`]s, in their order.
const SHEDS: [&str; 3] = ["queue_full", "timeout", "no_room"];

impl Shed {
    /// The reason as a word, for metrics and traces.
    pub(crate) fn reason(self) -> &'static str {
        SHEDS[self as usize]
    }
}

impl Fault {
    /// The reason as a word, for metrics, traces and reports.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Failed(failure) => failure.reason(),
            Self::Deadline => "deadline",
        }
    }
}

/// The counters of one component.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    starts: AtomicU64,
    faults: [AtomicU64; FAULTS.len()],
    sheds: [AtomicU64; SHEDS.len()],
}

impl Counters {
    pub(crate) fn start(&self) {
        self.starts.fetch_add(1, Relaxed);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        let index = FAULTS.iter().position(|listed| *listed == fault).expect("all are listed");
        self.faults[index].fetch_add(1, Relaxed);
    }

    pub(crate) fn shed(&self, reason: Shed) {
        self.sheds[reason as usize].fetch_add(1, Relaxed);
    }
}

/// How a component is doing, and what has happened to it since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentStats {
    /// Its name in the manifest.
    pub component: Arc<str>,
    /// How its guests are doing, those of older revisions included.
    pub guests: Census,
    /// Guests that were started, or could not be.
    pub starts: u64,
    /// Guests that failed and requests that failed on one, by reason.
    pub failures: Vec<(&'static str, u64)>,
    /// Requests that were shed, by reason. One that is tried elsewhere is counted each time.
    pub shed: Vec<(&'static str, u64)>,
}

/// How guests are doing at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Guests that are starting or serve as many requests as they can.
    pub busy: usize,
    /// Guests with room for a request.
    pub idle: usize,
    /// Requests that wait for a guest.
    pub waiting: usize,
}

impl std::ops::AddAssign for Census {
    fn add_assign(&mut self, other: Self) {
        self.busy += other.busy;
        self.idle += other.idle;
        self.waiting += other.waiting;
    }
}

impl ComponentStats {
    pub(crate) fn new(component: &str, counters: &Counters) -> Self {
        let named = |names: &[&'static str], counts: &[AtomicU64]| {
            names.iter().copied().zip(counts.iter().map(|count| count.load(Relaxed))).collect()
        };
        Self {
            component: component.into(),
            guests: Census::default(),
            starts: counters.starts.load(Relaxed),
            failures: named(&FAULTS.map(Fault::reason), &counters.faults),
            shed: named(&SHEDS, &counters.sheds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_name() {
        let counters = Counters::default();
        counters.fault(Fault::Failed(Failure::Start));
        counters.fault(Fault::Deadline);
        counters.shed(Shed::NoRoom);
        let stats = ComponentStats::new("a", &counters);
        let failures =
            [("start", 1), ("trap", 0), ("exit", 0), ("stuck", 0), ("replaced", 0), ("error", 0), ("deadline", 1)];
        assert_eq!(stats.failures, failures);
        assert_eq!(stats.shed, [("queue_full", 0), ("timeout", 0), ("no_room", 1)]);
    }
}
