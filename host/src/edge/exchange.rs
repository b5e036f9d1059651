//! One request from its head to the last byte of its answer, for the metrics, the access log and its trace.
//!
//! It begins when the head is there and ends, whatever happens, when it is dropped: the answer's body holds it, and lets
//! go of it with the last byte that it hands to the connection, or when the client has gone. Nothing else is counted, so
//! each request is counted once. A client that goes before there is an answer is counted as 499, as nginx does.

use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

use ::trace::TraceContext;
use runtime::{Routed, Target, Worker, answer_length};

use super::Edge;
use super::failing::Failing;
use super::trace::Step;
use crate::facts::{Failure, Kind};
use crate::metrics::Handler;
use crate::telemetry::Entry;

/// What is counted when there was nobody to answer.
const CLIENT_GONE: u16 = 499;

/// Says which instance answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// A request under way. Ends when it is dropped.
pub(super) struct Exchange {
    edge: Arc<Edge>,
    worker: usize,
    begun: Instant,
    method: Method,
    target: Option<PathAndQuery>,
    id: HeaderValue,
    /// What its route says; until it has one, that it has none.
    handler: &'static Handler,
    component: Option<Arc<str>>,
    answer: Option<Answer>,
    step: Step,
}

/// What is known of the answer.
struct Answer {
    status: u16,
    instance: Option<HeaderValue>,
    /// Bytes of its body, if that was announced. An answer without a body by definition has none.
    length: Option<u64>,
    bytes: u64,
    ended: bool,
    /// If it is a failure.
    failing: Option<Box<Failing>>,
}

impl Exchange {
    pub(super) fn begin<B>(edge: &Arc<Edge>, worker: &Worker, request: &Request<B>, id: &HeaderValue) -> Self {
        edge.metrics.came(worker.id());
        Self {
            edge: edge.clone(),
            worker: worker.id(),
            begun: Instant::now(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            id: id.clone(),
            handler: edge.unrouted,
            component: None,
            answer: None,
            step: Step::begin(worker.tracer(), request),
        }
    }

    /// It has a route. Returns where that leads.
    pub(super) fn routed(&mut self, Routed { target, component, handler }: Routed) -> Target {
        self.handler = self.edge.metrics.handler(&handler);
        self.component = Some(component);
        target
    }

    /// It goes on with these headers. Returns where it is in its trace.
    pub(super) fn goes_on(&self, headers: &mut HeaderMap) -> Option<TraceContext> {
        self.step.go_on(headers)
    }

    /// The host answers it itself.
    pub(super) fn answered_here(&mut self, handler: &'static Handler) {
        self.step.forget();
        self.handler = handler;
    }

    /// The answer's head is there.
    pub(super) fn answered<B>(&mut self, answer: &Response<B>) {
        let (status, headers) = (answer.status(), answer.headers());
        self.answer = Some(Answer {
            status: status.as_u16(),
            instance: headers.get(SERVED_BY).cloned(),
            length: answer_length(&self.method, status, headers),
            bytes: 0,
            ended: false,
            failing: Failing::by_head(answer),
        });
    }

    /// These bytes of the answer's body go to the connection.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if let Some(answer) = &mut self.answer {
            answer.bytes += bytes.len() as u64;
            if let Some(failing) = &mut answer.failing {
                failing.read(bytes);
            }
        }
    }

    /// The answer's body broke off, and it wasn't the client's doing.
    pub(super) fn broke_off(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.failing = Some(Failing::by_body());
        }
    }

    /// The answer's body has ended as it should.
    pub(super) fn ended(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.ended = true;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.edge.metrics.left(self.worker);
        let duration = self.begun.elapsed();
        let (status, bytes, complete) = match &self.answer {
            Some(Answer { status, length, bytes, ended, .. }) => (*status, *bytes, *ended || *length == Some(*bytes)),
            None => (CLIENT_GONE, 0, false),
        };
        self.handler.record(self.worker, &self.method, status, duration);
        self.step.end(&self.method, self.handler.name(), self.component.as_deref(), status);
        let reason = self.answer.as_ref().and_then(|answer| Some(answer.failing.as_ref()?.reason()));
        if let (Some(reason), Some(Answer { instance, .. })) = (&reason, &self.answer) {
            let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
            self.edge.failures.record(Failure {
                kind: Kind::Request,
                reason: reason.clone(),
                request_id: text(&self.id),
                component: self.component.as_deref().map(str::to_owned),
                instance: instance.as_ref().and_then(text),
                handler: Some(self.handler.name().to_owned()),
                status: Some(status),
                ..Failure::default()
            });
        }
        if let Some(access) = &self.edge.access {
            access.write(&Entry {
                method: self.method.as_str(),
                path: self.target.as_ref().map_or("*", PathAndQuery::path),
                request_id: self.id.as_bytes(),
                trace: self.step.trace(),
                component: self.component.as_deref(),
                instance: self.answer.as_ref().and_then(|answer| Some(answer.instance.as_ref()?.as_bytes())),
                handler: self.handler.name(),
                reason: reason.as_deref(),
                status,
                duration,
                bytes,
                complete,
            });
        }
    }
}
