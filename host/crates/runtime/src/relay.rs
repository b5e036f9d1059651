//! A relay: passes wake-ups from other threads on to a worker's tasks, many in one go.
//!
//! To wake a task of another thread's runtime costs a system call each time, and the task waits in a queue that the runtime
//! looks at only now and then while it has work of its own. The log's thread answers a whole commit at once; so what it
//! wakes gathers here, and one task of the worker wakes all of it from within. Those tasks run one right after the other,
//! and guests that wait for several of them hear of them together.
//!
//! Bounded by the guests of the worker: each waits here once at most, see [`Doorbell`](crate::doorbell::Doorbell).

use std::cell::Cell;
use std::future::poll_fn;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::task::AtomicWaker;

thread_local! {
    /// The relay of this thread, to be compared only.
    static HERE: Cell<*const Relay> = const { Cell::new(ptr::null()) };
}

/// Of one worker.
#[derive(Default)]
pub(crate) struct Relay {
    /// What other threads have woken since the worker last looked.
    woken: Mutex<Vec<Waker>>,
    /// Of the worker's task that passes them on.
    task: AtomicWaker,
}

impl Relay {
    /// Wakes a task of the worker, from any thread.
    pub(crate) fn wake(&self, waker: Waker) {
        if ptr::eq(HERE.get(), self) {
            return waker.wake();
        }
        let first = {
            let mut woken = self.woken();
            woken.push(waker);
            woken.len() == 1
        };
        if first {
            self.task.wake();
        }
    }

    /// This thread is the worker's.
    pub(crate) fn settle(&self) {
        HERE.set(self);
    }

    /// Passes on what other threads wake, on the worker's thread. Never ends.
    pub(crate) async fn run(&self) {
        self.settle();
        let mut batch = Vec::new();
        poll_fn(|cx| {
            self.task.register(cx.waker());
            std::mem::swap(&mut batch, &mut *self.woken());
            batch.drain(..).for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }

    fn woken(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Wake};
    use std::thread;

    use super::*;

    /// A waker that only counts.
    #[derive(Default)]
    pub(crate) struct Count(pub(crate) AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn wakes_of_other_threads_gather_and_its_own_thread_waits_for_nothing() {
        let (relay, passing, woken) = (Relay::default(), Arc::<Count>::default(), Arc::<Count>::default());
        let (passes, wakes) = (|| passing.0.load(Relaxed), || woken.0.load(Relaxed));
        let task = Waker::from(passing.clone());
        let mut run = pin!(relay.run());
        let mut pass_on = || assert!(run.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        let wake = || relay.wake(Waker::from(woken.clone()));
        let from_elsewhere = || thread::scope(|scope| scope.spawn(wake).join().expect("to wake doesn't panic"));

        from_elsewhere();
        assert_eq!(wakes(), 0, "it doesn't run yet");
        pass_on();
        assert_eq!((passes(), wakes()), (0, 1));
        wake();
        assert_eq!((passes(), wakes()), (0, 2));
        from_elsewhere();
        from_elsewhere();
        assert_eq!((passes(), wakes()), (1, 2));
        pass_on();
        assert_eq!((passes(), wakes()), (1, 4));
        from_elsewhere();
        assert_eq!((passes(), wakes()), (2, 4));
    }
}
