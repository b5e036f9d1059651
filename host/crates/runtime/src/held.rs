//! Held answers: a guest goes on while its write is under way, and what it says waits instead.
//!
//! `wasi:keyvalue` is synchronous. A guest that waits until the disk has a write is suspended with its stack and its memory, and
//! the next request needs another guest. With many writers that is one guest for each of them, and more than the caches hold.
//! But when the guest went on can't be told from outside, as long as nothing leaves it before the write is durable
//! ("external synchrony": Nightingale et al., Rethink the Sync, OSDI 2006). So a write that is in line
//! ([`Store::begin`](store::Store::begin)) is done for the guest, and these wait for it: the guest's answer, its next use
//! of the store, and the next request that it sends. If it fails, the answer is replaced by the problem that the write has met.
//!
//! That is only done for guests that serve one request at a time, so that it is known which answer is meant; and not for those
//! that have other ways out, to sockets or files, or through a request that they have sent before. Lines that a guest prints
//! wait for nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

/// A write that its guest takes for done.
pub(crate) type Write = Shared<BoxFuture<'static, Result<(), store::Error>>>;

/// A write that several can wait for.
pub(crate) fn shared(write: impl Future<Output = Result<(), store::Error>> + Send + 'static) -> Write {
    write.boxed().shared()
}

/// What the answer to one call waits for.
#[derive(Default)]
pub(crate) struct Held(Mutex<State>);

#[derive(Default)]
struct State {
    write: Option<Write>,
    /// The answer has left, or is about to.
    left: bool,
}

impl Held {
    /// Has the answer wait for the write in the guest's place. False if that is too late. The one before, if there was one,
    /// is done.
    pub(crate) fn hold(&self, write: &Write) -> bool {
        let mut state = self.state();
        if !state.left {
            state.write = Some(write.clone());
        }
        !state.left
    }

    /// The write that the guest takes for done, if there is one.
    pub(crate) fn write(&self) -> Option<Write> {
        self.state().write.clone()
    }

    /// The same, before the answer leaves. From here on the guest waits for its writes itself.
    pub(crate) fn leave(&self) -> Option<Write> {
        let mut state = self.state();
        state.left = true;
        state.write.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the guests of a revision may go on.
pub(crate) struct Policy {
    /// They have no other way out than their answers and the requests that they send.
    possible: bool,
    /// A write has failed that its guest took for done. Until one has succeeded that was waited for, guests hear of theirs.
    wary: AtomicBool,
}

impl Policy {
    pub(crate) fn new(possible: bool) -> Self {
        Self { possible, wary: AtomicBool::new(false) }
    }

    pub(crate) fn allows(&self) -> bool {
        self.possible && !self.wary.load(Relaxed)
    }

    /// A write has failed, and its guest didn't hear of it.
    pub(crate) fn failed(&self) {
        self.wary.store(true, Relaxed);
    }

    /// A guest has waited for a write, which succeeded.
    pub(crate) fn succeeded(&self) {
        self.wary.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[test]
    fn an_answer_waits_for_what_was_held_before_it_left() {
        let held = Held::default();
        assert!(held.write().is_none());
        assert!(held.hold(&shared(ready(Ok(())))));
        assert!(held.hold(&shared(ready(Err(store::Error::DiskFull)))));
        let write = held.leave().expect("it was held");
        assert_eq!(write.now_or_never(), Some(Err(store::Error::DiskFull)), "the last one");
        assert!(!held.hold(&shared(ready(Ok(())))), "the answer may be anywhere by now");
        assert_eq!(held.write().and_then(FutureExt::now_or_never), Some(Err(store::Error::DiskFull)));
    }

    #[test]
    fn after_a_failure_guests_hear_of_their_writes_until_one_succeeds() {
        let policy = Policy::new(true);
        assert!(policy.allows());
        policy.failed();
        assert!(!policy.allows());
        policy.succeeded();
        assert!(policy.allows());
        assert!(!Policy::new(false).allows());
    }
}
