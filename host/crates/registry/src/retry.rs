//! How many requests may be sent a second time: a share of all requests over a sliding window, but always a few.
//!
//! Without a bound, an outage multiplies the load by the number of instances just when they can bear it least. The budget
//! lives as long as the process and is one for all namespaces. Its memory is bounded by the window: one slot a second.
//! Pure, on an injected clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How much a [`RetryBudget`] allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How far back requests and retries count. In whole seconds, rounded up; 1 to 60.
    pub window: Duration,
    /// The share of the window's requests that may be retried, for example 0.2.
    pub ratio: f64,
    /// Retries that every second allows, however few requests there were.
    pub min_per_second: u32,
}

/// 20 % over 10 s, at least 10 a second.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self { window: Duration::from_secs(10), ratio: 0.2, min_per_second: 10 }
    }
}

/// Counts requests and retries, and says whether one more retry is allowed.
#[derive(Debug)]
pub struct RetryBudget {
    policy: RetryPolicy,
    /// The first instant that was passed in; seconds are counted from it.
    origin: OnceLock<Instant>,
    /// Requests, by second modulo the window: see [`Slot`]. Every worker writes here on every request: no lock.
    requests: Box<[AtomicU64]>,
    /// Retries, by second modulo the window. Behind a lock, so that two of them can't take the budget's last one.
    retries: Mutex<Box<[Slot]>>,
}

/// What was counted in one second. Packed into 64 bits (second, then count) where it has to be atomic.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u32,
    count: u32,
}

impl Slot {
    fn pack(self) -> u64 {
        u64::from(self.second) << 32 | u64::from(self.count)
    }

    fn unpack(packed: u64) -> Self {
        Self { second: (packed >> 32) as u32, count: packed as u32 }
    }
}

impl RetryBudget {
    /// A budget that has seen nothing yet.
    pub fn new(policy: RetryPolicy) -> Self {
        let seconds = policy.window.as_secs() + u64::from(policy.window.subsec_nanos() > 0);
        let slots = usize::try_from(seconds.clamp(1, 60)).expect("at most 60");
        Self {
            policy,
            origin: OnceLock::new(),
            requests: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            retries: Mutex::new(vec![Slot::default(); slots].into()),
        }
    }

    /// Counts a request (its first attempt only).
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        let slot = &self.requests[second as usize % self.requests.len()];
        let mut seen = slot.load(Ordering::Relaxed);
        // A second's first request takes the slot over from the second that is now out of the window. A thread whose
        // clock was read a moment before finds the slot taken and counts into the newer second: no harm.
        while Slot::unpack(seen).second < second {
            match slot.compare_exchange_weak(
                seen,
                Slot { second, count: 1 }.pack(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(newer) => seen = newer,
            }
        }
        // Can't carry into the second: that would take 4 billion requests in one second.
        slot.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry out of the budget. False if there is none left: then the request fails with what it has.
    pub fn try_retry(&self, now: Instant) -> bool {
        let second = self.second(now);
        let mut retries = self.lock();
        let index = second as usize % retries.len();
        if retries[index].second < second {
            retries[index] = Slot { second, count: 0 };
        }
        let requests =
            self.within_window(self.requests.iter().map(|slot| Slot::unpack(slot.load(Ordering::Relaxed))), second);
        let retried = self.within_window(retries.iter().copied(), second);
        let allowed = retries[index].count < self.policy.min_per_second
            || (retried + 1) as f64 <= requests as f64 * self.policy.ratio;
        if allowed {
            retries[index].count = retries[index].count.saturating_add(1);
        }
        allowed
    }

    fn within_window(&self, slots: impl Iterator<Item = Slot>, second: u32) -> u64 {
        let window = self.requests.len() as u64;
        slots.filter(|slot| u64::from(slot.second) + window > u64::from(second)).map(|slot| u64::from(slot.count)).sum()
    }

    /// Whole seconds since the first call, from 1 on (0 is the second of an empty slot). Enough for 136 years.
    fn second(&self, now: Instant) -> u32 {
        let origin = *self.origin.get_or_init(|| now);
        u32::try_from(now.saturating_duration_since(origin).as_secs()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, Box<[Slot]>> {
        // A panic between two writes leaves a count that is off by one at worst.
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn retries(budget: &RetryBudget, now: Instant, attempts: usize) -> usize {
        (0..attempts).filter(|_| budget.try_retry(now)).count()
    }

    #[test]
    fn an_idle_service_may_retry_ten_times_a_second() {
        let budget = RetryBudget::new(RetryPolicy::default());
        let start = Instant::now();
        for second in 0..30 {
            assert_eq!(retries(&budget, start + Duration::from_secs(second), 50), 10, "second {second}");
        }
    }

    #[test]
    fn a_busy_service_may_retry_a_fifth() {
        let budget = RetryBudget::new(RetryPolicy::default());
        let start = Instant::now();
        for _ in 0..1000 {
            budget.request(start);
        }
        assert_eq!(retries(&budget, start, 1000), 200);
        // Ten seconds later, both have slid out of the window: only the minimum is left.
        assert_eq!(retries(&budget, start + Duration::from_secs(10), 1000), 10);
    }

    #[test]
    fn a_long_pause_forgets_everything() {
        let budget = RetryBudget::new(RetryPolicy::default());
        let start = Instant::now();
        for _ in 0..1000 {
            budget.request(start);
        }
        assert_eq!(retries(&budget, start + Duration::from_secs(1_000_000), 1000), 10);
    }

    #[test]
    fn no_minimum_and_no_ratio_means_no_retries() {
        let policy = RetryPolicy { window: Duration::ZERO, ratio: 0.0, min_per_second: 0 };
        let budget = RetryBudget::new(policy);
        budget.request(Instant::now());
        assert!(!budget.try_retry(Instant::now()));
    }

    #[test]
    fn requests_of_all_threads_count() {
        let budget = RetryBudget::new(RetryPolicy { min_per_second: 0, ..RetryPolicy::default() });
        let now = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| budget.request(now)));
            }
        });
        assert_eq!(retries(&budget, now, 8000), 1600);
    }

    proptest! {
        /// Against a plain list of all that happened: a retry is allowed exactly if the second's minimum or the
        /// window's share has room for it.
        #[test]
        fn follows_the_rule(
            steps in prop::collection::vec((0u64..4000, 0usize..40, 0usize..40), 1..60),
            window in 1u64..12,
            min_per_second in 0u32..12,
        ) {
            let ratio = 0.25;
            let policy = RetryPolicy { window: Duration::from_secs(window), ratio, min_per_second };
            let budget = RetryBudget::new(policy);
            let start = Instant::now();
            budget.request(start);
            let (mut requests, mut retries, mut millis) = (vec![0], Vec::new(), 0);
            for (wait, sent, failed) in steps {
                millis += wait;
                let (now, second) = (start + Duration::from_millis(millis), millis / 1000);
                for _ in 0..sent {
                    budget.request(now);
                    requests.push(second);
                }
                for _ in 0..failed {
                    let within = |seconds: &[u64]| seconds.iter().filter(|past| **past + window > second).count();
                    let this_second = retries.iter().filter(|past| **past == second).count();
                    let allowed = this_second < min_per_second as usize
                        || (within(&retries) + 1) as f64 <= within(&requests) as f64 * ratio;
                    prop_assert_eq!(budget.try_retry(now), allowed);
                    if allowed {
                        retries.push(second);
                    }
                }
            }
        }
    }
}
