//! A histogram that many threads record into without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What is measured: where its buckets end, and in which unit it is shown.
#[derive(Debug)]
pub(super) struct Scale {
    /// The upper bounds of the buckets, in ascending order. One more bucket has none.
    pub(super) bounds: &'static [u64],
    /// How many of what is recorded make one of what is shown: nanoseconds are shown as seconds.
    pub(super) divisor: f64,
}

/// Counts of values, by size. As large as it will ever be from the start.
pub(super) struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and the last for what is above them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What one or more histograms of the same scale have counted.
pub(super) struct Sum {
    scale: &'static Scale,
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    pub(super) fn new(scale: &'static Scale) -> Self {
        let counts = (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { scale, counts, sum: AtomicU64::new(0) }
    }

    pub(super) fn record(&self, value: u64) {
        let bucket = self.scale.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// On a scale of nanoseconds.
    pub(super) fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Sum {
    pub(super) fn new(scale: &'static Scale) -> Self {
        Self { scale, counts: vec![0; scale.bounds.len() + 1], sum: 0 }
    }

    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum += count.load(Relaxed);
        }
        self.sum = self.sum.wrapping_add(histogram.sum.load(Relaxed));
    }

    /// How many values were recorded.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in the unit that is shown.
    pub(super) fn sum(&self) -> f64 {
        self.sum as f64 / self.scale.divisor
    }

    /// The upper bound of each bucket, in the unit that is shown, and how many values are in that bucket alone.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.scale.bounds.iter().map(|bound| *bound as f64 / self.scale.divisor);
        bounds.chain([f64::INFINITY]).zip(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCALE: Scale = Scale { bounds: &[10, 20], divisor: 10.0 };

    #[test]
    fn a_value_is_in_the_first_bucket_that_ends_at_or_above_it() {
        let (one, other) = (Histogram::new(&SCALE), Histogram::new(&SCALE));
        for value in [0, 10, 11] {
            one.record(value);
        }
        for value in [20, 21, 99] {
            other.record(value);
        }
        let mut sum = Sum::new(&SCALE);
        sum.add(&one);
        sum.add(&other);
        assert_eq!(sum.buckets(), [(1.0, 2), (2.0, 2), (f64::INFINITY, 2)]);
        assert_eq!((sum.count(), sum.sum()), (6, 16.1));
    }
}
