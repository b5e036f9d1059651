//! Turns: when a worker may sample a request.
//!
//! One at a time, with a pause after each, for two reasons. Backstage, a rehearsal is to take a tenth of a processor for each
//! worker at most: the pause is [`PAUSE`] times as long as the second run took. And on the worker, a request that is sampled
//! takes a little longer and holds up those behind it: with at most one in [`SPREAD`], these are far less than one in a
//! hundred wherever there are many requests, so that the 99th percentile is one of the others. Where there are few, each one
//! is sampled, and none waits behind it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many times as long as the second run the pause after it is.
const PAUSE: u32 = 9;
/// It is no longer than this: a run may have taken long because its guest slept.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause, unless there are so many requests to be compared that there is no time for it.
const SPREAD: Duration = Duration::from_millis(50);

/// The shortest pause of so many workers if they are to sample so many requests in half of the time.
pub(super) fn spread(requests: usize, workers: usize, within: Duration) -> Duration {
    let for_each = u32::try_from(requests.div_ceil(workers.max(1))).unwrap_or(u32::MAX).max(1);
    (within / 2 / for_each).min(SPREAD)
}

/// The turns of one worker, which alone takes them. Anybody may end one.
pub(super) struct Turns {
    begun: Instant,
    /// The shortest pause.
    spread: Duration,
    taken: AtomicBool,
    /// Microseconds after `begun` before which there is no other turn.
    next: AtomicU64,
}

impl Turns {
    pub(super) fn new(begun: Instant, spread: Duration) -> Self {
        Self { begun, spread, taken: AtomicBool::new(false), next: AtomicU64::new(0) }
    }

    /// Takes a turn, if there may be one now.
    pub(super) fn take(&self, now: Instant) -> bool {
        if self.taken.load(Relaxed) || self.micros(now) < self.next.load(Relaxed) {
            return false;
        }
        self.taken.store(true, Relaxed);
        true
    }

    /// Ends the turn, of which the second run took so long.
    pub(super) fn end(&self, now: Instant, took: Duration) {
        let pause = (took * PAUSE).min(LONGEST_PAUSE).max(self.spread);
        self.next.store(self.micros(now + pause), Relaxed);
        self.taken.store(false, Relaxed);
    }

    /// Whether a sample is on its way.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Relaxed)
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn turns_come_one_at_a_time_and_after_a_pause() {
        let begun = Instant::now();
        let at = |millis| begun + ms(millis);
        let turns = Turns::new(begun, ms(50));
        assert!(turns.take(at(5)));
        assert!(turns.is_taken() && !turns.take(at(500)));
        turns.end(at(500), ms(1));
        assert!(!turns.is_taken() && !turns.take(at(549)));
        assert!(turns.take(at(550)), "the shortest pause");
        turns.end(at(600), ms(20));
        assert!(!turns.take(at(779)));
        assert!(turns.take(at(780)), "nine times as long as the twenty milliseconds");
        turns.end(at(10_000), ms(8_000));
        assert!(!turns.take(at(10_999)));
        assert!(turns.take(at(11_000)), "a guest that sleeps doesn't end the rehearsal");
    }

    #[test]
    fn the_pause_leaves_time_for_all() {
        let minute = Duration::from_secs(60);
        assert_eq!(spread(200, 2, minute), ms(50));
        assert_eq!(spread(10_000, 2, minute), ms(6));
        assert_eq!(spread(10_000, 64, minute), ms(50));
        assert_eq!((spread(0, 1, minute), spread(1, 0, minute)), (ms(50), ms(50)));
    }
}
