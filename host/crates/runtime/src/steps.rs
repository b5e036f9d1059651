//! Steps: what is told of a request's way through the data plane to whoever records traces.
//!
//! A call of a guest is two spans: it waits for the guest, then the guest serves it. Whatever the guest does for it is a
//! child of the second: requests that it sends ([`out_of_guest`]), and its writes to the store ([`write()`]). A request to a
//! remote instance is a span of its own ([`to_remote`]). Each receiver learns its parent from the header `traceparent`.
//!
//! Without a tracer nothing is recorded, and a context that came from outside is passed on as it is.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use registry::{Address, Member};
use trace::{Active, Kind, TRACEPARENT, TRACESTATE, TraceContext, Tracer, method_name};

use crate::body::{Body, End, Ending, Watched};
use crate::call::Call;
use crate::dispatch::Hop;
use crate::guest::Guest;
use crate::template::Template;

/// The failure of an answer that didn't come to its end.
pub(crate) const BROKEN_OFF: &str = "broken_off";
/// The failure of a request that has no answer.
const NO_ANSWER: &str = "no_answer";

/// The step of a request that goes to a guest of this host, written into the request.
pub(crate) fn to_guest(tracer: Option<&Tracer>, request: &mut Request<Body>, hop: &Hop) -> Option<TraceContext> {
    Some(next(tracer, request.headers_mut(), hop.trace?))
}

/// The spans of a call, if its trace is recorded. Dropping them ends them.
#[derive(Default)]
pub(crate) struct Steps(Option<Box<Recorded>>);

struct Recorded {
    call: Arc<Call>,
    waiting: Active,
    /// Didn't happen if no guest took the call.
    serving: Active,
}

impl Steps {
    /// The call begins to wait for a guest.
    pub(crate) fn begin(tracer: Option<&Tracer>, template: &Template, call: &Arc<Call>, hop: &Hop) -> Self {
        let (Some(tracer), Some(parent), Some(here)) = (tracer, hop.trace, call.trace) else { return Self(None) };
        let step = |context, what: &str| {
            let mut step = tracer.span(context, Some(parent.span), Kind::Internal, || {
                let component = template.component();
                format!("{what} {component}")
            })?;
            step.text("hostler.component", template.component().to_owned());
            step.text("hostler.instance", template.instance().to_owned());
            count_resends(&mut step, hop);
            Some(step)
        };
        let spans = step(here.child(), "wait for").zip(step(here, "call"));
        Self(spans.map(|(waiting, serving)| Box::new(Recorded { call: call.clone(), waiting, serving })))
    }

    /// The guest's answer has begun.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if let Some(recorded) = &mut self.0 {
            recorded.serving.answered(status.as_u16());
        }
    }

    /// There is no answer, or not all of it.
    pub(crate) fn fail(&mut self, reason: &'static str) {
        if let Some(Recorded { call, waiting, serving }) = self.0.as_deref_mut() {
            if call.taken().is_some() { serving.fail(reason) } else { waiting.fail(reason) }
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        match self.call.taken() {
            Some(taken) => {
                self.waiting.end_at(taken);
                self.serving.begun(taken);
            }
            None => self.serving.forget(),
        }
    }
}

/// The step of a request to an instance elsewhere, written into the request; and its span.
pub(crate) fn to_remote(
    tracer: Option<&Tracer>,
    request: &mut Request<Body>,
    hop: &Hop,
    member: &Member,
    address: &Address,
) -> Option<Active> {
    let parent = hop.trace?;
    let here = next(tracer, request.headers_mut(), parent);
    let method = method_name(request.method());
    let mut step =
        tracer?.span(here, Some(parent.span), Kind::Client, || format!("{method} {}", member.name().as_str()))?;
    step.text("http.request.method", method);
    step.text("server.address", address.host().to_owned());
    step.number("server.port", address.port());
    step.text("hostler.instance", member.name().as_str().to_owned());
    count_resends(&mut step, hop);
    Some(step)
}

/// The step of a request that a guest sends, written into the request; and its span. There is none if it isn't known which
/// of the guest's own requests it is sent for.
pub(crate) fn out_of_guest(
    tracer: Option<&Tracer>,
    request: &mut Request<Body>,
    guest: &Guest,
) -> (Option<TraceContext>, Option<Active>) {
    let said = TraceContext::of_headers(request.headers()).unwrap_or_else(|invalid| {
        invalid.remove(request.headers_mut());
        None
    });
    let Some(parent) = guest.trace_of(said) else {
        let Some((tracer, said)) = tracer.zip(said) else { return (said, None) };
        // Not a trace that came to the guest: what is recorded of it isn't for the guest to decide.
        let here = tracer.resample(said);
        request.headers_mut().insert(TRACEPARENT, here.to_header());
        return (Some(here), None);
    };
    if tracer.is_none() && said.is_some() {
        return (said, None);
    }
    let here = next(tracer, request.headers_mut(), parent);
    let step = tracer.and_then(|tracer| {
        let (method, host) = (method_name(request.method()), request.uri().host().unwrap_or_default());
        let mut step = tracer.span(here, Some(parent.span), Kind::Client, || format!("{method} {host}"))?;
        step.text("http.request.method", method);
        step.text("server.address", host.to_owned());
        if let Some(port) = request.uri().port_u16() {
            step.number("server.port", port);
        }
        Some(step)
    });
    (Some(here), step)
}

/// Ends the span of a request that was sent: at once if it has no answer, else with the last byte of that.
pub(crate) fn answered<E>(step: Option<Active>, answer: Result<Response<Body>, E>) -> Result<Response<Body>, E> {
    let Some(mut step) = step else { return answer };
    match answer {
        Ok(answer) => {
            step.answered(answer.status().as_u16());
            Ok(answer.map(|body| Watched::wrap(body, None, step)))
        }
        Err(error) => {
            step.fail(NO_ANSWER);
            Err(error)
        }
    }
}

/// The answer to a request ends, and the request's span with it.
impl Ending for Active {
    fn ended(&mut self, end: End) {
        if end == End::Failed {
            self.fail(BROKEN_OFF);
        }
    }
}

/// A guest's write to the store: waits for it, and records it if it is known which request it is for.
pub(crate) fn write<T, W: Future<Output = Result<T, store::Error>>>(
    tracer: Option<&Tracer>,
    guest: &Guest,
    operation: &'static str,
    write: W,
) -> impl Future<Output = W::Output> + use<T, W> {
    let mut step = tracer.and_then(|tracer| {
        let parent = guest.trace()?;
        let mut step =
            tracer.span(parent.child(), Some(parent.span), Kind::Internal, || format!("store {operation}"))?;
        step.text("db.operation.name", operation);
        Some(step)
    });
    async move {
        let written = write.await;
        if let (Err(error), Some(step)) = (&written, &mut step) {
            step.fail(crate::store_error_code(error).as_str());
        }
        written
    }
}

/// The step that follows: a new one if steps are recorded, else still the one that the request came with.
fn next(tracer: Option<&Tracer>, headers: &mut HeaderMap, at: TraceContext) -> TraceContext {
    let here = if tracer.is_some() { at.child() } else { at };
    let came = headers.contains_key(TRACEPARENT);
    if !came {
        // It was added to another trace, if to any.
        headers.remove(TRACESTATE);
    }
    if tracer.is_some() || !came {
        headers.insert(TRACEPARENT, here.to_header());
    }
    here
}

fn count_resends(step: &mut Active, hop: &Hop) {
    if hop.resends > 0 {
        step.number("http.request.resend_count", hop.resends);
    }
}
