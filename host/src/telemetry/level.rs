//! The least important events that are written. Can be changed while the process runs.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::reload;

/// Libraries whose own events interest nobody below `warn`, whatever level the host logs at: they would log every
/// request, or every function they compile.
const QUIET: [&str; 8] =
    ["cranelift", "cranelift_codegen", "h2", "hyper", "hyper_util", "reqwest", "rustls", "wasmtime"];

/// The least important events that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
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

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| {
            let all = Self::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let all: Vec<_> = all.map(|level| level.get_name().to_owned()).collect();
            format!("it must be one of {}", all.join(", "))
        })
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// The level of the process. Clones are the same.
#[derive(Clone)]
pub(crate) struct Level {
    current: Arc<AtomicU8>,
    filter: reload::Handle<Targets, Registry>,
}

impl Level {
    /// A level, and the filter that obeys it.
    pub(crate) fn new(level: LogLevel) -> (Self, reload::Layer<Targets, Registry>) {
        let (layer, filter) = reload::Layer::new(targets(level));
        (Self { current: Arc::new(AtomicU8::new(level as u8)), filter }, layer)
    }

    /// The level now.
    pub(crate) fn get(&self) -> LogLevel {
        let current = self.current.load(Relaxed);
        let all = LogLevel::value_variants().iter().copied();
        all.into_iter().find(|level| *level as u8 == current).unwrap_or_default()
    }

    /// Whether such events are written now. Costs next to nothing.
    pub(super) fn allows(&self, level: LogLevel) -> bool {
        level as u8 <= self.current.load(Relaxed)
    }

    /// Sets the level.
    pub(crate) fn set(&self, level: LogLevel) {
        // Fails only if nobody logs.
        let _ = self.filter.reload(targets(level));
        self.current.store(level as u8, Relaxed);
    }
}

fn targets(level: LogLevel) -> Targets {
    let level = LevelFilter::from(level);
    let quiet = level.min(LevelFilter::WARN);
    Targets::new().with_default(level).with_targets(QUIET.map(|library| (library, quiet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_it_was_set_to() {
        let (level, _filter) = Level::new(LogLevel::Info);
        assert!(level.allows(LogLevel::Error) && level.allows(LogLevel::Info) && !level.allows(LogLevel::Debug));
        for other in LogLevel::value_variants() {
            level.set(*other);
            assert_eq!(level.get(), *other);
        }
        level.set(LogLevel::Off);
        assert!(!level.allows(LogLevel::Error));
    }
}
