//! Traces: which are recorded, and how they get to whoever collects them.
//!
//! - [`settings`]: OpenTelemetry's environment variables.
//! - [`exporter`]: sends what has been recorded, outside of the workers.
//! - [`otlp`]: what that looks like on the wire.
//!
//! What is recorded, and of which steps, is `trace`'s and `runtime`'s; here is only the way out. Without an endpoint there
//! is neither a tracer nor an exporter.

mod exporter;
mod otlp;
mod settings;

pub(crate) use exporter::Exporter;
pub(crate) use settings::Settings;
