//! A doorbell: wakes a guest's task, and tells it whether anything happened since it last looked.
//!
//! Wasmtime polls what runs inside a guest's event loop once for each piece of the guest's work, and each future in there
//! that completes wakes the whole task. With the doorbell as the task's waker, what has nothing new to look at returns at
//! once, and a ring that was answered while the task ran doesn't make it run again.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::task::Waker;

use futures::task::AtomicWaker;

use crate::relay::Relay;

/// It rang, and nobody has answered.
const RUNG: u8 = 1;
/// The task runs, so it need not be woken: it answers, or asks at the end whether it rang.
const RUNNING: u8 = 2;

/// Of one task. Anybody may ring; everything else is the task's.
pub(crate) struct Doorbell {
    state: AtomicU8,
    task: AtomicWaker,
    /// Of the worker that the task runs on.
    relay: Arc<Relay>,
}

impl Doorbell {
    /// For a task of that worker.
    pub(crate) fn new(relay: Arc<Relay>) -> Self {
        Self { state: AtomicU8::new(0), task: AtomicWaker::new(), relay }
    }

    /// Something happened: makes the task look.
    pub(crate) fn ring(&self) {
        if self.state.fetch_or(RUNG, AcqRel) == 0
            && let Some(task) = self.task.take()
        {
            self.relay.wake(task);
        }
    }

    /// Something happened, and whoever knows it runs the task next: makes it look then.
    pub(crate) fn note(&self) {
        self.state.fetch_or(RUNG, AcqRel);
    }

    /// The task begins to run. Says whether it rang before.
    pub(crate) fn enter(&self, waker: &Waker) -> bool {
        self.task.register(waker);
        self.state.swap(RUNNING, AcqRel) & RUNG != 0
    }

    /// Says whether it rang since the task entered, or last answered.
    pub(crate) fn answer(&self) -> bool {
        self.state.load(Acquire) & RUNG != 0 && self.state.fetch_and(!RUNG, AcqRel) & RUNG != 0
    }

    /// The task stops running; from here on a ring wakes it. Says whether it rang without being answered: then nobody
    /// else wakes the task.
    pub(crate) fn leave(&self) -> bool {
        self.state.swap(0, AcqRel) & RUNG != 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::relay::tests::Count;

    /// A doorbell of a task on this thread.
    fn bell() -> Doorbell {
        let relay = Arc::<Relay>::default();
        relay.settle();
        Doorbell::new(relay)
    }

    #[test]
    fn wakes_a_task_that_does_not_run() {
        let (bell, count) = (bell(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        assert!(!bell.enter(&waker));
        assert!(!bell.leave());
        bell.ring();
        bell.ring();
        assert_eq!(count.0.load(Relaxed), 1, "it is on its way");
        assert!(bell.enter(&waker));
        assert!(!bell.answer(), "it was told on entering");
    }

    #[test]
    fn lets_whoever_runs_the_task_tell_it() {
        let (bell, count) = (bell(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        bell.enter(&waker);
        bell.leave();
        bell.note();
        assert!(bell.enter(&waker));
        assert_eq!(count.0.load(Relaxed), 0);
    }

    #[test]
    fn lets_a_running_task_answer() {
        let (bell, count) = (bell(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        bell.enter(&waker);
        bell.ring();
        assert!(bell.answer());
        assert!(!bell.answer());
        assert!(!bell.leave());
        bell.enter(&waker);
        bell.ring();
        assert!(bell.leave(), "nobody answered");
        assert_eq!(count.0.load(Relaxed), 0);
    }
}
