//! A request's first step here, in whatever trace it belongs to.
//!
//! Without a tracer, a client's trace goes through: its header on to the component, its id to the log.

use http::{HeaderMap, Method, Request};
use trace::{Active, InvalidContext, Kind, TraceContext, TraceId, Tracer, method_name};

/// The step, and its span if the trace is recorded. That ends when it is dropped.
pub(super) struct Step {
    /// Itself; without a tracer, that of whoever sent the request.
    context: Option<TraceContext>,
    /// What came with the request was none.
    invalid: Option<InvalidContext>,
    span: Option<Active>,
}

impl Step {
    pub(super) fn begin<B>(tracer: Option<&Tracer>, request: &Request<B>) -> Self {
        let (came, invalid) = match TraceContext::of_headers(request.headers()) {
            Ok(came) => (came, None),
            Err(invalid) => (None, Some(invalid)),
        };
        let Some(tracer) = tracer else { return Self { context: came, invalid, span: None } };
        let context = tracer.enter(came);
        // Its name is known when it has a route.
        let span = tracer.span(context, came.map(|came| came.span), Kind::Server, || "");
        Self { context: Some(context), invalid, span }
    }

    /// The request goes on with these headers, as a part of this step.
    pub(super) fn go_on(&self, headers: &mut HeaderMap) -> Option<TraceContext> {
        if let Some(invalid) = self.invalid {
            invalid.remove(headers);
        }
        self.context
    }

    /// The trace, for the log.
    pub(super) fn trace(&self) -> Option<TraceId> {
        self.context.map(|context| context.trace)
    }

    /// It isn't worth a span.
    pub(super) fn forget(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.forget();
        }
    }

    /// Says what is known at its end.
    pub(super) fn end(&mut self, method: &Method, handler: &str, component: Option<&str>, status: u16) {
        let Some(mut span) = self.span.take() else { return };
        let method = method_name(method);
        span.rename(format!("{method} {handler}"));
        span.text("http.request.method", method);
        span.text("url.scheme", "http");
        span.text("hostler.handler", handler.to_owned());
        if let Some(component) = component {
            span.text("hostler.component", component.to_owned());
        }
        span.answered(status);
    }
}
