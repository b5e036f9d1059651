//! Traces: what a request carries from one service to the next, and what is told of each step of it.
//!
//! - [`TraceContext`]: a request's place in a trace, as W3C's `traceparent` writes it.
//! - [`Sampler`]: which traces are recorded.
//! - [`Tracer`]: begins spans, and keeps those that have ended until somebody exports them.
//! - [`Span`]: one step; [`Active`] while it lasts.
//!
//! Knows nothing of components, and sends nothing itself. Where no tracer is there is nothing to pay for; a trace that isn't
//! sampled costs its ids and its header.

mod context;
mod sampler;
mod span;
mod tracer;

pub use context::{InvalidContext, SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
pub use sampler::{NotASampler, Root, Sampler};
pub use span::{Active, Kind, Span, Value, method_name};
pub use tracer::{Capacity, Tracer};
