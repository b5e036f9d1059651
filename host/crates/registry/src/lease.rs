//! How long a remote instance lives without a heartbeat. A pure state machine on an injected clock.
//!
//! A lease goes from *current* to *missed* when its TTL passes, and to *over* after several TTLs; every heartbeat makes
//! it current again. Instances in process have no lease.

use std::time::{Duration, Instant};

/// One remote instance's lease.
#[derive(Clone, Debug)]
pub struct Lease {
    ttl: Duration,
    life: Duration,
    renewed: Instant,
    /// Whether [`Lease::advance`] has already told of the missed TTL.
    missed: bool,
}

/// What became of a lease as time passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// The TTL passed without a heartbeat. Told once after each renewal.
    Missed,
    /// The whole life passed without a heartbeat: the instance is to be removed.
    Over,
}

impl Lease {
    /// A lease that is missed `ttl` after `now` and over `life` after `now` (`life` below `ttl` counts as `ttl`).
    pub fn new(ttl: Duration, life: Duration, now: Instant) -> Self {
        Self { ttl, life: life.max(ttl), renewed: now, missed: false }
    }

    /// A heartbeat came. One that is older than the newest (threads race) changes nothing but is a heartbeat still.
    pub fn renew(&mut self, now: Instant) {
        self.renewed = self.renewed.max(now);
        self.missed = false;
    }

    /// When [`Lease::advance`] will next have something to tell; `None` if that is beyond what the clock can express.
    pub fn due(&self) -> Option<Instant> {
        self.renewed.checked_add(if self.missed { self.life } else { self.ttl })
    }

    /// Lets time pass until `now`, and says what happened. `Over` is told again and again.
    pub fn advance(&mut self, now: Instant) -> Option<Lapse> {
        let age = now.saturating_duration_since(self.renewed);
        if age >= self.life {
            Some(Lapse::Over)
        } else if age >= self.ttl && !self.missed {
            self.missed = true;
            Some(Lapse::Missed)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);
    const LIFE: Duration = Duration::from_secs(150);

    #[test]
    fn is_missed_once_then_over() {
        let start = Instant::now();
        let mut lease = Lease::new(TTL, LIFE, start);
        assert_eq!(lease.advance(start + TTL - Duration::from_nanos(1)), None);
        assert_eq!(lease.due(), Some(start + TTL));
        assert_eq!(lease.advance(start + TTL), Some(Lapse::Missed));
        assert_eq!(lease.advance(start + TTL), None);
        assert_eq!(lease.due(), Some(start + LIFE));
        assert_eq!(lease.advance(start + LIFE), Some(Lapse::Over));
    }

    #[test]
    fn a_late_heartbeat_makes_it_current_again() {
        let start = Instant::now();
        let mut lease = Lease::new(TTL, LIFE, start);
        assert_eq!(lease.advance(start + 2 * TTL), Some(Lapse::Missed));
        lease.renew(start + 3 * TTL);
        assert_eq!(lease.due(), Some(start + 4 * TTL));
        assert_eq!(lease.advance(start + 4 * TTL), Some(Lapse::Missed));
    }

    #[test]
    fn an_endless_ttl_is_never_due() {
        let mut lease = Lease::new(Duration::MAX, Duration::MAX, Instant::now());
        assert_eq!(lease.due(), None);
        assert_eq!(lease.advance(Instant::now()), None);
    }

    proptest! {
        /// Whatever the order of heartbeats and looks: `Missed` once per renewal, `Over` exactly from its age on, and
        /// nothing before `due`.
        #[test]
        fn tells_exactly_what_its_age_says(steps in prop::collection::vec((0u64..60, any::<bool>()), 1..60)) {
            let start = Instant::now();
            let mut lease = Lease::new(TTL, LIFE, start);
            let (mut now, mut renewed, mut told) = (start, start, false);
            for (seconds, heartbeat) in steps {
                now += Duration::from_secs(seconds);
                let due = lease.due().expect("within the clock");
                if heartbeat {
                    lease.renew(now);
                    (renewed, told) = (now, false);
                    continue;
                }
                let lapse = lease.advance(now);
                let expected = match now - renewed {
                    age if age >= LIFE => Some(Lapse::Over),
                    age if age >= TTL && !told => Some(Lapse::Missed),
                    _ => None,
                };
                prop_assert_eq!(lapse, expected);
                prop_assert_eq!(lapse.is_some(), now >= due);
                told |= lapse.is_some();
            }
        }
    }
}
