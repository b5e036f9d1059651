//! How swaps of a component have ended, for metrics. Belongs to its name and lives as long as the process, so that no
//! counter goes back when it leaves the manifest and comes again. There are as many as manifests have named components.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a swap can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A new revision was published.
    Published,
    /// An older one was published, because somebody asked for it.
    RolledBack,
    /// The one before was published, because the new one failed too often.
    RolledBackAutomatically,
    /// The new one could not be run, or did not pass its trial.
    Rejected,
    /// It could not be recorded, or not be published.
    Failed,
}

/// Their names, in their order.
const NAMES: [&str; 5] = ["published", "rolled_back", "rolled_back_automatically", "rejected", "failed"];

/// How many have ended how.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    pub(super) fn add(&self, ending: Ending) {
        self.0[ending as usize].fetch_add(1, Relaxed);
    }

    /// Each ending with its name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_name() {
        let counts = Counts::default();
        counts.add(Ending::RolledBackAutomatically);
        counts.add(Ending::Failed);
        let expected =
            [("published", 0), ("rolled_back", 0), ("rolled_back_automatically", 1), ("rejected", 0), ("failed", 1)];
        assert!(counts.all().eq(expected));
    }
}
