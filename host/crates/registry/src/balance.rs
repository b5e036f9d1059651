//! Exact round robin: over any number of threads, `n` picks from `k` members give each of them `n / k`.
//!
//! A counter, nothing more; it lives as long as its namespace, through all changes of its members. It never learns who
//! they are, so that the component `registry-static` can use it for a fixed list as well.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicU64,
    /// Retries take turns of their own: they spread over the members that are left, and don't disturb the order of first
    /// attempts.
    retry_turn: AtomicU64,
}

impl RoundRobin {
    /// Starts with the first member.
    pub const fn new() -> Self {
        Self { turn: AtomicU64::new(0), retry_turn: AtomicU64::new(0) }
    }

    /// The index, below `members`, of the next one; `None` if there are none.
    pub fn pick(&self, members: usize) -> Option<usize> {
        next(&self.turn, members)
    }

    /// The index, below `members`, of the next one that was not tried yet; `None` if all were.
    pub fn pick_untried(&self, members: usize, tried: impl Fn(usize) -> bool) -> Option<usize> {
        let untried = || (0..members).filter(|index| !tried(*index));
        // Two passes instead of "the first untried one from here on", which would send all the retries of a dead member
        // to its neighbour.
        untried().nth(next(&self.retry_turn, untried().count())?)
    }
}

fn next(turn: &AtomicU64, members: usize) -> Option<usize> {
    if members == 0 {
        return None;
    }
    // Relaxed: nothing is published through the counter, only its own order counts.
    let turn = turn.fetch_add(1, Ordering::Relaxed) % members as u64;
    Some(usize::try_from(turn).expect("below `members`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_is_picked_from_nobody() {
        let turns = RoundRobin::new();
        assert_eq!(turns.pick(0), None);
        assert_eq!(turns.pick_untried(0, |_| false), None);
        assert_eq!(turns.pick_untried(3, |_| true), None);
    }

    #[test]
    fn retries_do_not_disturb_first_attempts() {
        let turns = RoundRobin::new();
        let picks: Vec<_> = (0..9)
            .map(|_| {
                turns.pick_untried(3, |index| index == 0);
                turns.pick(3).expect("three members")
            })
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn is_exact_over_a_stable_set(before in 0usize..50, members in 1usize..40, rounds in 1usize..20) {
            let turns = RoundRobin::new();
            for _ in 0..before {
                turns.pick(7);
            }
            let mut counts = vec![0; members];
            for _ in 0..rounds * members {
                counts[turns.pick(members).expect("not empty")] += 1;
            }
            prop_assert_eq!(counts, vec![rounds; members]);
        }

        #[test]
        fn retries_are_exact_over_what_is_left(tried in prop::collection::vec(any::<bool>(), 1..20)) {
            let left = tried.iter().filter(|tried| !**tried).count();
            let turns = RoundRobin::new();
            let mut counts = vec![0; tried.len()];
            for _ in 0..left * 10 {
                counts[turns.pick_untried(tried.len(), |index| tried[index]).expect("one is left")] += 1;
            }
            for (count, tried) in counts.into_iter().zip(tried) {
                prop_assert_eq!(count, if tried { 0 } else { 10 });
            }
        }
    }
}
