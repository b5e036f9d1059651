//! A pool: the guests of one instance on one worker, and the queue of requests for them.
//!
//! Lives as long as its revision, or the last request that it serves. When it is retired its guests end as soon as they
//! have nothing to do; what still comes to it is served. What bounds it: at most `max_guests` guests; at most `queue` requests wait
//! although every guest is busy, counted over all pools of the component, each for at most `queue_timeout`; then they
//! are shed.
//!
//! All waiting requests are in one queue, and guests with room take from it: the one that worked last is woken first,
//! so that under little load few guests stay warm and the others idle until they end. An answer that waits for a write of
//! its guest ([`held`]) needs none any more if all of it is here; of those there are at most `max_guests` too.

use std::collections::VecDeque;
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use futures::channel::oneshot;
use http::{Request, Response};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use crate::body::{self, Body, End, Ending, Watched, answer_length};
use crate::call::{Call, Failure};
use crate::capabilities::store_error_code;
use crate::counters::{Census, Fault, Shed};
use crate::dispatch::Hop;
use crate::guest::{self, Guest};
use crate::held;
use crate::rehearsal::{Stage, Switch};
use crate::steps::{self, Steps};
use crate::template::Template;

/// A request waiting for a guest.
pub(crate) struct Job {
    pub(crate) request: Box<Request<Body>>,
    pub(crate) reply: oneshot::Sender<wasmtime::Result<Response<Body>>>,
    pub(crate) call: Arc<Call>,
    /// Where its guest is to play, in a rehearsal.
    pub(crate) stage: Option<Stage>,
    /// Whether it counts as waiting: no guest could come for it at once.
    waits: bool,
}

impl Job {
    /// Gives it back to its caller: no guest could be started for it, of which there is room for no more if `no_room`.
    fn refuse(self, no_room: bool) {
        let not_started = NotStarted { request: Mutex::new(Some(self.request)), no_room };
        // The caller may be gone; then so is the request.
        let _ = self.reply.send(Err(wasmtime::Error::new(not_started)));
    }
}

/// The guests of one instance on one worker.
pub(crate) struct Pool {
    template: Template,
    /// Of the worker that runs the guests.
    runtime: Handle,
    state: Mutex<State>,
    /// Calls that were answered or have failed, and how many of them failed. Only its worker writes them.
    calls: AtomicU64,
    failures: AtomicU64,
    /// Answers that wait for a write and have no guest any more.
    held: AtomicUsize,
    /// Whether its requests are sampled.
    rehearsal: Switch,
}

#[derive(Default)]
struct State {
    retired: bool,
    queue: VecDeque<Job>,
    guests: Vec<Arc<Guest>>,
    /// Guests with room, the one that worked last at the end.
    parked: Vec<Arc<Guest>>,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Those that were answered, whatever with, or have failed. Not those that were shed, or given up by the client.
    pub calls: u64,
    /// Those of them that failed: the guest trapped, passed the deadline or broke off, or the answer was a 5xx.
    pub failures: u64,
}

impl Add for Outcomes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, failures: self.failures + other.failures }
    }
}

/// What has happened since `other`, an earlier count of the same.
impl Sub for Outcomes {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let Self { calls, failures } = other;
        Self { calls: self.calls.saturating_sub(calls), failures: self.failures.saturating_sub(failures) }
    }
}

/// What a guest with room does next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Waits: it is listed, and will be woken.
    Wait,
    /// Takes the request that is waiting.
    Take,
    /// Ends when it has nothing to do any more: the pool is retired.
    End,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No guest had room in time. Nothing of the request was seen by one, so here it is again.
    Shed(Shed, Box<Request<Body>>),
    /// The guest that would have taken it could not be started. Nothing of the request was seen by one.
    NotStarted(Box<Request<Body>>),
    /// The deadline passed while a guest was on it.
    Deadline,
    /// The guest that was on it failed.
    Failed(Failure),
    /// The guest has answered, but a write that it took for done has failed.
    Unwritten(store::Error),
}

impl Pool {
    pub(crate) fn new(template: Template, runtime: Handle) -> Arc<Self> {
        let (state, calls, failures, held, rehearsal) = Default::default();
        Arc::new(Self { template, runtime, state, calls, failures, held, rehearsal })
    }

    /// What became of its calls.
    pub(crate) fn outcomes(&self) -> Outcomes {
        Outcomes { failures: self.failures.load(Relaxed), calls: self.calls.load(Relaxed) }
    }

    /// Counts what became of calls that another pool has served in its place.
    pub(crate) fn credit(&self, outcomes: Outcomes) {
        self.calls.fetch_add(outcomes.calls, Relaxed);
        self.failures.fetch_add(outcomes.failures, Relaxed);
    }

    /// Whether its requests are sampled.
    pub(crate) fn rehearsal(&self) -> &Switch {
        &self.rehearsal
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// Runs a guest's task where its guests run.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Whether the caller is where its guests run, and so can run one itself instead of waking its task.
    fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    /// Runs a request on a guest and returns the answer as soon as its head is there. To drop the future, or the
    /// answer's body before its end, is to give up on the guest.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn call(
        self: &Arc<Self>,
        request: Box<Request<Body>>,
        hop: &Hop,
        deadline: Instant,
    ) -> impl Future<Output = Result<Response<Body>, CallError>> {
        self.call_on(None, request, hop, deadline)
    }

    /// The same, and all that the guest does until its next request is done on this stage.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn call_on(
        self: &Arc<Self>,
        stage: Option<Stage>,
        mut request: Box<Request<Body>>,
        hop: &Hop,
        deadline: Instant,
    ) -> Result<Response<Body>, CallError> {
        let method = request.method().clone();
        let tracer = self.template.worker.tracer();
        let begun = Instant::now();
        let call = Call::new(begun, guest::request_id(&request), hop.depth, steps::to_guest(tracer, &mut request, hop));
        let mut steps = Steps::begin(tracer, &self.template, &call, hop);
        let (reply, answer) = oneshot::channel();
        let guest = match self.submit(Job { request, reply, call: call.clone(), stage, waits: false }) {
            Ok(guest) => guest,
            Err(request) => {
                steps.fail(Shed::QueueFull.reason());
                return Err(CallError::Shed(Shed::QueueFull, request));
            }
        };
        let mut caller = Caller { pool: self, call: Some(call), steps };
        match guest {
            Some(guest) if self.is_here() => guest.run(),
            Some(guest) => guest.look(),
            None => {}
        }

        let shed_at = (begun + self.template.limits().queue_timeout).min(deadline);
        let mut answer = pin!(answer);
        let mut timer = pin!(tokio::time::sleep_until(shed_at.into()));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                () = &mut timer => {
                    if let Some(request) = caller.withdraw() {
                        caller.steps.fail(Shed::Timeout.reason());
                        return Err(CallError::Shed(Shed::Timeout, request));
                    }
                    if deadline <= Instant::now() {
                        return Err(self.too_late(&mut caller));
                    }
                    timer.as_mut().reset(deadline.into());
                }
            }
        };
        match answer {
            Ok(Ok(mut response)) => {
                if let Some(write) = caller.call.as_ref().and_then(|call| call.held.leave()) {
                    timer.as_mut().reset(deadline.into());
                    response = Box::pin(self.hold(&mut caller, response, write, timer)).await?;
                }
                let length = answer_length(&method, response.status(), response.headers());
                self.count_call();
                if response.status().is_server_error() {
                    self.count_failure();
                }
                if let Some(call) = &caller.call {
                    call.answered();
                }
                caller.steps.answered(response.status());
                Ok(response.map(|body| Watched::wrap(body, length, caller.into_reader())))
            }
            Ok(Err(error)) => Err(self.count(caller.failed(self, error))),
            Err(oneshot::Canceled) => {
                let failure = caller.failure();
                caller.steps.fail(failure.reason());
                Err(self.count(CallError::Failed(failure)))
            }
        }
    }

    /// Keeps an answer until a write is done that its guest took for done. All of it may be here: then its guest is free.
    async fn hold(
        &self,
        caller: &mut Caller<'_>,
        answer: Response<Body>,
        write: held::Write,
        deadline: Pin<&mut Sleep>,
    ) -> Result<Response<Body>, CallError> {
        let (head, body) = answer.into_parts();
        let (body, whole) = body::read_ahead(body);
        let _place = if whole { caller.let_guest_go() } else { None };
        let written = tokio::select! {
            biased;
            written = write => written,
            () = deadline => return Err(self.too_late(caller)),
        };
        written.map_err(|error| {
            self.template.shared.go_on.failed();
            caller.steps.fail(store_error_code(&error).as_str());
            self.count(CallError::Unwritten(error))
        })?;
        Ok(Response::from_parts(head, body))
    }

    /// There is no answer, and the deadline has passed.
    fn too_late(&self, caller: &mut Caller<'_>) -> CallError {
        self.template.count_fault(Fault::Deadline);
        caller.steps.fail(Fault::Deadline.reason());
        self.count(CallError::Deadline)
    }

    /// Counts a call that has no answer, unless that isn't the component's fault.
    fn count(&self, error: CallError) -> CallError {
        if !matches!(error, CallError::Shed(..) | CallError::Failed(Failure::Replaced)) {
            self.count_call();
            self.count_failure();
        }
        error
    }

    /// Starts a guest, unless there is one. It is ready when this returns; the error says why it could not be started.
    pub(crate) async fn warm(self: &Arc<Self>) -> Result<(), String> {
        let (report, started) = oneshot::channel();
        {
            let mut state = self.state();
            if state.retired {
                return Err("it was given up meanwhile".to_owned());
            }
            if !state.guests.is_empty() {
                return Ok(());
            }
            state.guests.push(Guest::start(self, Some(report)));
        }
        match started.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.root_cause().to_string()),
            Err(oneshot::Canceled) => Err("it ended at once".to_owned()),
        }
    }

    /// From now on guests end when they have nothing to do.
    pub(crate) fn retire(&self) {
        let idle = {
            let mut state = self.state();
            state.retired = true;
            std::mem::take(&mut state.parked)
        };
        for guest in idle {
            guest.parked.store(false, Relaxed);
            guest.look();
        }
    }

    /// Whether guests end when they have nothing to do.
    pub(crate) fn is_retired(&self) -> bool {
        self.state().retired
    }

    /// Throws away all guests, and the requests on them and for them. Returns how many requests that were.
    pub(crate) fn cut(&self) -> usize {
        let (queue, waiting) = {
            let mut state = self.state();
            let waiting: usize = state.guests.iter().map(|guest| guest.cut()).sum();
            (std::mem::take(&mut state.queue), waiting)
        };
        for job in &queue {
            // Their callers hear of it when the jobs are dropped. That is not under the lock: so are the requests' bodies.
            job.call.failed(Failure::Replaced);
            self.dequeued(job);
        }
        waiting + queue.len()
    }

    /// Whether a request that began before `time` has no answer yet, and no failure either.
    pub(crate) fn owes_since_before(&self, time: Instant) -> bool {
        let state = self.state();
        state.queue.iter().any(|job| job.call.is_owed_since_before(time))
            || state.guests.iter().any(|guest| guest.owes_since_before(time))
    }

    /// How its guests are doing.
    pub(crate) fn census(&self) -> Census {
        let state = self.state();
        let idle = state.parked.len();
        Census { busy: state.guests.len() - idle, idle, waiting: state.queue.len() }
    }

    /// Whether it has neither guests nor requests.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        state.guests.is_empty() && state.queue.is_empty()
    }

    /// Puts a request in the queue, and finds a guest for it: one that is to be told of it, or that comes by itself. Gives it
    /// back if it would have to wait and no more may wait.
    fn submit(self: &Arc<Self>, mut job: Job) -> Result<Option<Arc<Guest>>, Box<Request<Body>>> {
        let mut state = self.state();
        job.waits = state.parked.is_empty() && state.guests.len() >= self.template.limits().max_guests;
        if job.waits && !self.template.enqueue() {
            return Err(job.request);
        }
        state.queue.push_back(job);
        Ok(self.find(&mut state))
    }

    /// Called for each request that leaves the queue.
    fn dequeued(&self, job: &Job) {
        if job.waits {
            self.template.dequeue();
        }
    }

    /// Wakes a guest with room, or starts one, for the request that was last put in the queue.
    fn summon(self: &Arc<Self>, state: &mut State) {
        if let Some(guest) = self.find(state) {
            guest.look();
        }
    }

    /// A guest with room, to be told of the request that was last put in the queue. If there is none, starts one if it may.
    fn find(self: &Arc<Self>, state: &mut State) -> Option<Arc<Guest>> {
        let guest = state.parked.pop();
        match &guest {
            Some(guest) => {
                guest.parked.store(false, Relaxed);
                guest.summoned.store(true, Relaxed);
            }
            None if state.guests.len() < self.template.limits().max_guests => {
                state.guests.push(Guest::start(self, None));
            }
            None => {}
        }
        guest
    }

    /// The request that has waited longest, for a guest with room.
    pub(crate) fn take(&self, guest: &Arc<Guest>) -> Option<Job> {
        let mut state = self.state();
        let job = state.queue.pop_front()?;
        // It may have come unasked. Until it rests again nobody knows whether it has room.
        state.unpark(guest);
        guest.summoned.store(false, Relaxed);
        drop(state);
        self.dequeued(&job);
        Some(job)
    }

    /// Lists the guest as one with room, if there is nothing else for it to do.
    pub(crate) fn park(&self, guest: &Arc<Guest>) -> Next {
        let mut state = self.state();
        if !state.queue.is_empty() {
            return Next::Take;
        }
        if state.retired {
            return Next::End;
        }
        guest.summoned.store(false, Relaxed);
        if !guest.parked.swap(true, Relaxed) {
            state.parked.push(guest.clone());
        }
        Next::Wait
    }

    /// The guest has room again: for a request that is waiting, or for those to come.
    pub(crate) fn park_or_wake(&self, guest: &Arc<Guest>) {
        if self.park(guest) != Next::Wait {
            guest.look();
        }
    }

    /// The guest has no room, or none any more. If a request counts on it, another one is told.
    pub(crate) fn unpark(self: &Arc<Self>, guest: &Arc<Guest>) {
        if guest.parked.load(Relaxed) || guest.summoned.load(Relaxed) {
            let mut state = self.state();
            state.unpark(guest);
            if guest.summoned.swap(false, Relaxed) && !state.queue.is_empty() {
                self.summon(&mut state);
            }
        }
    }

    /// Wakes or starts another guest if a request is waiting.
    pub(crate) fn summon_another(self: &Arc<Self>) {
        let mut state = self.state();
        if !state.queue.is_empty() {
            self.summon(&mut state);
        }
    }

    /// The guest is gone.
    pub(crate) fn ended(self: &Arc<Self>, guest: &Arc<Guest>) {
        self.remove(guest);
        // It may have been woken for a request that it didn't take.
        self.summon_another();
    }

    /// The guest could not be started. One waiting request fails with it, so that a component that never starts fails
    /// every request instead of being started for ever.
    pub(crate) fn start_failed(self: &Arc<Self>, guest: &Arc<Guest>, error: wasmtime::Error) {
        self.remove(guest);
        let mut state = self.state();
        let no_room = error.is::<wasmtime::PoolConcurrencyLimitError>();
        if no_room {
            tracing::warn!(component = self.template.component(), "no memory is left for another guest: {error}");
            if !state.guests.is_empty() {
                // They get to the queue in time, or what waits in it is shed. The request that the guest was started for waits
                // from now on, if it may.
                match state.queue.iter().rposition(|job| !job.waits) {
                    Some(last) if self.template.enqueue() => state.queue[last].waits = true,
                    Some(last) => state.queue.remove(last).into_iter().for_each(|job| job.refuse(no_room)),
                    None => {}
                }
                return;
            }
        } else {
            self.template.count_fault(Fault::Failed(Failure::Start));
            tracing::error!(
                component = self.template.component(),
                instance = self.template.instance(),
                reason = Failure::Start.reason(),
                "a guest could not be started: {error:?}"
            );
        }
        if let Some(job) = state.queue.pop_front() {
            self.dequeued(&job);
            job.refuse(no_room);
        }
        if !state.queue.is_empty() {
            self.summon(&mut state);
        }
    }

    /// Ends guests that nobody has needed for too long. Called about once a second.
    pub(crate) fn sweep(&self, now: Instant) {
        let limits = self.template.limits();
        for guest in &self.state().guests {
            guest.condemn_if_unused(now, limits.idle_instance_timeout, limits.request_timeout);
        }
    }

    fn remove(&self, guest: &Arc<Guest>) {
        let mut state = self.state();
        state.unpark(guest);
        state.guests.retain(|other| !Arc::ptr_eq(other, guest));
        if state.retired && state.guests.is_empty() {
            self.template.shared.drained.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn unpark(&mut self, guest: &Arc<Guest>) {
        if guest.parked.swap(false, Relaxed) {
            self.parked.retain(|other| !Arc::ptr_eq(other, guest));
        }
    }
}

/// Carries a request back to its caller through the channel for answers.
#[derive(Debug, thiserror::Error)]
#[error("the guest could not be started")]
struct NotStarted {
    request: Mutex<Option<Box<Request<Body>>>>,
    /// Not the component's fault: the process has as many guests as it can.
    no_room: bool,
}

/// The place of an answer among those that a pool keeps.
struct Place<'a>(&'a Pool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// The caller's side of a call. Dropping it gives up.
struct Caller<'a> {
    pool: &'a Arc<Pool>,
    /// Taken when the call ends in another way.
    call: Option<Arc<Call>>,
    steps: Steps,
}

impl<'a> Caller<'a> {
    /// Takes the request out of the queue, if it is still there.
    fn withdraw(&mut self) -> Option<Box<Request<Body>>> {
        let call = self.call.as_ref()?;
        if call.guest().is_some() {
            return None;
        }
        let mut state = self.pool.state();
        let index = state.queue.iter().position(|job| Arc::ptr_eq(&job.call, call))?;
        let job = state.queue.remove(index)?;
        drop(state);
        self.pool.dequeued(&job);
        self.call = None;
        Some(job.request)
    }

    /// All of the answer is here, and waits for something else. Its guest is done with the request if it has come to rest,
    /// unless the pool has as many such answers as it may have guests.
    fn let_guest_go(&mut self) -> Option<Place<'a>> {
        let pool = self.pool;
        let call = self.call.as_ref()?;
        let guest = call.guest()?;
        if guest.is_busy() || guest.broke_off() || pool.held.load(Relaxed) >= pool.template.limits().max_guests {
            return None;
        }
        guest.finish(call, pool);
        self.call = None;
        pool.held.fetch_add(1, Relaxed);
        Some(Place(pool))
    }

    /// What an error in place of an answer means.
    fn failed(mut self, pool: &Pool, error: wasmtime::Error) -> CallError {
        if let Some(NotStarted { request, no_room }) = error.downcast_ref() {
            self.call = None;
            let request = request.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.steps.fail(if *no_room { Shed::NoRoom.reason() } else { Failure::Start.reason() });
            return match request {
                Some(request) if *no_room => CallError::Shed(Shed::NoRoom, request),
                Some(request) => CallError::NotStarted(request),
                None => CallError::Failed(Failure::Start),
            };
        }
        let code = error.is::<wasmtime_wasi_http::p3::bindings::http::types::ErrorCode>()
            || error.is::<wasmtime_wasi_http::p2::bindings::http::types::ErrorCode>();
        if code && let Some(call) = self.call.take() {
            tracing::warn!(
                component = pool.template.component(),
                instance = pool.template.instance(),
                request_id = call.request_id(),
                trace_id = call.trace_id(),
                reason = Failure::Error.reason(),
                "a guest answered with an error: {error}"
            );
            if let Some(guest) = call.guest() {
                guest.finish(&call, pool);
            }
            pool.template.count_fault(Fault::Failed(Failure::Error));
            self.steps.fail(Failure::Error.reason());
            return CallError::Failed(Failure::Error);
        }
        let failure = self.failure();
        self.steps.fail(failure.reason());
        if failure == Failure::Error {
            pool.template.count_fault(Fault::Failed(Failure::Error));
            tracing::warn!(
                component = pool.template.component(),
                instance = pool.template.instance(),
                request_id = self.call.as_ref().and_then(|call| call.request_id()),
                trace_id = self.call.as_ref().and_then(|call| call.trace_id()),
                reason = failure.reason(),
                "a guest didn't answer: {error:?}"
            );
        }
        CallError::Failed(failure)
    }

    fn failure(&self) -> Failure {
        self.call.as_ref().and_then(|call| call.failure()).unwrap_or(Failure::Error)
    }

    /// Hands the call on to whoever reads the answer's body.
    fn into_reader(mut self) -> Reader {
        Reader { call: self.call.take(), pool: self.pool.clone(), steps: std::mem::take(&mut self.steps) }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if self.call.is_some()
            && self.withdraw().is_none()
            && let Some(call) = self.call.take()
            && let Some(guest) = call.guest()
        {
            guest.abandon(&call);
        }
    }
}

/// Whoever reads an answer's body.
struct Reader {
    call: Option<Arc<Call>>,
    pool: Arc<Pool>,
    /// End with it.
    steps: Steps,
}

impl Ending for Reader {
    fn is_broken(&self) -> bool {
        self.call.as_ref().and_then(|call| call.guest()).is_some_and(|guest| guest.broke_off())
    }

    fn stands_still(&self, reader: &Waker) {
        self.call.as_ref().inspect(|call| call.waits_for_more(reader));
    }

    fn ended(&mut self, end: End) {
        let Some(call) = self.call.take() else { return };
        if end == End::Failed {
            self.steps.fail(call.failure().map_or(steps::BROKEN_OFF, Failure::reason));
        }
        match call.guest() {
            Some(guest) if end == End::Complete => guest.finish(&call, &self.pool),
            Some(guest) => {
                if end == End::Failed && call.failure() != Some(Failure::Replaced) {
                    self.pool.count_failure();
                }
                guest.abandon(&call);
            }
            None => {}
        }
    }
}
