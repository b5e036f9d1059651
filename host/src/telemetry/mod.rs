//! Log output: one event a line on stderr, as JSON or as text.
//!
//! Set up once by the composition root, before anything else logs. Events go through a bounded queue to a thread of its
//! own (`writer`), so that a stalled stderr never stalls a worker.

mod writer;

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Deserialize;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

pub(crate) use writer::{Flush, Guard};

/// Libraries whose own events interest nobody below `warn`, whatever level the host logs at: they would log every
/// request, or every function they compile.
const QUIET: [&str; 8] =
    ["cranelift", "cranelift_codegen", "h2", "hyper", "hyper_util", "reqwest", "rustls", "wasmtime"];

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least important events that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// Nothing.
    Off,
    /// What failed and needs somebody.
    Error,
    /// What went wrong and was dealt with.
    Warn,
    /// What an operator wants to have read afterwards.
    #[default]
    Info,
    /// What a developer of components wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogFormat {
    /// Text on a terminal, JSON for machines.
    pub(crate) fn fitting() -> Self {
        if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => Level::ERROR.into(),
            LogLevel::Warn => Level::WARN.into(),
            LogLevel::Info => Level::INFO.into(),
            LogLevel::Debug => Level::DEBUG.into(),
            LogLevel::Trace => Level::TRACE.into(),
        }
    }
}

/// Starts logging for the whole process. Dropping the guard writes what is queued, so keep it until the end of `main`.
/// A second call changes nothing and its guard does nothing.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> Guard {
    let (make_writer, guard) = writer::start(std::io::stderr());
    let level = LevelFilter::from(level);
    let quiet = level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(level).with_targets(QUIET.map(|library| (library, quiet)));

    let layer = tracing_subscriber::fmt::layer().with_writer(make_writer);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    // Only a second call can fail, and the first one's settings stay.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    guard
}
