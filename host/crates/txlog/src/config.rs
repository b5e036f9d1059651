//! What a log can be told, and whom it tells what happens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::compaction::{CompactError, Compaction};
use crate::limits::Limits;

/// When what was written is synced: what an acknowledged write survives. None loses anything when the process is
/// killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before it is acknowledged: an acknowledged write survives a power cut.
    #[default]
    Always,
    /// At most so much later. A power cut can lose what was acknowledged meanwhile.
    Every(Duration),
    /// When the segment is full, and on closing. A power cut can lose up to a segment of acknowledged writes.
    Never,
}

/// How a log works. The defaults are those for a server.
#[derive(Clone)]
pub struct Config {
    /// How long keys and values may be.
    pub limits: Limits,
    /// When what was written is synced.
    pub sync: SyncPolicy,
    /// A segment that would become larger than this is followed by a new one.
    pub segment_bytes: u64,
    /// Jobs that may wait; one more is rejected.
    pub queue_jobs: usize,
    /// Bytes of jobs that may wait, as told by those who submit them. A job larger than this is let in if it is alone.
    pub queue_bytes: usize,
    /// Jobs that share one write and sync.
    pub commit_jobs: usize,
    /// A commit that has reached so many bytes takes no further job.
    pub commit_bytes: usize,
    /// Compaction begins when there is more garbage than this, in bytes…
    pub compact_bytes: u64,
    /// … and more than this share of what the live keys take, in percent.
    pub compact_percent: u64,
    /// Is told what happens.
    pub observer: Arc<dyn Observer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            sync: SyncPolicy::default(),
            segment_bytes: 64 * 1024 * 1024,
            queue_jobs: 65_536,
            queue_bytes: 64 * 1024 * 1024,
            commit_jobs: 1024,
            commit_bytes: 8 * 1024 * 1024,
            compact_bytes: 64 * 1024 * 1024,
            compact_percent: 50,
            observer: Arc::new(()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("limits", &self.limits).field("sync", &self.sync).finish_non_exhaustive()
    }
}

/// Is told what happens to a log, by its threads: it must return soon.
pub trait Observer: Send + Sync + 'static {
    /// Opening takes a while: called about once a second, but not in the first.
    fn replaying(&self, _progress: Progress) {}

    /// Writes became as durable as the policy says.
    fn committed(&self, _commit: Committed) {}

    /// A compaction has ended. If it failed, it is tried again later.
    fn compacted(&self, _outcome: &Result<Compaction, CompactError>) {}

    /// A write or sync failed for another reason than a full disk, or the log's thread panicked. No write will be
    /// acknowledged any more; the owner should say why and end. Called at most once.
    fn failed(&self, _reason: &str) {}
}

/// Nobody wants to know.
impl Observer for () {}

/// How far opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were replayed.
    pub done: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// One write that several jobs shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Jobs that were waiting for it, those included that wrote nothing.
    pub jobs: usize,
    /// Bytes that were written.
    pub bytes: u64,
    /// How long the sync took, if there was one.
    pub sync: Option<Duration>,
}
