//! A guest: one live instantiation of a component, and the task that drives it.
//!
//! Its task owns the store, takes calls from the pool's queue while it has room, and ends when the guest trapped, is
//! condemned, or served as many requests as it may. [`Guest`] is the handle by which callers and the pool see it.
//!
//! A guest is *condemned* when a caller gives up on it (the deadline passed, the client is gone) or it was idle for too
//! long: it takes no more calls, and is thrown away as soon as nobody waits for it. Callers keep the time, not the
//! guest, so a deadline holds whatever the guest does with its event loop. If a condemned guest doesn't let its event
//! loop run, others who wait for it would wait in vain: after [`STUCK_GRACE`] it is thrown away under them.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::AtomicWaker;
use http::HeaderValue;
use tokio::time::Sleep;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};

use crate::call::{Call, Failure};
use crate::pool::{Job, Pool};
use crate::state::GuestState;

/// How long a condemned guest may keep its event loop from running before those who wait for it lose it.
const STUCK_GRACE: Duration = Duration::from_millis(200);

/// The handle of a guest: what it serves now, and how to end it.
pub(crate) struct Guest {
    /// Wakes its task.
    task: AtomicWaker,
    /// No more calls are taken; ends as soon as nobody waits.
    condemned: AtomicBool,
    /// Its task wants to be woken when a call ends: it has no room, or ends with the last one.
    wants_room: AtomicBool,
    /// Whether it is in the pool's list of guests with room. Written under the pool's lock.
    pub(crate) parked: AtomicBool,
    serving: Mutex<Serving>,
}

struct Serving {
    /// The calls whose callers wait for an answer or for the rest of one.
    calls: Vec<Arc<Call>>,
    /// Since when there are none.
    idle_since: Instant,
    /// Whether the guest still has work of its own, though nobody waits.
    busy: bool,
}

impl Guest {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            task: AtomicWaker::new(),
            condemned: AtomicBool::new(false),
            wants_room: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            serving: Mutex::new(Serving { calls: Vec::new(), idle_since: Instant::now(), busy: false }),
        })
    }

    /// Makes its task look for work.
    pub(crate) fn wake(&self) {
        self.task.wake();
    }

    /// The caller has its whole answer.
    pub(crate) fn finish(&self, call: &Arc<Call>) {
        self.leave(call);
        if self.wants_room.load(Relaxed) {
            self.wake();
        }
    }

    /// The caller gives up: the guest is not to be used again.
    pub(crate) fn abandon(&self, call: &Arc<Call>) {
        self.leave(call);
        self.condemn();
    }

    fn leave(&self, call: &Arc<Call>) {
        let mut serving = self.serving();
        if let Some(index) = serving.calls.iter().position(|other| Arc::ptr_eq(other, call)) {
            serving.calls.swap_remove(index);
            if serving.calls.is_empty() {
                serving.idle_since = Instant::now();
            }
        }
    }

    /// Takes no more calls and ends as soon as nobody waits.
    pub(crate) fn condemn(&self) {
        self.condemned.store(true, Relaxed);
        self.wake();
    }

    /// Condemns the guest if nobody has waited for it for too long: `idle` if it has nothing to do, `busy` if it still
    /// works for nobody (after its last answer).
    pub(crate) fn condemn_if_unused(&self, now: Instant, idle: Duration, busy: Duration) {
        let serving = self.serving();
        let limit = if serving.busy { busy } else { idle };
        if serving.calls.is_empty() && now.saturating_duration_since(serving.idle_since) >= limit {
            drop(serving);
            self.condemn();
        }
    }

    /// How deep in a chain of components the guest is: the deepest of the requests it serves. Which of them an outgoing
    /// request belongs to is not known, so the deepest is assumed: a loop is never missed.
    pub(crate) fn depth(&self) -> u8 {
        self.serving().calls.iter().map(|call| call.depth).max().unwrap_or(0)
    }

    /// The ids of the requests it serves, for the log.
    pub(crate) fn request_ids(&self) -> String {
        let mut ids = String::new();
        for id in self.serving().calls.iter().filter_map(|call| call.request_id.as_ref()) {
            if !ids.is_empty() {
                ids.push(' ');
            }
            ids.push_str(id.to_str().unwrap_or_default());
        }
        ids
    }

    fn is_condemned(&self) -> bool {
        self.condemned.load(Relaxed)
    }

    fn waiting(&self) -> usize {
        self.serving().calls.len()
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a guest ended.
enum End {
    /// It served as many requests as it may, or was idle for too long.
    Retired,
    /// Its last caller gave up.
    Abandoned,
    /// It kept its event loop from running after a caller gave up.
    Stuck,
    /// It trapped, or the runtime failed under it.
    Failed(wasmtime::Error),
}

/// The life of a guest: starts it, lets it serve, and tells its pool and its callers when it is gone.
pub(crate) async fn live(guest: Arc<Guest>, pool: Arc<Pool>) {
    let (mut store, proxy) = match pool.template().instantiate(&guest).await {
        Ok(started) => started,
        Err(error) => return pool.start_failed(&guest, error),
    };
    let end = serve(&mut store, &proxy, &guest, &pool).await;
    let failure = match end {
        End::Retired | End::Abandoned => None,
        End::Stuck => {
            tracing::warn!(
                component = pool.template().component(),
                instance = pool.template().instance(),
                request_id = guest.request_ids(),
                "a guest was thrown away with requests on it: another one on it was given up and it didn't let go"
            );
            Some(Failure::Stuck)
        }
        End::Failed(error) => {
            let failure = if error.is::<wasmtime_wasi::I32Exit>() { Failure::Exit } else { Failure::Trap };
            tracing::error!(
                component = pool.template().component(),
                instance = pool.template().instance(),
                request_id = guest.request_ids(),
                reason = failure.reason(),
                "a guest failed: {error:?}"
            );
            Some(failure)
        }
    };
    if let Some(failure) = failure {
        for call in &guest.serving().calls {
            call.failed(failure);
        }
    }
    drop(store);
    pool.ended(&guest);
}

/// Lets the guest serve until it ends.
async fn serve(store: &mut Store<GuestState>, proxy: &Proxy, guest: &Arc<Guest>, pool: &Arc<Pool>) -> End {
    // Whether the guest let go of its event loop since it took its last call: only then does it take another one beside
    // it, so that a request that computes doesn't hold up others that could go to another guest.
    let yielded = AtomicBool::new(true);
    // Whether the event loop ran since this was last cleared.
    let running = AtomicBool::new(false);

    let mut event_loop =
        pin!(store.run_concurrent(async |accessor| take_calls(accessor, proxy, guest, pool, &yielded, &running).await));
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        guest.task.register(cx.waker());
        loop {
            if guest.is_condemned() && guest.waiting() == 0 {
                return Poll::Ready(End::Abandoned);
            }
            running.store(false, Relaxed);
            if let Poll::Ready(end) = event_loop.as_mut().poll(cx) {
                return Poll::Ready(match end.and_then(|taken| taken) {
                    Ok(()) => End::Retired,
                    Err(error) => End::Failed(error),
                });
            }
            if guest.is_condemned() && is_stuck(&running, &mut grace, cx) {
                return Poll::Ready(End::Stuck);
            }
            if yielded.swap(true, Relaxed) {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Whether a condemned guest has kept its event loop from running for the whole grace.
fn is_stuck(running: &AtomicBool, grace: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    if running.load(Relaxed) {
        *grace = None;
        return false;
    }
    let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK_GRACE)));
    grace.as_mut().poll(cx).is_ready()
}

/// Runs inside the guest's event loop: takes calls while there is room and drives them. Ends, with `Ok`, when the guest
/// may take no more and has nothing left to do.
async fn take_calls(
    accessor: &Accessor<GuestState>,
    proxy: &Proxy,
    guest: &Arc<Guest>,
    pool: &Arc<Pool>,
    yielded: &AtomicBool,
    running: &AtomicBool,
) -> wasmtime::Result<()> {
    let limits = pool.template().limits();
    let (entry, at_once) = match proxy {
        Proxy::P2(proxy) => (*proxy.wasi_http_incoming_handler().func_handle().func(), 1),
        Proxy::P3(proxy) => {
            (*proxy.wasi_http_handler().func_handle().func(), limits.max_instance_concurrent_reuse_count)
        }
    };
    let mut taken = 0;
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        running.store(true, Relaxed);
        loop {
            match calls.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let open = taken < limits.max_instance_reuse_count && !guest.is_condemned();
            let room = open
                && calls.len().max(guest.waiting()) < at_once
                && (calls.is_empty() || yielded.load(Relaxed))
                && accessor.poll_ready_for_concurrent_call(entry, cx).is_ready();
            if room && let Some(Job { request, reply, call, .. }) = pool.take(guest) {
                taken += 1;
                yielded.store(false, Relaxed);
                call.taken_by(guest);
                guest.serving().calls.push(call);
                let prepared = accessor.with(|mut store| {
                    Prepared::new(store.as_context_mut(), proxy, request, GuestState::http_view, reply)
                });
                calls.push(async move { prepared?.run(accessor, std::future::pending()).await });
                continue;
            }
            if !room {
                pool.unpark(guest);
            }
            guest.wants_room.store(!room, Relaxed);
            let busy = !calls.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending();
            let mut serving = guest.serving();
            serving.busy = busy;
            if !open && !busy && serving.calls.is_empty() {
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// The id of a request, if it has one.
pub(crate) fn request_id<B>(request: &http::Request<B>) -> Option<HeaderValue> {
    request.headers().get("x-request-id").cloned()
}
