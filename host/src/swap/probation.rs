//! Probation: whether a revision that was just published is worse than the one before. Pure: time and counts come in.
//!
//! It is judged by the share of its calls that fail, over two windows: all since it was published, so that it is found
//! out also with few requests, and the last [`RECENT`], so that it is found out soon when it begins to fail late. A call
//! that hangs has failed only when its deadline has passed; so the calls that began in time are waited for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use runtime::Outcomes;

/// The shorter of the two windows.
const RECENT: Duration = Duration::from_secs(2);

/// Fewer failures say nothing.
const FEWEST: u64 = 3;

/// Most samples that a [`Recent`] has.
const MOST: usize = 256;

/// Counts over the last while, from samples.
pub(crate) struct Recent {
    window: Duration,
    /// Oldest first; all but the first are within the window.
    samples: VecDeque<(Instant, Outcomes)>,
}

impl Recent {
    /// `now`, `outcomes` have been counted.
    pub(crate) fn new(window: Duration, now: Instant, outcomes: Outcomes) -> Self {
        Self { window, samples: VecDeque::from([(now, outcomes)]) }
    }

    /// Takes a sample. Those that are too close to the last one are passed over, so that the window fits.
    pub(crate) fn sample(&mut self, now: Instant, outcomes: Outcomes) {
        let age = |time: Instant| now.saturating_duration_since(time);
        if self.samples.back().is_some_and(|(last, _)| age(*last) < self.window / MOST as u32) {
            return;
        }
        self.samples.push_back((now, outcomes));
        while self.samples.get(1).is_some_and(|(time, _)| age(*time) >= self.window) {
            self.samples.pop_front();
        }
    }

    /// What has happened within the window, or since the first sample, until these `outcomes`.
    pub(crate) fn until(&self, outcomes: Outcomes) -> Outcomes {
        self.samples.front().map_or(outcomes, |(_, first)| outcomes - *first)
    }
}

/// The share of calls that failed; none if there were none.
pub(crate) fn failure_rate(outcomes: Outcomes) -> f64 {
    if outcomes.calls == 0 { 0.0 } else { outcomes.failures as f64 / outcomes.calls as f64 }
}

/// A revision on probation.
pub(crate) struct Probation {
    published: Instant,
    lasts: Duration,
    /// The failure rate that is too much.
    limit: f64,
    whole: Recent,
    recent: Recent,
}

/// What is known so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Open,
    /// It was not worse for the whole time, and answered what was asked of it then.
    Passed,
    /// It is worse. The text says by which counts.
    Failed(String),
}

impl Probation {
    /// Begins when a revision is published, with what it counted until then. It fails when its failure rate is over
    /// `threshold` and over `before`, that of the revision before.
    pub(crate) fn new(threshold: f64, lasts: Duration, before: f64, now: Instant, outcomes: Outcomes) -> Self {
        Self {
            published: now,
            lasts,
            limit: threshold.max(before),
            whole: Recent::new(Duration::MAX, now, outcomes),
            recent: Recent::new(RECENT, now, outcomes),
        }
    }

    /// Looks at what the revision has counted until now. `owes` tells whether calls that began before a time are not among
    /// that, as they have no answer yet.
    pub(crate) fn observe(&mut self, now: Instant, outcomes: Outcomes, owes: impl FnOnce(Instant) -> bool) -> Verdict {
        self.recent.sample(now, outcomes);
        let elapsed = now.saturating_duration_since(self.published);
        for (window, length) in [(&self.whole, elapsed), (&self.recent, elapsed.min(RECENT))] {
            let counted = window.until(outcomes);
            if counted.failures >= FEWEST && failure_rate(counted) > self.limit {
                let Outcomes { calls, failures } = counted;
                let (seconds, percent) = (length.as_secs_f64(), 100.0 * self.limit);
                return Verdict::Failed(format!(
                    "{failures} of {calls} requests failed within {seconds:.1} s, more than {percent:.3} %"
                ));
            }
        }
        let over = elapsed >= self.lasts && !owes(self.published + self.lasts);
        if over { Verdict::Passed } else { Verdict::Open }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcomes(calls: u64, failures: u64) -> Outcomes {
        Outcomes { calls, failures }
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn observe(probation: &mut Probation, now: Instant, outcomes: Outcomes) -> Verdict {
        probation.observe(now, outcomes, |_| false)
    }

    /// Ten seconds, 5 %, after a revision that never failed, and one that had counted already.
    fn probation(now: Instant) -> Probation {
        Probation::new(0.05, ms(10_000), 0.0, now, outcomes(7, 7))
    }

    #[test]
    fn what_never_fails_passes_when_the_time_is_over() {
        let start = Instant::now();
        let mut probation = probation(start);
        for tick in 0..100 {
            assert_eq!(observe(&mut probation, start + ms(tick * 100), outcomes(7 + tick * 50, 7)), Verdict::Open);
        }
        assert_eq!(observe(&mut probation, start + ms(10_000), outcomes(5000, 7)), Verdict::Passed);
    }

    #[test]
    fn what_begins_to_fail_late_is_found_out() {
        let start = Instant::now();
        let mut probation = probation(start);
        for tick in 1..=80 {
            assert_eq!(observe(&mut probation, start + ms(tick * 100), outcomes(7 + tick * 100, 7)), Verdict::Open);
        }
        // One in ten fails from now on: 1 % of all, but more than 5 % of those of two seconds.
        let verdicts = (81..=100).map(|tick| {
            observe(&mut probation, start + ms(tick * 100), outcomes(7 + tick * 100, 7 + (tick - 80) * 10))
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert!(verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed(_))), "{verdicts:?}");
    }

    #[test]
    fn few_requests_are_enough() {
        let start = Instant::now();
        let mut probation = probation(start);
        assert_eq!(observe(&mut probation, start + ms(3000), outcomes(9, 9)), Verdict::Open, "two say nothing");
        let Verdict::Failed(reason) = observe(&mut probation, start + ms(6000), outcomes(10, 10)) else {
            panic!("it is worse")
        };
        assert_eq!(reason, "3 of 3 requests failed within 6.0 s, more than 5.000 %");
    }

    #[test]
    fn what_hangs_is_waited_for() {
        let start = Instant::now();
        let mut probation = probation(start);
        let end = start + ms(10_000);
        assert_eq!(probation.observe(end, outcomes(7, 7), |before| before == end), Verdict::Open);
        let later = start + ms(30_000);
        assert!(matches!(probation.observe(later, outcomes(10, 10), |_| true), Verdict::Failed(_)));
        assert_eq!(probation.observe(later, outcomes(8, 7), |_| false), Verdict::Passed);
    }

    #[test]
    fn what_was_as_bad_before_is_no_reason() {
        let start = Instant::now();
        let mut probation = Probation::new(0.05, ms(10_000), 0.5, start, Outcomes::default());
        assert_eq!(observe(&mut probation, start + ms(100), outcomes(100, 50)), Verdict::Open);
        assert!(matches!(observe(&mut probation, start + ms(200), outcomes(200, 120)), Verdict::Failed(_)));
    }

    proptest! {
        /// Whatever is sampled: what a window counts has happened, and nothing that is within the window is missing.
        #[test]
        fn a_window_counts_what_is_in_it(steps in prop::collection::vec((1u64..500, 0u64..100), 1..300)) {
            let start = Instant::now();
            let window = ms(2000);
            let mut recent = Recent::new(window, start, Outcomes::default());
            let (mut now, mut counted) = (start, Outcomes::default());
            let mut history = vec![(now, counted)];
            for (pause, calls) in steps {
                now += ms(pause);
                counted = counted + outcomes(calls, calls / 2);
                recent.sample(now, counted);
                history.push((now, counted));
                let within = history.iter().rfind(|(time, _)| now.duration_since(*time) >= window);
                let least = counted - within.map_or(Outcomes::default(), |(_, outcomes)| *outcomes);
                let seen = recent.until(counted);
                prop_assert!(seen.calls >= least.calls && seen.calls <= counted.calls);
                prop_assert!(recent.samples.len() <= MOST + 2);
            }
        }
    }
}
