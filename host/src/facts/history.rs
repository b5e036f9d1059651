//! The last quarter of an hour: how many requests a second, how many of them failed, how long they took, and how long the
//! store's syncs took.
//!
//! Samples are differences between what has been counted at two moments, so recording a request costs nothing more. Pure:
//! time and counts come in. Bounded: [`SAMPLES`] samples, from the start of the process on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::metrics::Totals;

/// How often a sample is taken.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How many are kept: a quarter of an hour.
const SAMPLES: usize = 180;

/// What is remembered.
#[derive(Debug)]
pub(super) struct Recorder {
    last: (Instant, Totals),
    /// Oldest first.
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    per_second: f64,
    errors_per_second: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    sync: Option<f64>,
}

/// What is shown of it: columns of the same length, oldest first. A value is null when there was nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// From one value to the next.
    pub(crate) interval_ms: u64,
    /// Requests that ended, a second.
    pub(crate) per_second: Vec<f64>,
    /// Those of them that were answered by a 5xx.
    pub(crate) errors_per_second: Vec<f64>,
    /// What half of them took at most, in milliseconds.
    pub(crate) p50_ms: Vec<Option<f64>>,
    /// What 99 % of them took at most.
    pub(crate) p99_ms: Vec<Option<f64>>,
    /// What 99 % of the syncs of the store's log took at most.
    pub(crate) sync_p99_ms: Vec<Option<f64>>,
}

impl Recorder {
    /// Begins with what has been counted until now.
    pub(super) fn new(now: Instant, totals: Totals) -> Self {
        Self { last: (now, totals), samples: VecDeque::with_capacity(SAMPLES) }
    }

    /// Takes a sample: what has been counted since the one before.
    pub(super) fn sample(&mut self, now: Instant, totals: Totals) {
        let (then, before) = std::mem::replace(&mut self.last, (now, totals));
        let totals = &self.last.1;
        let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
        let durations = totals.durations.since(&before.durations);
        let syncs = totals.syncs.since(&before.syncs);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            per_second: rounded(totals.requests.saturating_sub(before.requests) as f64 / seconds),
            errors_per_second: rounded(totals.errors.saturating_sub(before.errors) as f64 / seconds),
            p50: durations.quantile(0.5).map(milliseconds),
            p99: durations.quantile(0.99).map(milliseconds),
            sync: syncs.quantile(0.99).map(milliseconds),
        });
    }

    /// All samples.
    pub(super) fn show(&self) -> History {
        let samples = &self.samples;
        History {
            interval_ms: u64::try_from(INTERVAL.as_millis()).expect("some seconds"),
            per_second: samples.iter().map(|sample| sample.per_second).collect(),
            errors_per_second: samples.iter().map(|sample| sample.errors_per_second).collect(),
            p50_ms: samples.iter().map(|sample| sample.p50).collect(),
            p99_ms: samples.iter().map(|sample| sample.p99).collect(),
            sync_p99_ms: samples.iter().map(|sample| sample.sync).collect(),
        }
    }
}

fn milliseconds(seconds: f64) -> f64 {
    rounded(seconds * 1000.0)
}

/// With the digits that mean something.
fn rounded(value: f64) -> f64 {
    let precision = if value < 10.0 { 1000.0 } else { 10.0 };
    (value * precision).round() / precision
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(requests: u64, errors: u64) -> Totals {
        Totals { requests, errors, ..Totals::default() }
    }

    #[test]
    fn samples_are_rates_since_the_one_before() {
        let start = Instant::now();
        let mut recorder = Recorder::new(start, totals(100, 10));
        recorder.sample(start + INTERVAL, totals(150, 11));
        recorder.sample(start + 3 * INTERVAL, totals(250, 11));
        let history = recorder.show();
        assert_eq!(history.per_second, [10.0, 10.0], "one sample came late");
        assert_eq!(history.errors_per_second, [0.2, 0.0]);
        assert_eq!(history.p99_ms, [None, None], "nothing was measured");
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let start = Instant::now();
        let mut recorder = Recorder::new(start, totals(0, 0));
        let mut requests = 0;
        for number in 1..=2 * SAMPLES as u32 {
            requests += 5 * u64::from(number);
            recorder.sample(start + number * INTERVAL, totals(requests, 0));
        }
        let history = recorder.show();
        assert_eq!(SAMPLES as u32 * INTERVAL, Duration::from_secs(15 * 60));
        assert_eq!(history.per_second.len(), SAMPLES);
        assert_eq!((history.per_second[0], history.per_second[SAMPLES - 1]), (181.0, 360.0));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.12345, 9.9996, 12.345, 123_456.78].map(rounded), [0.123, 10.0, 12.3, 123_456.8]);
    }
}
