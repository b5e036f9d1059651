//! What threads that work in the background get of the processors beside the workers.

use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

/// The nice value of [`Priority::Low`].
const NICE: i32 = 19;

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
        let taken = match self {
            Self::Idle => {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                let thread = thread_priority::thread_native_id();
                thread_priority::set_thread_priority_and_policy(thread, ThreadPriority::Min, policy)
                    .map_err(|error| format!("{error:?}"))
            }
            Self::Low => rustix::process::nice(NICE).map(drop).map_err(|error| error.to_string()),
        };
        if let Err(error) = taken {
            tracing::warn!("{purpose} has the priority of requests: {error}");
        }
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
        // 5 is SCHED_IDLE, 0 is SCHED_OTHER.
        assert_eq!(nice_and_policy(Priority::Idle), (own, 5));
        assert_eq!(nice_and_policy(Priority::Low), (19, 0));
    }
}
