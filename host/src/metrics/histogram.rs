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
#[derive(Debug)]
pub(crate) struct Sum {
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

    /// What was counted since `before`, an earlier sum of the same histograms.
    pub(crate) fn since(&self, before: &Sum) -> Sum {
        let counts = self.counts.iter().zip(&before.counts).map(|(now, before)| now.saturating_sub(*before)).collect();
        Sum { scale: self.scale, counts, sum: self.sum.wrapping_sub(before.sum) }
    }

    /// What this share of the values is at most, in the unit that is shown, as `histogram_quantile` of Prometheus has it:
    /// values are taken to be spread evenly over their bucket. None if there are no values.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let mut below = 0;
        let bucket = self.counts.iter().position(|count| {
            below += count;
            *count > 0 && below as f64 >= rank
        })?;
        let bounds = self.scale.bounds;
        let (Some(end), begin) = (bounds.get(bucket), bucket.checked_sub(1).map_or(0, |before| bounds[before])) else {
            // Nothing is known of those beyond the last bound but that.
            return bounds.last().map(|last| *last as f64 / self.scale.divisor);
        };
        let within = self.counts[bucket] as f64;
        let part = (rank - (below as f64 - within)) / within;
        Some((begin as f64 + part * (end - begin) as f64) / self.scale.divisor)
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

    #[test]
    fn a_quantile_is_within_its_bucket() {
        let histogram = Histogram::new(&SCALE);
        let sum = || {
            let mut sum = Sum::new(&SCALE);
            sum.add(&histogram);
            sum
        };
        assert_eq!(sum().quantile(0.5), None);
        for value in [1, 2, 3, 4, 11, 12, 13, 14] {
            histogram.record(value);
        }
        assert_eq!([0.25, 0.5, 0.75, 1.0].map(|share| sum().quantile(share)), [0.5, 1.0, 1.5, 2.0].map(Some));
        let before = sum();
        histogram.record(1000);
        let since = sum().since(&before);
        assert_eq!((since.count(), since.quantile(0.5)), (1, Some(2.0)), "more than the last bound is not known");
    }
}
