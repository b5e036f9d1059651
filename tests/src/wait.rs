//! Waiting for a state, with a deadline that only a broken system reaches.

use std::time::{Duration, Instant};

/// How long anything may take. Far more than it does on a busy machine: it decides how long a failure takes to show,
/// never whether a test passes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see.
///
/// # Panics
/// Nothing was to be seen within [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

/// Looks again and again until it is so.
///
/// # Panics
/// It was not so within [`PATIENCE`].
#[track_caller]
pub fn eventually_true(what: &str, mut look: impl FnMut() -> bool) {
    eventually(what, || look().then_some(()));
}
