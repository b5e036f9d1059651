//! What threads that work in the background get of the processors beside the workers.

use std::io;

/// The nice value of [`Priority::Low`].
const NICE: i32 = 19;

/// The scheduling class of [`Priority::Idle`], as Linux numbers it.
const SCHED_IDLE: i32 = 5;

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
            Self::Idle => become_idle().or_else(|_| low()),
            Self::Low => low(),
        };
        if let Err(error) = taken {
            tracing::warn!("{purpose} has the priority of requests: {error}");
        }
    }
}

/// Puts the thread that calls into the class [`SCHED_IDLE`].
#[allow(
    unsafe_code,
    reason = "neither the standard library nor rustix has it, and crates that do bring dozens of others"
)]
fn become_idle() -> io::Result<()> {
    unsafe extern "C" {
        /// As sched_setscheduler(2): the thread (0 for the one that calls), its class, and a priority, which is all that
        /// Linux has in `struct sched_param`. 0, or -1 and `errno`.
        fn sched_setscheduler(thread: i32, class: i32, priority: *const i32) -> i32;
    }
    // The only one that the class has.
    let priority = 0;
    // SAFETY: it only reads the number behind the pointer, which lives until it returns.
    match unsafe { sched_setscheduler(0, SCHED_IDLE, &raw const priority) } {
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

    fn nice_and_policy(priority: Priority) -> (i64, i64) {
        let thread = std::thread::spawn(move || {
            priority.take("a test");
            // Fields 19 and 41 of proc_pid_stat(5); the first here is the fourth.
            let fields = stat();
            (fields[19 - 4], fields[41 - 4])
        });
        thread.join().unwrap()
    }

    #[test]
    fn threads_get_what_they_take() {
        let own = stat()[19 - 4];
        assert_eq!(nice_and_policy(Priority::Idle), (own, i64::from(SCHED_IDLE)));
        assert_eq!(nice_and_policy(Priority::Low), (19, 0));
    }
}
