//! A guest: one live instantiation of a component, and the task that drives it.
//!
//! Its task owns the store, takes calls from the pool's queue while it has room, and ends when the guest trapped, is
//! condemned, or served as many requests as it may. [`Guest`] is the handle by which callers and the pool see it.
//!
//! A caller on the guest's own worker need not wait until the task is scheduled: it can run the task itself
//! ([`Guest::run`]). What the guest can answer without waiting for anything is answered then and there. That pays above all
//! if the caller is a guest: wasmtime hands it an answer that is there at once without suspending it.
//!
//! A guest is *condemned* when a caller gives up on it (the deadline passed, the client is gone) or it was idle for too
//! long: it takes no more calls, and is thrown away as soon as nobody waits for it. Callers keep the time, not the
//! guest, so a deadline holds whatever the guest does with its event loop. If a condemned guest doesn't let its event
//! loop run, others who wait for it would wait in vain: after [`STUCK_GRACE`] it is thrown away under them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use http::HeaderValue;
use tokio::time::Sleep;
use trace::TraceContext;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};

use crate::call::{Call, Failure};
use crate::counters::Fault;
use crate::doorbell::Doorbell;
use crate::held;
use crate::pool::{Job, Next, Pool};
use crate::state::GuestState;

/// How long a condemned guest may keep its event loop from running before those who wait for it lose it.
const STUCK_GRACE: Duration = Duration::from_millis(200);

/// How long a guest's turn may take for its event loop to go on at once if it was woken while it ran.
const TURN: Duration = Duration::from_millis(1);

/// The handle of a guest: what it serves now, and how to end it.
pub(crate) struct Guest {
    /// Of its task.
    bell: Doorbell,
    /// No more calls are taken; ends as soon as nobody waits.
    condemned: AtomicBool,
    /// Ends at once, whoever waits.
    cut: AtomicBool,
    /// It has ended before its work was done.
    broke_off: AtomicBool,
    /// It has sent a request, and may still write to it.
    has_sent: AtomicBool,
    /// Whether it is in the pool's list of guests with room. Written under the pool's lock.
    pub(crate) parked: AtomicBool,
    /// Whether it was taken off that list for a request and has not come for one since. Written under the pool's lock.
    pub(crate) summoned: AtomicBool,
    serving: Mutex<Serving>,
    /// What its task does; none before and after. Locked while it runs.
    life: Mutex<Option<Life>>,
}

/// The future that a guest's task runs, and how to wake the task.
struct Life {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    waker: Waker,
}

struct Serving {
    /// The calls whose callers wait for an answer or for the rest of one.
    calls: Vec<Arc<Call>>,
    /// Since when there are none.
    idle_since: Instant,
    /// Whether the guest still has work of its own, though nobody waits.
    busy: bool,
    /// What is to be done when a caller has its whole answer.
    then: Then,
}

/// What a caller who has its whole answer does for the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing: it has room already, or its task runs and will see.
    Nothing,
    /// This was all it lacked to have room.
    Park,
    /// Its task is to look whether this was the last.
    Wake,
}

/// As the waker of its own task.
impl Wake for Guest {
    fn wake(self: Arc<Self>) {
        self.bell.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring();
    }
}

impl Guest {
    /// Starts a guest of a pool, on the pool's worker. `report` is told how it started, instead of a request that waits
    /// for it.
    pub(crate) fn start(pool: &Arc<Pool>, report: Option<oneshot::Sender<wasmtime::Result<()>>>) -> Arc<Self> {
        let guest = Self::new(pool);
        let future = Box::pin(live(guest.clone(), pool.clone(), report));
        *guest.life() = Some(Life { future, waker: Waker::noop().clone() });
        let own = guest.clone();
        pool.spawn(poll_fn(move |cx| own.proceed(cx.waker())));
        guest
    }

    fn new(pool: &Pool) -> Arc<Self> {
        let serving = Serving { calls: Vec::new(), idle_since: Instant::now(), busy: false, then: Then::Nothing };
        Arc::new(Self {
            bell: Doorbell::new(pool.template().worker.relay().clone()),
            condemned: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            broke_off: AtomicBool::new(false),
            has_sent: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            summoned: AtomicBool::new(false),
            serving: Mutex::new(serving),
            life: Mutex::new(None),
        })
    }

    /// Makes its task look for work.
    pub(crate) fn look(&self) {
        self.bell.ring();
    }

    /// The same, but the caller runs the task itself, on the guest's worker. Returns when the guest waits for something.
    pub(crate) fn run(&self) {
        // If it runs already, further down this stack, it looks when it comes to rest.
        let Ok(mut life) = self.life.try_lock() else { return self.look() };
        let Some(Life { future, waker }) = &mut *life else { return };
        self.bell.note();
        if future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref();
            *life = None;
        }
    }

    /// Runs its task, when that was woken.
    fn proceed(&self, task: &Waker) -> Poll<()> {
        let mut life = self.life();
        let Some(Life { future, waker }) = &mut *life else { return Poll::Ready(()) };
        waker.clone_from(task);
        let polled = future.as_mut().poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            *life = None;
        }
        polled
    }

    /// The caller has its whole answer.
    pub(crate) fn finish(self: &Arc<Self>, call: &Arc<Call>, pool: &Pool) {
        match self.leave(call) {
            Then::Nothing => {}
            Then::Park => pool.park_or_wake(self),
            Then::Wake => self.look(),
        }
    }

    /// The caller gives up: the guest is not to be used again.
    pub(crate) fn abandon(&self, call: &Arc<Call>) {
        self.leave(call);
        self.condemn();
    }

    fn leave(&self, call: &Arc<Call>) -> Then {
        let mut serving = self.serving();
        if let Some(index) = serving.calls.iter().position(|other| Arc::ptr_eq(other, call)) {
            serving.calls.swap_remove(index);
            if serving.calls.is_empty() {
                serving.idle_since = Instant::now();
            }
        }
        serving.then
    }

    /// Its task takes the call.
    fn begin(self: &Arc<Self>, call: Arc<Call>) {
        call.taken_by(self);
        let mut serving = self.serving();
        serving.calls.push(call);
        serving.busy = true;
        serving.then = Then::Nothing;
    }

    /// Takes no more calls and ends as soon as nobody waits.
    pub(crate) fn condemn(&self) {
        self.condemned.store(true, Relaxed);
        self.look();
    }

    /// Ends the guest under those who wait. Returns how many these are.
    pub(crate) fn cut(&self) -> usize {
        let waiting = self.waiting();
        self.cut.store(true, Relaxed);
        self.condemn();
        waiting
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
        for id in self.serving().calls.iter().filter_map(|call| call.request_id()) {
            if !ids.is_empty() {
                ids.push(' ');
            }
            ids.push_str(id);
        }
        ids
    }

    /// The traces of the requests it serves, for the log.
    pub(crate) fn trace_ids(&self) -> Option<String> {
        let serving = self.serving();
        let ids = serving.calls.iter().filter_map(|call| call.trace_id());
        ids.reduce(|ids, id| ids + " " + &id)
    }

    /// The step of a trace that what the guest does now belongs to. If it serves several requests, that is not known.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        match &self.serving().calls[..] {
            [call] => call.trace,
            _ => None,
        }
    }

    /// The step that a request belongs to which the guest sends with this context, or with none. A guest that passes its
    /// trace on says itself which of its requests it does that for, but not whether it is recorded.
    pub(crate) fn trace_of(&self, said: Option<TraceContext>) -> Option<TraceContext> {
        let Some(said) = said else { return self.trace() };
        let serving = self.serving();
        let mut traces = serving.calls.iter().filter_map(|call| call.trace);
        traces.find(|known| known.trace == said.trace).map(|known| TraceContext { sampled: known.sampled, ..said })
    }

    /// Has its answer wait for a write in its place. False if it has other ways to tell of it.
    pub(crate) fn hold(&self, write: &held::Write) -> bool {
        match &self.serving().calls[..] {
            [call] => !self.has_sent.load(Relaxed) && call.held.hold(write),
            _ => false,
        }
    }

    /// The write that it takes for done, if there is one.
    pub(crate) fn held(&self) -> Option<held::Write> {
        self.serving().calls.first()?.held.write()
    }

    /// It sends a request.
    pub(crate) fn sends(&self) {
        self.has_sent.store(true, Relaxed);
    }

    /// Whether it still runs, though its answer may be there.
    pub(crate) fn is_busy(&self) -> bool {
        self.serving().busy
    }

    /// Whether a request that began before `time` has no answer yet.
    pub(crate) fn owes_since_before(&self, time: Instant) -> bool {
        self.serving().calls.iter().any(|call| call.is_owed_since_before(time))
    }

    /// Whether it has ended before its work was done. Wasmtime gives the bodies that such a guest left unfinished the same end
    /// as those that it finished, so none of them is to be taken for whole.
    pub(crate) fn broke_off(&self) -> bool {
        self.broke_off.load(Relaxed)
    }

    /// How it ends now, if it does whatever its event loop says.
    fn over(&self) -> Option<End> {
        if !self.is_condemned() {
            return None;
        }
        let serving = self.serving();
        if serving.calls.is_empty() {
            return Some(if serving.busy { End::Abandoned } else { End::Retired });
        }
        self.cut.load(Relaxed).then_some(End::Cut)
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

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Its revision was replaced, and its time is over.
    Cut,
    /// It trapped, or the runtime failed under it.
    Failed(wasmtime::Error),
}

/// The life of a guest: starts it, lets it serve, and tells its pool and its callers when it is gone.
async fn live(guest: Arc<Guest>, pool: Arc<Pool>, report: Option<oneshot::Sender<wasmtime::Result<()>>>) {
    let started = pool.template().instantiate(&guest).await;
    let (mut store, proxy) = match (started, report) {
        (Ok(started), None) => started,
        (Ok(started), Some(report)) => {
            // Whoever asked for it may be gone.
            let _ = report.send(Ok(()));
            started
        }
        (Err(error), None) => return pool.start_failed(&guest, error),
        (Err(error), Some(report)) => {
            pool.template().count_fault(Fault::Failed(Failure::Start));
            pool.ended(&guest);
            let _ = report.send(Err(error));
            return;
        }
    };
    let end = serve(&mut store, &proxy, &guest, &pool).await;
    guest.broke_off.store(!matches!(end, End::Retired), Relaxed);
    let failure = match end {
        End::Retired | End::Abandoned => None,
        End::Stuck => {
            tracing::warn!(
                component = pool.template().component(),
                instance = pool.template().instance(),
                request_id = guest.request_ids(),
                trace_id = guest.trace_ids(),
                reason = Failure::Stuck.reason(),
                "a guest was thrown away with requests on it: another one on it was given up and it didn't let go"
            );
            Some(Failure::Stuck)
        }
        End::Cut => Some(Failure::Replaced),
        End::Failed(error) => {
            let failure = if error.is::<wasmtime_wasi::I32Exit>() { Failure::Exit } else { Failure::Trap };
            tracing::error!(
                component = pool.template().component(),
                instance = pool.template().instance(),
                request_id = guest.request_ids(),
                trace_id = guest.trace_ids(),
                reason = failure.reason(),
                "a guest failed: {error:?}"
            );
            Some(failure)
        }
    };
    if let Some(failure) = failure {
        pool.template().count_fault(Fault::Failed(failure));
        for call in &guest.serving().calls {
            call.failed(failure);
        }
    }
    drop(store);
    pool.ended(&guest);
}

/// What the two ends of a guest's event loop tell each other: [`serve`], which polls it from outside, and
/// [`take_calls`], which runs in it. Atomic only because futures have to be `Send`; one thread uses it.
struct Progress {
    /// The event loop polled `take_calls`, so the guest has let go of it since this was last cleared.
    ran: AtomicBool,
    /// `take_calls` is to look whether there is something to do.
    look: AtomicBool,
    /// The event loop came to rest since the last call was taken. Only then is another one taken beside it, so that a
    /// request that computes doesn't hold up others that could go to another guest.
    rested: AtomicBool,
    /// May take more calls, as far as its reuse count goes.
    open: AtomicBool,
    /// Accepts calls, as far as its own backpressure goes.
    ready: AtomicBool,
    /// Calls that the guest is running.
    running: AtomicUsize,
    /// It runs calls, or something after them.
    busy: AtomicBool,
}

/// What a guest's task does when its event loop has come to rest.
enum Rest {
    /// Waits to be woken.
    Wait,
    /// There is a call to take.
    Take,
    /// It may take no more, and there is nothing left to do.
    End,
}

/// Lets the guest serve until it ends.
async fn serve(store: &mut Store<GuestState>, proxy: &Proxy, guest: &Arc<Guest>, pool: &Arc<Pool>) -> End {
    let progress = Progress {
        ran: AtomicBool::new(false),
        look: AtomicBool::new(true),
        rested: AtomicBool::new(true),
        open: AtomicBool::new(true),
        ready: AtomicBool::new(true),
        running: AtomicUsize::new(0),
        busy: AtomicBool::new(false),
    };
    let waker = Waker::from(guest.clone());
    let mut event_loop =
        pin!(store.run_concurrent(async |accessor| take_calls(accessor, proxy, guest, pool, &progress).await));
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        let begun = Instant::now();
        loop {
            if let Some(end) = guest.over() {
                return Poll::Ready(end);
            }
            progress.ran.store(false, Relaxed);
            if guest.bell.enter(cx.waker()) {
                progress.look.store(true, Relaxed);
            }
            let polled = event_loop.as_mut().poll(&mut Context::from_waker(&waker));
            let rung = guest.bell.leave();
            if let Poll::Ready(end) = polled {
                let Err(error) = end.and_then(|never| never);
                return Poll::Ready(End::Failed(error));
            }
            if guest.is_condemned() && is_stuck(&progress, &mut grace, cx) {
                return Poll::Ready(End::Stuck);
            }
            if rung {
                progress.look.store(true, Relaxed);
                let ran = progress.ran.load(Relaxed);
                if ran && begun.elapsed() < TURN {
                    // It woke itself, as a rule. It isn't listed before it rests: requests that come would go to other guests,
                    // and the caches have to hold what all of these wait with.
                    continue;
                }
                // Neighbours first: this may be a guest that computes, and was interrupted to let them run.
                if !ran {
                    pool.unpark(guest);
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match rest(guest, pool, &progress) {
                // It may have been told while its event loop ran, by another thread.
                Rest::Wait => return guest.over().map_or(Poll::Pending, Poll::Ready),
                Rest::Take => progress.look.store(true, Relaxed),
                Rest::End => return Poll::Ready(End::Retired),
            }
        }
    })
    .await
}

/// Decides how to go on when the event loop has nothing to do, and parks the guest if it has room.
fn rest(guest: &Arc<Guest>, pool: &Arc<Pool>, progress: &Progress) -> Rest {
    if !progress.ran.load(Relaxed) {
        // The guest waits for something without letting go of its event loop.
        pool.unpark(guest);
        return Rest::Wait;
    }
    progress.rested.store(true, Relaxed);
    let at_once = pool.template().at_once();
    let open = progress.open.load(Relaxed) && !guest.is_condemned();
    let busy = progress.busy.load(Relaxed);
    let may_run = open && progress.running.load(Relaxed) < at_once && progress.ready.load(Relaxed);
    let mut serving = guest.serving();
    serving.busy = busy;
    let waiting = serving.calls.len();
    if !open && !busy && waiting == 0 {
        return Rest::End;
    }
    let room = may_run && waiting < at_once;
    serving.then = match (room, may_run) {
        (true, _) => Then::Nothing,
        (false, true) => Then::Park,
        (false, false) => Then::Wake,
    };
    drop(serving);
    if room {
        return match pool.park(guest) {
            Next::Wait => Rest::Wait,
            Next::Take => Rest::Take,
            Next::End if !busy && waiting == 0 => Rest::End,
            Next::End => {
                // Whoever has the last answer is to wake it.
                guest.serving().then = Then::Wake;
                Rest::Wait
            }
        };
    }
    pool.unpark(guest);
    Rest::Wait
}

/// Whether a condemned guest has kept its event loop from running for the whole grace.
fn is_stuck(progress: &Progress, grace: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    if progress.ran.load(Relaxed) {
        *grace = None;
        return false;
    }
    let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK_GRACE)));
    grace.as_mut().poll(cx).is_ready()
}

/// Runs inside the guest's event loop: takes calls while there is room and drives them. Ends only by an error.
async fn take_calls(
    accessor: &Accessor<GuestState>,
    proxy: &Proxy,
    guest: &Arc<Guest>,
    pool: &Arc<Pool>,
    progress: &Progress,
) -> wasmtime::Result<Infallible> {
    let entry = match proxy {
        Proxy::P2(proxy) => *proxy.wasi_http_incoming_handler().func_handle().func(),
        Proxy::P3(proxy) => *proxy.wasi_http_handler().func_handle().func(),
    };
    let at_once = pool.template().at_once();
    let mut left = pool.template().limits().max_instance_reuse_count;
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        progress.ran.store(true, Relaxed);
        if !progress.look.swap(false, Relaxed) && !guest.bell.answer() {
            return Poll::Pending;
        }
        loop {
            match calls.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let ready = accessor.poll_ready_for_concurrent_call(entry, cx).is_ready();
            let room = ready
                && left > 0
                && !guest.is_condemned()
                && (calls.is_empty() || progress.rested.load(Relaxed))
                && calls.len().max(guest.waiting()) < at_once;
            if room && let Some(Job { request, reply, call, stage, .. }) = pool.take(guest) {
                left -= 1;
                progress.rested.store(false, Relaxed);
                guest.begin(call);
                let prepared = accessor.with(|mut store| {
                    if let Some(stage) = stage {
                        store.as_context_mut().data_mut().enter(stage);
                    }
                    Prepared::new(store.as_context_mut(), proxy, *request, GuestState::http_view, reply)
                });
                calls.push(async move { prepared?.run(accessor, std::future::pending()).await });
                continue;
            }
            progress.open.store(left > 0, Relaxed);
            progress.ready.store(ready, Relaxed);
            progress.running.store(calls.len(), Relaxed);
            let busy = !calls.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending();
            progress.busy.store(busy, Relaxed);
            return Poll::Pending;
        }
    })
    .await
}

/// The id of a request, if it has one.
pub(crate) fn request_id<B>(request: &http::Request<B>) -> Option<HeaderValue> {
    request.headers().get("x-request-id").cloned()
}
