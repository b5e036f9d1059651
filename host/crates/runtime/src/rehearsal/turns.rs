//! Turns: when a worker may sample a request.
//!
//! One at a time, and after each there is a pause, so that a rehearsal takes at most a tenth of what a worker can do and most
//! requests don't meet it. Where there are few requests, the pause is over before the next one comes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many times as long as a sample the pause after it is.
const PAUSE: u32 = 9;
/// It is no longer than this: a sample may have taken long because its client read slowly.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The turns of one worker, which alone takes them. Anybody may end one.
pub(super) struct Turns {
    begun: Instant,
    taken: AtomicBool,
    /// Microseconds after `begun` when the present turn began.
    since: AtomicU64,
    /// Microseconds after `begun` before which there is no other turn.
    next: AtomicU64,
}

impl Turns {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, taken: AtomicBool::new(false), since: AtomicU64::new(0), next: AtomicU64::new(0) }
    }

    /// Takes a turn, if there may be one now.
    pub(super) fn take(&self, now: Instant) -> bool {
        let now = self.micros(now);
        if self.taken.load(Relaxed) || now < self.next.load(Relaxed) {
            return false;
        }
        self.since.store(now, Relaxed);
        self.taken.store(true, Relaxed);
        true
    }

    /// Ends the turn.
    pub(super) fn end(&self, now: Instant) {
        let now = self.micros(now);
        let took = Duration::from_micros(now.saturating_sub(self.since.load(Relaxed)));
        let pause = (took * PAUSE).min(LONGEST_PAUSE);
        self.next.store(now + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Relaxed);
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

    #[test]
    fn turns_come_one_at_a_time_and_after_a_pause() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let turns = Turns::new(begun);
        assert!(turns.take(at(5)));
        assert!(turns.is_taken() && !turns.take(at(6)));
        turns.end(at(7));
        assert!(!turns.is_taken() && !turns.take(at(24)));
        assert!(turns.take(at(25)), "nine times as long as the two milliseconds");
        turns.end(at(10_025));
        assert!(!turns.take(at(10_124)));
        assert!(turns.take(at(10_125)), "a slow client doesn't end the rehearsal");
    }
}
