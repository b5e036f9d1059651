//! When failures make an instance unavailable, and what brings it back. A pure state machine, without a clock.
//!
//! Two rows of failures are counted apart: those of health checks here, those of requests in the
//! [`Member`](crate::Member), where the data plane counts them without a lock. Were they one row, a busy instance whose
//! checks fail would be kept available by its requests, and an idle one whose requests fail by its checks.

/// How many outcomes in a row change an instance's state. Zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Failures in a row (checks, or requests) after which an instance is unavailable.
    pub unhealthy_after: u32,
    /// Passed checks in a row after which it is available again.
    pub healthy_after: u32,
}

/// Three failures, two passes.
impl Default for HealthPolicy {
    fn default() -> Self {
        Self { unhealthy_after: 3, healthy_after: 2 }
    }
}

/// One instance's health. It starts healthy.
#[derive(Clone, Debug)]
pub struct Health {
    policy: HealthPolicy,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Healthy { failed_checks: u32 },
    Unhealthy { passed_checks: u32 },
}

impl Health {
    /// Healthy until proven otherwise.
    pub fn new(policy: HealthPolicy) -> Self {
        Self { policy, state: State::Healthy { failed_checks: 0 } }
    }

    /// Whether the instance should get requests.
    pub fn is_healthy(&self) -> bool {
        matches!(self.state, State::Healthy { .. })
    }

    /// A health check passed or failed.
    pub fn check(&mut self, passed: bool) {
        self.state = match (self.state, passed) {
            (State::Healthy { .. }, true) => State::Healthy { failed_checks: 0 },
            (State::Healthy { failed_checks }, false) if failed_checks + 1 >= self.policy.unhealthy_after => {
                State::Unhealthy { passed_checks: 0 }
            }
            (State::Healthy { failed_checks }, false) => State::Healthy { failed_checks: failed_checks + 1 },
            (State::Unhealthy { passed_checks }, true) if passed_checks + 1 >= self.policy.healthy_after => {
                State::Healthy { failed_checks: 0 }
            }
            (State::Unhealthy { passed_checks }, true) => State::Unhealthy { passed_checks: passed_checks + 1 },
            (State::Unhealthy { .. }, false) => State::Unhealthy { passed_checks: 0 },
        };
    }

    /// Something other than a check says that it is down: requests failed in a row, or the lease was missed. An
    /// instance that was down already keeps the passes it has.
    pub fn fail(&mut self) {
        if self.is_healthy() {
            self.state = State::Unhealthy { passed_checks: 0 };
        }
    }

    /// It gave a sign of life itself (a registration, a heartbeat): healthy at once.
    pub fn revive(&mut self) {
        self.state = State::Healthy { failed_checks: 0 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_counts_as_one() {
        let mut health = Health::new(HealthPolicy { unhealthy_after: 0, healthy_after: 0 });
        assert!(health.is_healthy());
        health.check(false);
        assert!(!health.is_healthy());
        health.check(true);
        assert!(health.is_healthy());
    }

    proptest! {
        /// The state follows from the history: it flips exactly when the last `n` checks since the last flip agree.
        #[test]
        fn flips_after_enough_in_a_row(
            unhealthy_after in 1u32..5,
            healthy_after in 1u32..5,
            events in prop::collection::vec(0u8..8, 0..200),
        ) {
            let mut health = Health::new(HealthPolicy { unhealthy_after, healthy_after });
            let (mut healthy, mut row) = (true, 0);
            for event in events {
                match event {
                    0 => {
                        health.revive();
                        (healthy, row) = (true, 0);
                    }
                    1 => {
                        health.fail();
                        if healthy {
                            (healthy, row) = (false, 0);
                        }
                    }
                    event => {
                        let passed = event % 2 == 0;
                        health.check(passed);
                        row = if passed == healthy { 0 } else { row + 1 };
                        if row == if healthy { unhealthy_after } else { healthy_after } {
                            (healthy, row) = (!healthy, 0);
                        }
                    }
                }
                prop_assert_eq!(health.is_healthy(), healthy);
            }
        }
    }
}
