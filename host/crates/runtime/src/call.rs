//! A call: one request on its way through a pool, from the queue to the last byte of its answer.
//!
//! It is known to its caller, who may give up at any time, and to the guest that serves it, which may fail at any time.
//! Both sides see the same [`Call`]; it lives as long as the longer of the two.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Instant;

use futures::task::AtomicWaker;
use http::HeaderValue;
use trace::TraceContext;

use crate::guest::Guest;
use crate::held::Held;

/// What both sides of a call know of it.
pub(crate) struct Call {
    begun: Instant,
    /// Whether its caller has the head of its answer.
    answered: AtomicBool,
    /// The request's `x-request-id`.
    request_id: Option<HeaderValue>,
    /// How many components the request has passed through to come here.
    pub(crate) depth: u8,
    /// Its own step of a trace, if it belongs to one: the parent of whatever its guest does for it.
    pub(crate) trace: Option<TraceContext>,
    /// The guest that took it; unset while it waits in the queue.
    guest: OnceLock<Arc<Guest>>,
    /// When that was, if its trace is recorded.
    taken: OnceLock<Instant>,
    failure: OnceLock<Failure>,
    /// What its answer waits for.
    pub(crate) held: Held,
    /// Who waits for more of the answer's body.
    reader: AtomicWaker,
}

/// Why a guest could not answer. The text is for the client; the log has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It could not be started: it trapped or ran out of time before it took a request.
    Start,
    /// It trapped: an instruction that can't be executed, memory it hasn't got, an abort.
    Trap,
    /// It ended itself.
    Exit,
    /// It was thrown away because of another request that it never let go of.
    Stuck,
    /// Its revision was replaced, and the request was not done when its drain timeout had passed.
    Replaced,
    /// It answered with an error instead of a response.
    Error,
}

impl Failure {
    /// The reason as a word, for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::Stuck => "stuck",
            Self::Replaced => "replaced",
            Self::Error => "error",
        }
    }
}

impl Call {
    pub(crate) fn new(
        begun: Instant,
        request_id: Option<HeaderValue>,
        depth: u8,
        trace: Option<TraceContext>,
    ) -> Arc<Self> {
        let (answered, guest, taken, failure, held, reader) = Default::default();
        Arc::new(Self { begun, answered, request_id, depth, trace, guest, taken, failure, held, reader })
    }

    /// Its caller has the head of its answer.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Whether it began before `time` and has no answer yet.
    pub(crate) fn is_owed_since_before(&self, time: Instant) -> bool {
        self.begun < time && !self.answered.load(Relaxed)
    }

    /// The request's id, for the log.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// Its trace, for the log.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.trace.map(|context| context.trace.to_string())
    }

    /// The guest that took the call, if one has.
    pub(crate) fn guest(&self) -> Option<&Arc<Guest>> {
        self.guest.get()
    }

    /// When a guest took it, if one has and its trace is recorded.
    pub(crate) fn taken(&self) -> Option<Instant> {
        self.taken.get().copied()
    }

    /// Why its guest failed, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.get().copied()
    }

    /// Called by the guest that takes it, once.
    pub(crate) fn taken_by(&self, guest: &Arc<Guest>) {
        if self.trace.is_some_and(|trace| trace.sampled) {
            let _ = self.taken.set(Instant::now());
        }
        let first = self.guest.set(guest.clone());
        debug_assert!(first.is_ok(), "a call leaves the queue once");
    }

    /// Its caller waits for more of the answer's body, and is to be woken should the guest fail.
    pub(crate) fn waits_for_more(&self, reader: &Waker) {
        self.reader.register(reader);
    }

    /// Called by a guest that fails while it serves it. The first reason stays.
    pub(crate) fn failed(&self, failure: Failure) {
        let _ = self.failure.set(failure);
        self.reader.wake();
    }
}
