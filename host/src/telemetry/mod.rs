//! The log: one event a line on stderr, as JSON or as text.
//!
//! Set up once by the composition root, before anything else logs. There are two kinds of lines: events, by `tracing`, and
//! one for each request ([`access`]), formatted by hand because there are so many. Both go through a bounded buffer to a
//! thread of its own (`writer`), so that a stalled stderr never stalls a worker.

mod access;
mod level;
mod writer;

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, Registry};

pub(crate) use access::{AccessLog, Entry};
pub(crate) use level::{Level, LogLevel};
pub(crate) use writer::{Dropped, Flush};

use writer::{Guard, Lines};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// Text on a terminal, JSON for machines.
    pub(crate) fn fitting() -> Self {
        if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json }
    }
}

/// The log of the process. Dropping it writes what is queued, so keep it until the end of `main`.
#[must_use = "dropping it ends the log"]
pub(crate) struct Log {
    format: LogFormat,
    level: Level,
    lines: Lines,
    guard: Guard,
}

/// Starts logging for the whole process. A second call changes nothing, and what it returns writes only the lines of
/// requests.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> Log {
    let (lines, guard) = writer::start(std::io::stderr(), format);
    let (level, filter) = Level::new(level);
    let layer = layer(format, std::io::stderr().is_terminal(), lines.clone());
    // Only a second call can fail, and the first one's settings stay.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Log { format, level, lines, guard }
}

/// How events are written.
fn layer<W>(format: LogFormat, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => layer.with_ansi(colours).boxed(),
    }
}

/// The time, as `tracing` writes it.
fn now(line: &mut String) {
    // Writing to a String can't fail.
    let _ = SystemTime.format_time(&mut Writer::new(line));
}

impl Log {
    /// The least important events that are written, to be changed while the process runs.
    pub(crate) fn level(&self) -> Level {
        self.level.clone()
    }

    /// The log of requests.
    pub(crate) fn access(&self) -> AccessLog {
        AccessLog::new(self.format, self.level.clone(), self.lines.clone())
    }

    /// How many lines were dropped so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.lines.dropped()
    }

    /// To write what is queued before the log is dropped.
    pub(crate) fn flush(&self) -> Flush {
        self.guard.flush()
    }
}
