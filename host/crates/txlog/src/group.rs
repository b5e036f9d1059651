//! Group commit.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::compaction::{CompactError, Compaction};
use crate::config::Config;
use crate::error::OpenError;
use crate::medium::Folder;
use crate::report::Recovery;
use crate::state::State;

/// A write did not happen, or isn't known to have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// There is no room on the disk. The write did not happen; later ones may, when there is room.
    #[error("the disk is full")]
    Full,
    /// The log has failed, now or earlier: it is not known whether the write will be there after a restart.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
}

/// A job that was not taken, and why.
pub struct Rejected<J> {
    /// The job.
    pub job: J,
    /// Why it was not taken.
    pub reason: Reason,
}

/// Why a job is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// [`Config::queue_jobs`] or [`Config::queue_bytes`] are waiting already.
    #[error("too many writes are waiting")]
    Busy,
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
    /// The log has failed.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
}

impl<J> fmt::Debug for Rejected<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// How a log is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of snapshot and segments.
    pub log_bytes: u64,
    /// Bytes that a snapshot of what is live would have, about.
    pub live_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Sequence of the last record that was written.
    pub last_sequence: u64,
    /// Sequence of the last record that was synced.
    pub synced_sequence: u64,
    /// How long the last sync took.
    pub last_sync: Duration,
    /// Whether a compaction is running.
    pub compacting: bool,
}

/// A transaction log with its own thread, which all writers share. Dropping it closes it.
pub struct TxLog<S: State> {
    state: Arc<S>,
}

impl<S: State> TxLog<S> {
    /// Opens the log in a folder, which is created if there is none, and replays it into `state`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, and whether it is [damage](OpenError::is_damage).
    pub fn open(_folder: &Path, _config: Config, _state: Arc<S>) -> Result<(Self, Recovery), OpenError> {
        unimplemented!()
    }

    /// As [`open`](TxLog::open), on another medium.
    ///
    /// # Errors
    /// As [`open`](TxLog::open).
    pub fn open_in(_folder: Arc<dyn Folder>, _config: Config, _state: Arc<S>) -> Result<(Self, Recovery), OpenError> {
        unimplemented!()
    }

    /// Queues a job that will write about `bytes`: what [`Limits::check_all`](crate::Limits::check_all) returned. It is
    /// decided and answered later, by the log's thread. Never waits for the disk.
    ///
    /// # Errors
    /// Gives the job back when it can't be queued.
    pub fn submit(&self, _job: S::Job, _bytes: usize) -> Result<(), Rejected<S::Job>> {
        unimplemented!()
    }

    /// How the log is doing; may be a moment old.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Compacts now, or joins the compaction that is running. Returns when it's done.
    ///
    /// # Errors
    /// Says why there is no new snapshot; the log goes on.
    pub fn compact(&self) -> Result<Compaction, CompactError> {
        unimplemented!()
    }

    /// Ends what was queued, syncs and ends the log's threads. A compaction that is running is given up.
    ///
    /// # Errors
    /// [`CommitError::Failed`] if what was written may not be synced.
    pub fn close(self) -> Result<(), CommitError> {
        let _ = &self.state;
        unimplemented!()
    }
}
