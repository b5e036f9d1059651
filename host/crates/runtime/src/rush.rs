//! A rush: a worker with many requests doesn't interrupt those who send them.
//!
//! When a request comes for a worker that sleeps, Linux wakes it, and lets it interrupt whoever runs on that processor. If that
//! is who sends requests (another service, a proxy, a load generator), it is interrupted in the middle of its own work for one
//! request, and so on for each. So while a worker has many, it doesn't interrupt others: they get done what they are at, and it
//! finds many requests at once. With few requests each is served at once, as ever.
//!
//! Known and decided on the worker's own thread; a system call each time it changes.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::priority;

/// How long requests are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// A rush begins with more requests than one for each of these (5,000 a second) ...
const BEGINS: Duration = Duration::from_micros(200);
/// ... and ends with less than one for each of these (2,500 a second).
const ENDS: Duration = Duration::from_micros(400);

thread_local! {
    static RUSH: Cell<Option<Rush>> = const { Cell::new(None) };
}

/// Counts a request that this thread sends to an instance: one through the gateway to a storage is two.
pub(crate) fn request(now: Instant) {
    let mut rush = RUSH.get().unwrap_or(Rush { since: now, requests: 0, on: false });
    if let Some(on) = rush.request(now) {
        priority::interrupt_others(!on);
    }
    RUSH.set(Some(rush));
}

#[derive(Clone, Copy)]
struct Rush {
    /// When counting began, and how many requests there have been since.
    since: Instant,
    requests: u32,
    on: bool,
}

impl Rush {
    /// Counts a request. Says whether there is a rush, if that has just changed.
    fn request(&mut self, now: Instant) -> Option<bool> {
        self.requests = self.requests.saturating_add(1);
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return None;
        }
        let on = passed <= self.requests * if self.on { ENDS } else { BEGINS };
        let changed = on != self.on;
        *self = Self { since: now, requests: 0, on };
        changed.then_some(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests at a steady pace for a second: whether a rush began or ended.
    fn steadily(rush: &mut Rush, pace: Duration) -> Option<bool> {
        let begun = rush.since;
        let times = 1..=u32::try_from(Duration::from_secs(1).as_micros() / pace.as_micros()).expect("not so many");
        times.filter_map(|nth| rush.request(begun + nth * pace)).last()
    }

    #[test]
    fn a_rush_begins_with_many_requests_and_ends_with_few() {
        let mut rush = Rush { since: Instant::now(), requests: 0, on: false };
        assert_eq!(steadily(&mut rush, Duration::from_micros(250)), None);
        assert_eq!(steadily(&mut rush, Duration::from_micros(150)), Some(true));
        assert_eq!(steadily(&mut rush, Duration::from_micros(350)), None);
        assert_eq!(steadily(&mut rush, Duration::from_micros(500)), Some(false));
    }

    #[test]
    fn the_first_request_after_a_silence_ends_it() {
        let mut rush = Rush { since: Instant::now(), requests: 0, on: false };
        assert_eq!(steadily(&mut rush, Duration::from_micros(150)), Some(true));
        assert_eq!(rush.request(rush.since + Duration::from_secs(10)), Some(false));
    }
}
