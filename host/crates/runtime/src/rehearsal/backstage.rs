//! Backstage: the thread that rehearsed guests run on, and what it is given of a processor.
//!
//! One for all rehearsals; it lives as long as the process. It has a low priority: a rehearsal takes little more than the time
//! that the workers leave. So what a run takes is counted without the time in which the thread only waited for a processor.
//! Nor does it hold that of other runs: there is one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::priority::Priority;

/// The thread, and whose turn it is there. Clones are the same.
#[derive(Clone)]
pub(crate) struct Backstage {
    thread: Handle,
    turn: Arc<Semaphore>,
}

impl Backstage {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = runtime.handle().clone();
        std::thread::Builder::new().name("rehearsal".into()).spawn(move || {
            Priority::Low.take("rehearsal");
            runtime.block_on(std::future::pending::<()>());
        })?;
        Ok(Self { thread, turn: Arc::new(Semaphore::new(1)) })
    }

    pub(super) fn thread(&self) -> &Handle {
        &self.thread
    }

    /// Waits until no other run is on the thread, but not longer than until then. The turn ends when it is dropped.
    pub(super) async fn turn(&self, end: Instant) -> Option<OwnedSemaphorePermit> {
        let turn = timeout_at(end.into(), self.turn.clone().acquire_owned()).await.ok()?;
        Some(turn.expect("it is never closed"))
    }
}

/// Measures a run on this thread.
pub(super) struct Stopwatch {
    begun: Instant,
    /// How long the thread had waited for a processor by then.
    waited: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { begun: Instant::now(), waited: waited() }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// The time since the start, but for that in which the thread could have run and was not let.
    pub(super) fn took(&self) -> Duration {
        self.begun.elapsed().saturating_sub(waited().saturating_sub(self.waited))
    }
}

/// How long this thread has waited for a processor in its life. Zero where the system doesn't tell.
fn waited() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    parse(&schedstat).unwrap_or_default()
}

/// Nanoseconds on a processor, nanoseconds waiting for one, and how often.
fn parse(schedstat: &str) -> Option<Duration> {
    let waited = schedstat.split_ascii_whitespace().nth(1)?;
    waited.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_only_waited_for_is_read() {
        assert_eq!(parse("741163 6026609 2\n"), Some(Duration::from_nanos(6_026_609)));
        assert_eq!((parse(""), parse("1"), parse("1 x 2")), (None, None, None));
    }

    #[tokio::test]
    async fn one_run_at_a_time() {
        let backstage = Backstage { thread: Handle::current(), turn: Arc::new(Semaphore::new(1)) };
        let later = Instant::now() + Duration::from_secs(600);
        let first = backstage.turn(later).await;
        assert!(first.is_some());
        assert!(backstage.turn(Instant::now()).await.is_none(), "it ends before its turn");
        drop(first);
        assert!(backstage.turn(later).await.is_some());
    }

    #[test]
    fn a_run_takes_no_longer_than_it_lasts() {
        let stopwatch = Stopwatch::start();
        let took = stopwatch.took();
        assert!(took <= stopwatch.begun().elapsed());
    }
}
