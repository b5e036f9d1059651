//! What threads get of the processors: those that work in the background, and workers with many requests.

use std::io;

/// The nice value of [`Priority::Low`].
const NICE: i32 = 19;

/// A scheduling class, as Linux numbers them.
#[derive(Clone, Copy)]
enum Class {
    /// What threads begin with: one that wakes up may interrupt another.
    Other = 0,
    /// One that wakes up lets the other go on, for some milliseconds at most.
    Batch = 3,
    /// One that makes way for all others.
    Idle = 5,
}

/// How a thread's work stands behind that of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The thread runs where nobody else wants to, and makes way at once (`SCHED_IDLE`). On a machine that has no time to
    /// spare it stands still.
    Idle,
    /// The thread gets a small share of any processor (nice 19), for which others may wait some milliseconds.
    Low,
}

impl Priority {
    /// Gives it to the thread that calls, which can't get a higher one again. If the system refuses, the thread keeps what it
    /// has, and a warning says what that is for.
    pub(crate) fn take(self, purpose: &str) {
        let low = || rustix::process::nice(NICE).map(drop).map_err(io::Error::from);
        let taken = match self {
            Self::Idle => enter(Class::Idle).or_else(|_| low()),
            Self::Low => low(),
        };
        if let Err(error) = taken {
            tracing::warn!("{purpose} has the priority of requests: {error}");
        }
    }
}

/// Lets the thread that calls interrupt others when it wakes up, as threads do, or not. Where the system refuses, nothing changes.
pub(crate) fn interrupt_others(may: bool) {
    let _ = enter(if may { Class::Other } else { Class::Batch });
}

/// Puts the thread that calls into a class.
#[allow(
    unsafe_code,
    reason = "neither the standard library nor rustix has it, and crates that do bring dozens of others"
)]
fn enter(class: Class) -> io::Result<()> {
    unsafe extern "C" {
        /// As sched_setscheduler(2): the thread (0 for the one that calls), its class, and a priority, which is all that
        /// Linux has in `struct sched_param`. 0, or -1 and `errno`.
        fn sched_setscheduler(thread: i32, class: i32, priority: *const i32) -> i32;
    }
    // The only one that these classes have.
    let priority = 0;
    // SAFETY: it only reads the number behind the pointer, which lives until it returns.
    match unsafe { sched_setscheduler(0, class as i32, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of `/proc/thread-self/stat` from the fourth on.
    fn stat() -> Vec<i64> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect()
    }

    fn nice_and_policy(change: impl FnOnce() + Send + 'static) -> (i64, i64) {
        let thread = std::thread::spawn(move || {
            change();
            // Fields 19 and 41 of proc_pid_stat(5); the first here is the fourth.
            let fields = stat();
            (fields[19 - 4], fields[41 - 4])
        });
        thread.join().unwrap()
    }

    #[test]
    fn threads_get_what_they_take() {
        let own = stat()[19 - 4];
        let after_taking = |priority: Priority| nice_and_policy(move || priority.take("a test"));
        assert_eq!(after_taking(Priority::Idle), (own, Class::Idle as i64));
        assert_eq!(after_taking(Priority::Low), (19, Class::Other as i64));
    }

    #[test]
    fn a_thread_that_lets_others_go_on_can_take_that_back() {
        let own = stat()[19 - 4];
        assert_eq!(nice_and_policy(|| interrupt_others(false)), (own, Class::Batch as i64));
        let both = || {
            interrupt_others(false);
            interrupt_others(true);
        };
        assert_eq!(nice_and_policy(both), (own, Class::Other as i64));
    }
}
