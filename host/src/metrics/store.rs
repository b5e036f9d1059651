//! What the store's log tells about its commits. Recorded by the log's thread.

use std::fmt;

use store::durable::Committed;

use super::exposition::Encoder;
use super::histogram::{Histogram, Scale, Sum};

/// From what a disk with a cache takes to what a stalled one does.
static SYNCS: Scale = Scale {
    bounds: &[
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        5_000_000_000,
    ],
    divisor: 1e9,
};

/// Up to the most that the log commits at once.
static BATCHES: Scale = Scale { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], divisor: 1.0 };

/// What was committed.
pub(crate) struct Commits {
    syncs: Histogram,
    batches: Histogram,
}

impl Default for Commits {
    fn default() -> Self {
        Self { syncs: Histogram::new(&SYNCS), batches: Histogram::new(&BATCHES) }
    }
}

impl Commits {
    /// Called for each commit, and each sync that comes later than its commits.
    pub(crate) fn record(&self, commit: Committed) {
        if let Some(sync) = commit.sync {
            self.syncs.record_duration(sync);
        }
        if commit.jobs > 0 {
            self.batches.record(commit.jobs as u64);
        }
    }

    /// How long syncs took.
    pub(super) fn syncs(&self) -> Sum {
        let mut syncs = Self::no_syncs();
        syncs.add(&self.syncs);
        syncs
    }

    /// What is summed up of none at all.
    pub(super) fn no_syncs() -> Sum {
        Sum::new(&SYNCS)
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let syncs = self.syncs();
        let help = "Seconds that syncing the store's log to disk took";
        encoder.histogram("store_sync_duration_seconds", help)?.sample(&[], &syncs)?;
        let mut batches = Sum::new(&BATCHES);
        batches.add(&self.batches);
        encoder.histogram("store_commit_batch_size", "Writes that shared one commit")?.sample(&[], &batches)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sync_of_its_own_is_no_commit() {
        let commits = Commits::default();
        commits.record(Committed { jobs: 3, bytes: 100, sync: None });
        commits.record(Committed { jobs: 0, bytes: 0, sync: Some(Duration::from_millis(1)) });
        let count = |histogram, scale| {
            let mut sum = Sum::new(scale);
            sum.add(histogram);
            sum.count()
        };
        assert_eq!((count(&commits.batches, &BATCHES), count(&commits.syncs, &SYNCS)), (1, 1));
    }
}
