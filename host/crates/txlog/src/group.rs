//! Group commit: one thread owns the log, and all jobs that wait share one write and one sync.
//!
//! While the thread syncs, the jobs for the next commit gather in the queue, which is bounded in jobs and bytes; as
//! much again may be in the thread's hands. A commit is bounded in the same way, so that its first job doesn't wait for
//! long. The thread sleeps when there is nothing to do. Another runs the syncs of an interval, one at a time, which no
//! commit waits for.

mod flusher;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;

use crate::compaction::{CompactError, Compaction};
use crate::config::{Config, Observer, Progress, SyncPolicy};
use crate::error::{CommitError, OpenError};
use crate::medium::{Disk, Folder};
use crate::record::Entry;
use crate::recovery::{Location, Visitor};
use crate::repair;
use crate::report::Recovery;
use crate::state::State;

use worker::Worker;

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
    shared: Arc<Shared<S::Job>>,
    queue_jobs: usize,
    queue_bytes: usize,
    worker: Option<JoinHandle<Result<(), CommitError>>>,
}

impl<S: State> TxLog<S> {
    /// Opens the log in a folder, which is created if there is none, and replays it into `state`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, and whether it is [damage](OpenError::is_damage).
    pub fn open(folder: &Path, config: Config, state: Arc<S>) -> Result<(Self, Recovery), OpenError> {
        let folder = Disk::create(folder).map_err(OpenError::io(format!("open the folder {}", folder.display())))?;
        Self::open_in(Arc::new(folder), config, state)
    }

    /// As [`open`](TxLog::open), on another medium.
    ///
    /// # Errors
    /// As [`open`](TxLog::open).
    pub fn open_in(folder: Arc<dyn Folder>, config: Config, state: Arc<S>) -> Result<(Self, Recovery), OpenError> {
        let mut replay = Replay { state: &*state, observer: &*config.observer };
        let (log, recovery) = repair::open(folder, &config, &mut replay)?;
        let shared = Arc::new(Shared::default());
        let (queue_jobs, queue_bytes) = (config.queue_jobs, config.queue_bytes);
        let flusher = match config.sync {
            SyncPolicy::Every(_) => Some(flusher::start(Arc::clone(&shared))),
            SyncPolicy::Always | SyncPolicy::Never => None,
        };
        let flusher = flusher.transpose().map_err(OpenError::io("start the thread that syncs the log"))?;
        let worker = Worker::new(log, state, config, Arc::clone(&shared), flusher);
        let worker = thread::Builder::new().name("txlog".into()).spawn(|| worker.run());
        let worker = worker.map_err(OpenError::io("start the log's thread"))?;
        Ok((Self { shared, queue_jobs, queue_bytes, worker: Some(worker) }, recovery))
    }

    /// Queues a job that will write about `bytes`: what [`Limits::check_all`](crate::Limits::check_all) returned. It is
    /// decided and answered later, by the log's thread. Never waits for the disk.
    ///
    /// # Errors
    /// Gives the job back when it can't be queued.
    pub fn submit(&self, job: S::Job, bytes: usize) -> Result<(), Rejected<S::Job>> {
        let mut queue = self.shared.queue();
        if let Some(reason) = queue.refuses() {
            return Err(Rejected { job, reason });
        }
        let full = queue.jobs.len() >= self.queue_jobs || queue.bytes.saturating_add(bytes) > self.queue_bytes;
        if full && !queue.jobs.is_empty() {
            return Err(Rejected { job, reason: Reason::Busy });
        }
        queue.bytes += bytes;
        queue.jobs.push_back(job);
        self.shared.wake(queue);
        Ok(())
    }

    /// How the log is doing; may be a moment old.
    pub fn stats(&self) -> Stats {
        *self.shared.stats()
    }

    /// Compacts now, or joins the compaction that is running. Returns when it's done.
    ///
    /// # Errors
    /// Says why there is no new snapshot; the log goes on.
    pub fn compact(&self) -> Result<Compaction, CompactError> {
        let (done, outcome) = mpsc::channel();
        self.shared.command(Command::Compact(done))?;
        outcome.recv().map_err(|_| CompactError::Closed)?
    }

    /// Ends what was queued, syncs and ends the log's threads. A compaction that is running is given up.
    ///
    /// # Errors
    /// [`CommitError::Failed`] if what was written may not be synced.
    pub fn close(mut self) -> Result<(), CommitError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), CommitError> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let mut queue = self.shared.queue();
        queue.closing = true;
        self.shared.wake(queue);
        worker.join().unwrap_or_else(|_| Err(CommitError::Failed(PANICKED.into())))
    }
}

impl<S: State> Drop for TxLog<S> {
    fn drop(&mut self) {
        // Who wants to know closes it.
        let _ = self.end();
    }
}

impl<S: State> fmt::Debug for TxLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxLog").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

const PANICKED: &str = "the log's thread panicked";

/// Leads the state back to where it was.
struct Replay<'a, S> {
    state: &'a S,
    observer: &'a dyn Observer,
}

impl<S: State> Visitor for Replay<'_, S> {
    fn entry(&mut self, _: Location<'_>, entry: Entry<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.state.replay(entry)
    }

    fn progress(&mut self, progress: Progress) {
        self.observer.replaying(progress);
    }
}

/// What the log's thread shares with everybody else.
struct Shared<J> {
    queue: Mutex<Queue<J>>,
    /// Wakes the log's thread.
    wake: Condvar,
    stats: Mutex<Stats>,
}

impl<J> Default for Shared<J> {
    fn default() -> Self {
        Self { queue: Mutex::default(), wake: Condvar::new(), stats: Mutex::default() }
    }
}

/// What waits for the log's thread.
struct Queue<J> {
    jobs: VecDeque<J>,
    /// As told by those who submitted them.
    bytes: usize,
    commands: Vec<Command>,
    /// Nothing may be added any more.
    closing: bool,
    /// Why nothing may be added any more.
    failure: Option<Arc<str>>,
    /// The thread waits to be woken.
    sleeping: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let (jobs, commands) = (VecDeque::new(), Vec::new());
        Self { jobs, bytes: 0, commands, closing: false, failure: None, sleeping: false }
    }
}

impl<J> Queue<J> {
    fn refuses(&self) -> Option<Reason> {
        match &self.failure {
            Some(reason) => Some(Reason::Failed(Arc::clone(reason))),
            None => self.closing.then_some(Reason::Closed),
        }
    }
}

/// What the log's thread is asked to do besides jobs.
enum Command {
    /// Begin a compaction, or join the one that is running.
    Compact(Sender<Result<Compaction, CompactError>>),
    /// Make all that was committed durable and say how far that is.
    Sync(Sender<u64>),
    /// A flush has ended.
    Flushed,
    /// The compaction has ended.
    Compacted,
}

impl<J> Shared<J> {
    /// The locks are held for moments, in which nothing panics.
    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, if it sleeps. Waking it costs a system call.
    fn wake(&self, mut queue: MutexGuard<'_, Queue<J>>) {
        if std::mem::take(&mut queue.sleeping) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    fn command(&self, command: Command) -> Result<(), CompactError> {
        let mut queue = self.queue();
        if queue.refuses().is_some() {
            return Err(CompactError::Closed);
        }
        queue.commands.push(command);
        self.wake(queue);
        Ok(())
    }

    /// Tells the thread that something has ended, also when nothing may be added any more: somebody may wait for it.
    fn report(&self, ended: Command) {
        let mut queue = self.queue();
        queue.commands.push(ended);
        self.wake(queue);
    }
}
