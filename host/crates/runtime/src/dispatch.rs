//! The dispatcher: brings a request to an instance, and an answer back, whatever happens.
//!
//! It picks the instance (exact round robin, [`registry`]), runs the request in process or sends it to a remote
//! instance, and tries another one if that is safe. It never fails: like any proxy it answers what went wrong itself.
//!
//! A request is sent to another instance only if it is idempotent by method or nothing of it reached the first one, at
//! most once per available instance, before its deadline, and while the process-wide retry budget lasts. This is the
//! only place under the host where requests are retried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use problem::{Code, Problem};
use registry::{Location, Member, Name};
use trace::TraceContext;

use crate::body::{self, Body, Lent};
use crate::call::Failure;
use crate::capabilities::{store_error_code, store_error_detail};
use crate::guest::{self, Guest};
use crate::pool::{CallError, Pool};
use crate::remote::SendError;
use crate::rush;
use crate::steps;
use crate::worker::{View, Worker};

/// How many components a request may pass through. The next one gets 508.
pub const MAX_DEPTH: u8 = 8;
/// Which instance answered, or failed to.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// How long a remote instance may take until its answer begins.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(30);
/// What `Retry-After` says, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the next instance of a namespace.
    Namespace(Arc<str>),
    /// To one instance, whether it is available or not.
    Instance {
        /// The namespace it serves.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

impl Target {
    fn namespace(&self) -> &str {
        let (Self::Namespace(namespace) | Self::Instance { namespace, .. }) = self;
        namespace
    }
}

/// A request's place in a chain of components.
pub struct Hop {
    /// How many components it passes through when it arrives: 1 for the first.
    pub depth: u8,
    /// The step of a trace that sends it, if it belongs to one.
    pub trace: Option<TraceContext>,
    /// How often it was sent before, to others.
    pub(crate) resends: u8,
    /// The guest that sends it, if one does. That is suspended if the answer isn't there at once.
    pub(crate) sender: Option<Arc<Guest>>,
}

impl Hop {
    /// The place of a request that is sent for the first time.
    pub fn new(depth: u8, trace: Option<TraceContext>) -> Self {
        Self { depth, trace, resends: 0, sender: None }
    }

    /// The same, if this guest sends it.
    pub(crate) fn from_guest(guest: &Arc<Guest>, trace: Option<TraceContext>) -> Self {
        Self { sender: Some(guest.clone()), ..Self::new(guest.depth() + 1, trace) }
    }
}

/// Why an attempt has no answer.
struct Failed {
    /// What to tell the client if there is no other attempt.
    problem: Problem,
    /// The request, if nothing of it reached the instance.
    unsent: Option<Box<Request<Body>>>,
    /// Whether another instance may do better. Not so for a deadline that has passed.
    retry: bool,
    /// The instance of this process that failed on it.
    by: Option<HeaderValue>,
}

/// Nobody was asked.
impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, unsent: None, retry: false, by: None }
    }
}

impl Worker {
    /// Brings a request to an instance and returns its answer, or a problem document that says why there is none. To
    /// drop the future, or the answer's body before its end, is to give up on the request.
    pub async fn dispatch(&self, target: &Target, request: Box<Request<Body>>, hop: Hop) -> Response<Body> {
        match self.try_dispatch(target, request, hop).await {
            Ok(answer) => answer,
            Err(Failed { problem, by, .. }) => {
                let mut answer = answer_with(problem);
                answer.headers_mut().extend(by.map(|by| (SERVED_BY, by)));
                answer
            }
        }
    }

    async fn try_dispatch(
        &self,
        target: &Target,
        mut request: Box<Request<Body>>,
        mut hop: Hop,
    ) -> Result<Response<Body>, Failed> {
        if hop.depth > MAX_DEPTH {
            let detail = format!("the request went through {MAX_DEPTH} components");
            return Err(Problem::new(Code::LoopDetected, detail).into());
        }
        let now = Instant::now();
        rush::request(now);
        let registry = self.registry();
        let (first, others) = self.choose(target)?;
        if !others {
            return self.attempt(&first, request, &hop, now).await;
        }

        registry.retry_budget().request(now);
        let mut spare = Spare::keep(&mut request);
        let mut failed = match self.attempt(&first, request, &hop, now).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let mut tried = vec![first.name().clone()];
        loop {
            let again = failed.unsent.take().map(|unsent| spare.keep_again(unsent)).or_else(|| spare.idempotent());
            let (Some(again), true) = (again, failed.retry) else { return Err(failed) };
            let Some(next) = self.choose_untried(target, &tried) else { return Err(failed) };
            if !registry.retry_budget().try_retry(Instant::now()) {
                return Err(failed);
            }
            if let Some(group) = self.view().snapshot.namespace(target.namespace()) {
                group.count_retry();
            }
            tracing::info!(
                request_id = guest::request_id(&again).as_ref().and_then(|id| id.to_str().ok()),
                trace_id = hop.trace.map(|context| context.trace.to_string()),
                namespace = target.namespace(),
                instance = next.name().as_str(),
                "a request is tried again: {}",
                failed.problem.detail
            );
            tried.push(next.name().clone());
            hop.resends = hop.resends.saturating_add(1);
            failed = match self.attempt(&next, again, &hop, now).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
        }
    }

    /// Who gets a request that goes to `target`, and whether there are others who could.
    fn choose(&self, target: &Target) -> Result<(Chosen, bool), Problem> {
        let view = self.view();
        let namespace = target.namespace();
        let group = view
            .snapshot
            .namespace(namespace)
            .ok_or_else(|| Problem::new(Code::UnknownNamespace, format!("there is no namespace {namespace:?}")))?;
        let (member, others) = match target {
            Target::Namespace(_) => (group.pick(), group.available() > 1),
            Target::Instance { name, .. } => (group.find(name), false),
        };
        let chosen = member.and_then(|member| self.chosen(&view, member)).ok_or_else(|| {
            let detail = format!("no instance of {namespace:?} is available");
            Problem::new(Code::NoInstanceAvailable, detail).retry_after(RETRY_AFTER_SECONDS)
        })?;
        Ok((chosen, others))
    }

    /// Another one who could, if there is one left. What was published meanwhile counts.
    fn choose_untried(&self, target: &Target, tried: &[Name]) -> Option<Chosen> {
        let view = self.view();
        let member = view.snapshot.namespace(target.namespace())?.pick_untried(tried)?;
        self.chosen(&view, member)
    }

    fn chosen(&self, view: &View, member: &Arc<Member>) -> Option<Chosen> {
        match member.location() {
            Location::InProcess => Some(Chosen::Here(view.instance(member)?.pool(self.id()).clone())),
            Location::Remote(_) => Some(Chosen::There(member.clone())),
        }
    }

    async fn attempt(
        &self,
        chosen: &Chosen,
        mut request: Box<Request<Body>>,
        hop: &Hop,
        begun: Instant,
    ) -> Result<Response<Body>, Failed> {
        match chosen {
            Chosen::Here(pool) => {
                let deadline = begun + pool.template().limits().request_timeout;
                let answered = match pool.rehearsal().get() {
                    None => pool.call(request, hop, deadline).await,
                    // Apart, as is what is sent elsewhere: so what the others await stays small.
                    Some(sampler) => Box::pin(sampler.call(pool, request, hop, deadline)).await,
                };
                if let Err(CallError::Shed(reason, _)) = &answered {
                    pool.template().count_shed(*reason);
                }
                let by = || pool.template().served_by.clone();
                let mut answer = answered.map_err(|error| match error {
                    // It was given to nobody.
                    CallError::Shed(..) => call_failed(error),
                    error => Failed { by: Some(by()), ..call_failed(error) },
                })?;
                answer.headers_mut().entry(SERVED_BY).or_insert_with(by);
                Ok(answer)
            }
            Chosen::There(member) => {
                let Location::Remote(address) = member.location() else { unreachable!("it is elsewhere") };
                let deadline = begun + REMOTE_TIMEOUT;
                let step = steps::to_remote(self.tracer(), &mut request, hop, member, address);
                let sent = self.client().send_to(member, address, *request, hop, deadline, self.registry());
                let sent = Box::pin(sent).await;
                let mut answer = steps::answered(step, sent).map_err(|error| remote_failed(member, error))?;
                if !answer.headers().contains_key(SERVED_BY)
                    && let Ok(name) = HeaderValue::from_str(member.name().as_str())
                {
                    answer.headers_mut().insert(SERVED_BY, name);
                }
                Ok(answer)
            }
        }
    }
}

/// Who gets a request. Not the view that it was found in: that would keep every revision which is replaced meanwhile.
enum Chosen {
    /// A pool of this worker. As a request is queued there before anything waits, a pool that is retired on this thread
    /// gets no more.
    Here(Arc<Pool>),
    /// An instance elsewhere.
    There(Arc<Member>),
}

impl Chosen {
    fn name(&self) -> &Name {
        match self {
            Self::Here(pool) => &pool.template().name,
            Self::There(member) => member.name(),
        }
    }
}

/// What in-process failures mean to the client.
fn call_failed(error: CallError) -> Failed {
    let failed = |problem, unsent, retry| Failed { problem, unsent, retry, by: None };
    match error {
        CallError::Shed(_, request) => {
            let problem = Problem::new(Code::Overloaded, "too many requests are waiting; try again later");
            failed(problem.retry_after(RETRY_AFTER_SECONDS), Some(request), true)
        }
        CallError::NotStarted(request) => {
            let problem = Problem::new(Code::ComponentFailed, "the component could not be started");
            failed(problem, Some(request), true)
        }
        CallError::Deadline => {
            let problem = Problem::new(Code::DeadlineExceeded, "the component didn't answer in time");
            failed(problem, None, false)
        }
        CallError::Unwritten(error) => {
            let problem = Problem::new(store_error_code(&error), store_error_detail(&error));
            failed(problem, None, false)
        }
        CallError::Failed(Failure::Replaced) => {
            let detail = "the component was replaced, and the request took longer than the old one had left";
            failed(Problem::new(Code::DeadlineExceeded, detail), None, true)
        }
        CallError::Failed(failure) => {
            let detail = match failure {
                Failure::Error => "the component answered with an error",
                _ => "the component failed",
            };
            failed(Problem::new(Code::ComponentFailed, detail), None, true)
        }
    }
}

/// What a remote instance's failures mean to the client.
fn remote_failed(member: &Member, error: SendError) -> Failed {
    let name = member.name();
    let failed = |problem, unsent, retry| Failed { problem, unsent, retry, by: None };
    match error {
        SendError::NotConnected { request, reason } => {
            let detail = format!("instance {name} can't be reached: {reason}");
            failed(Problem::new(Code::InstanceUnreachable, detail), request, true)
        }
        SendError::Broken { reason } => {
            let detail = format!("instance {name} broke the connection or didn't answer in HTTP: {reason}");
            failed(Problem::new(Code::InstanceUnreachable, detail), None, true)
        }
        SendError::TimedOut => {
            let detail = format!("instance {name} didn't answer in time");
            failed(Problem::new(Code::DeadlineExceeded, detail), None, true)
        }
    }
}

/// A problem as an answer. Its [`Code`] is among the extensions, for those who want to know why without reading the body.
pub fn answer_with(problem: Problem) -> Response<Body> {
    let code = problem.code;
    let mut answer = problem.into_response::<Vec<u8>>().map(body::full);
    answer.extensions_mut().insert(code);
    answer
}

/// What is kept of a request for a second attempt.
struct Spare {
    /// The head, if the method allows to send it twice.
    head: Option<Request<()>>,
    /// The way back to the body. `None` if there is none.
    body: Option<Lent>,
}

impl Spare {
    fn keep(request: &mut Request<Body>) -> Self {
        let head = request.method().is_idempotent().then(|| head_of(request));
        Self { head, body: lend(request.body_mut()) }
    }

    /// Keeps what is needed of a request that came back whole.
    fn keep_again(&mut self, mut unsent: Box<Request<Body>>) -> Box<Request<Body>> {
        self.body = lend(unsent.body_mut());
        unsent
    }

    /// The request once more, if it is idempotent and nobody has read its body.
    fn idempotent(&mut self) -> Option<Box<Request<Body>>> {
        let head = self.head.clone()?;
        let mut body = match self.body.take() {
            None => body::empty(),
            Some(lent) => lent.take_back()?,
        };
        self.body = lend(&mut body);
        Some(Box::new(head.map(|()| body)))
    }
}

/// A copy of a request without its body.
fn head_of(request: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    *head.extensions_mut() = request.extensions().clone();
    head
}

/// Leaves a body in place of this one that can be taken back from, unless there is nothing in it.
fn lend(body: &mut Body) -> Option<Lent> {
    if body.is_end_stream() {
        return None;
    }
    let (lent, taken) = Lent::new(std::mem::replace(body, body::empty()));
    *body = taken;
    Some(lent)
}
