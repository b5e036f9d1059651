//! A span: one step of a request, from when it begins until its guard is dropped.
//!
//! What bounds it: names and texts are cut to [`LONGEST`]; whoever makes one sets a handful of attributes.

use std::borrow::Cow;
use std::time::Instant;

use http::Method;

use crate::context::{SpanId, TraceId};
use crate::tracer::Tracer;

/// Bytes of a name or a text that are kept.
const LONGEST: usize = 256;

/// A step that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace that it belongs to.
    pub trace: TraceId,
    /// Itself.
    pub id: SpanId,
    /// The step that it is a part of; none for the first.
    pub parent: Option<SpanId>,
    /// What is done, for people.
    pub name: Cow<'static, str>,
    /// On which side of a conversation.
    pub kind: Kind,
    /// When it began.
    pub begun: Instant,
    /// When it ended.
    pub ended: Instant,
    /// What else is known, by OpenTelemetry's names where it has any.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub failed: bool,
}

/// On which side of a conversation a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Within the host.
    Internal,
    /// It answers a request.
    Server,
    /// It sends one.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

/// A step that is under way. Dropping it ends it, however it went.
#[derive(Debug)]
#[must_use = "dropping it ends the span"]
pub struct Active {
    tracer: Tracer,
    /// Taken at its end. In a box: it is carried around by requests, most of which have none.
    span: Option<Box<Span>>,
}

impl Active {
    pub(crate) fn new(tracer: Tracer, span: Span) -> Self {
        let name = shortened(span.name);
        Self { tracer, span: Some(Box::new(Span { name, ..span })) }
    }

    /// It is called otherwise than was thought.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.span {
            span.name = shortened(name.into());
        }
    }

    /// Says a text of it.
    pub fn text(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        self.set(name, Value::Text(shortened(value.into())));
    }

    /// Says a number of it.
    pub fn number(&mut self, name: &'static str, value: impl Into<i64>) {
        self.set(name, Value::Number(value.into()));
    }

    /// It began later than was thought.
    pub fn begun(&mut self, at: Instant) {
        if let Some(span) = &mut self.span {
            span.begun = at;
        }
    }

    /// It has an answer with this status. From 500 on, that is a failure.
    pub fn answered(&mut self, status: u16) {
        self.number("http.response.status_code", status);
        if status >= 500 {
            self.fail(status.to_string());
        }
    }

    /// It failed, for this reason in a word. The first reason stays.
    pub fn fail(&mut self, reason: impl Into<Cow<'static, str>>) {
        if self.span.as_ref().is_some_and(|span| !span.failed) {
            self.text("error.type", reason);
        }
        if let Some(span) = &mut self.span {
            span.failed = true;
        }
    }

    /// It never was.
    pub fn forget(&mut self) {
        self.span = None;
    }

    /// It ended then.
    pub fn end_at(&mut self, at: Instant) {
        if let Some(mut span) = self.span.take() {
            span.ended = at;
            self.tracer.ended(span);
        }
    }

    fn set(&mut self, name: &'static str, value: Value) {
        if let Some(span) = &mut self.span {
            span.attributes.push((name, value));
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.end_at(Instant::now());
    }
}

/// A method as spans name it: all that aren't standard are one, so that there are few.
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

fn shortened(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= LONGEST {
        return text;
    }
    text[..text.floor_char_boundary(LONGEST)].to_owned().into()
}
