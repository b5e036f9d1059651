//! Compaction: a snapshot of the live keys replaces the segments before it.

use std::io;
use std::sync::Arc;

use thiserror::Error;

/// What a compaction came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Keys in the snapshot.
    pub keys: u64,
    /// Bytes of all files before.
    pub before: u64,
    /// Bytes of all files after.
    pub after: u64,
}

/// Why there is no new snapshot. The log is as good as before.
#[derive(Clone, Debug, Error)]
pub enum CompactError {
    /// The operating system refused something; it is tried again later.
    #[error("can't {action}: {source}")]
    Io {
        /// What was tried, with the file's name.
        action: String,
        /// What it said.
        source: Arc<io::Error>,
    },
    /// The log is being closed, or it has failed.
    #[error("the log is closed")]
    Closed,
}
