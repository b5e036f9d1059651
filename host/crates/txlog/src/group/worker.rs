//! The log's thread: takes jobs from the queue, commits them, answers them; starts compactions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Command, PANICKED, Shared, Stats};
use crate::compaction::{CompactError, Compaction, Done, Pace, Plan, Retry};
use crate::config::{Committed, Config};
use crate::error::CommitError;
use crate::log::{Flush, Log, Written};
use crate::record;
use crate::state::State;

/// How fast writers can go on at least, in bytes a second, while a compaction can't keep up with them.
const BEHIND_RATE: u64 = 16 << 20;

/// From which strain on a compaction goes as fast as it can. From 1 on, writers wait.
const HURRY: f64 = 0.75;

/// The share of a snapshot that counts as written from the start, so that its beginning is no emergency.
const HEAD_START: f64 = 0.1;

/// How many jobs a second make it likely that others are about to come.
const MANY: f64 = 5_000.0;

/// How often a writer that waits for a compaction looks how far it is.
const LOOK: Duration = Duration::from_millis(1);

pub(super) struct Worker<S: State> {
    log: Log,
    state: Arc<S>,
    config: Config,
    shared: Arc<Shared<S::Job>>,
    /// Taken from the queue, and to be committed.
    jobs: VecDeque<S::Job>,
    /// Part of a commit, to be answered.
    decided: Vec<S::Job>,
    /// When jobs were last taken from the queue, and how many.
    taken: (Instant, usize),
    last_sync: Duration,
    /// Runs the syncs of an interval; `None` if the policy is another.
    flusher: Option<SyncSender<Flush>>,
    compaction: Option<Running>,
    retry: Retry,
}

/// A compaction that is running.
struct Running {
    thread: JoinHandle<Done>,
    /// How fast it has to be.
    schedule: Arc<Schedule>,
    /// Who wants to know how it ends.
    waiting: Vec<Sender<Result<Compaction, CompactError>>>,
}

/// How far a compaction has to be when the log has grown so much, for the bound of disk use to hold: 2.5 times what is live
/// and two segments, with the old files, the snapshot beside them, and what is written meanwhile.
struct Schedule {
    /// Bytes of all files when it began.
    before: u64,
    /// Bytes that it has to write, roughly.
    live: u64,
    /// Bytes by which the log may grow until it ends. At least a segment, if it began too late.
    allowance: u64,
    /// Bytes that it has written.
    written: AtomicU64,
}

impl Schedule {
    fn new(before: u64, live: u64, segment_bytes: u64) -> Self {
        let bound = live.saturating_mul(5) / 2 + 2 * segment_bytes;
        let allowance = bound.saturating_sub(before).saturating_sub(live).max(segment_bytes);
        Self { before, live, allowance, written: AtomicU64::new(0) }
    }

    /// The share of the allowance that is used up, for each share of the snapshot that is written. At 1 it is just in time;
    /// `log_bytes` are those of all files of the log.
    fn strain(&self, log_bytes: u64) -> f64 {
        let used = log_bytes.saturating_sub(self.before) as f64 / self.allowance as f64;
        let done = self.written.load(Relaxed) as f64 / self.live.max(1) as f64;
        used / done.max(HEAD_START)
    }
}

impl<S: State> Worker<S> {
    pub(super) fn new(
        log: Log,
        state: Arc<S>,
        config: Config,
        shared: Arc<Shared<S::Job>>,
        flusher: Option<SyncSender<Flush>>,
    ) -> Self {
        let (jobs, decided) = (VecDeque::new(), Vec::new());
        let (last_sync, compaction, retry) = (Duration::ZERO, None, Retry::default());
        let taken = (Instant::now(), 0);
        let worker = Self { log, state, config, shared, jobs, decided, taken, last_sync, flusher, compaction, retry };
        worker.update_stats();
        worker
    }

    /// Works until the log is closed, or panics as the state does.
    pub(super) fn run(mut self) -> Result<(), CommitError> {
        let _alarm = Alarm { shared: Arc::clone(&self.shared), config: self.config.clone() };
        loop {
            let (commands, closing) = self.wait();
            while !self.jobs.is_empty() {
                self.commit();
                self.sync_if_due();
            }
            for command in commands {
                self.obey(command);
            }
            self.sync_if_due();
            self.compact_if_due();
            self.update_stats();
            if closing {
                break;
            }
        }
        if let Some(running) = self.compaction.take() {
            self.end_compaction(running);
        }
        let synced = self.log.sync();
        self.update_stats();
        synced.map(drop)
    }

    /// Waits until there is something to do, and takes it.
    fn wait(&mut self) -> (Vec<Command>, bool) {
        let mut queue = self.shared.queue();
        while queue.jobs.is_empty() && queue.commands.is_empty() && !queue.closing {
            queue.sleeping = true;
            match self.log.sync_due() {
                None => queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let woken = self.shared.wake.wait_timeout(queue, left);
                    queue = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        queue.sleeping = false;
        let (last, jobs) = self.taken;
        if jobs as f64 > MANY * last.elapsed().as_secs_f64() {
            // The first of many writers has woken this thread, often in its own place on a processor. Those that are about to
            // write get there first, and share the commit.
            drop(queue);
            thread::yield_now();
            queue = self.shared.queue();
        }
        self.taken = (Instant::now(), queue.jobs.len());
        queue.bytes = 0;
        std::mem::swap(&mut queue.jobs, &mut self.jobs);
        (std::mem::take(&mut queue.commands), queue.closing)
    }

    fn sync_if_due(&mut self) {
        let due = self.log.sync_due().is_some_and(|due| due <= Instant::now());
        if due && let (Some(flusher), Some(flush)) = (&self.flusher, self.log.begin_flush()) {
            // If its thread is gone, the log learns that as it waits for the outcome.
            let _ = flusher.send(flush);
        }
    }

    /// Makes all that was committed durable. Returns whether it is.
    fn sync(&mut self) -> bool {
        let synced = self.log.sync();
        self.note_sync(synced)
    }

    fn note_sync(&mut self, synced: Result<Option<Duration>, CommitError>) -> bool {
        let synced = synced.map(|sync| Written { bytes: 0, sync });
        self.note(&synced, 0);
        synced.is_ok()
    }

    /// Decides as many jobs as fit into a commit, commits them and answers them.
    fn commit(&mut self) {
        if let Some(reason) = self.log.failure() {
            for job in self.jobs.drain(..) {
                self.state.answer(job, Err(CommitError::Failed(Arc::clone(reason))));
            }
            return;
        }
        while self.decided.len() < self.config.commit_jobs && self.log.pending_bytes() < self.config.commit_bytes {
            let Some(mut job) = self.jobs.pop_front() else { break };
            let mut record = self.log.record();
            self.state.decide(&mut job, &mut record);
            self.log.append(record);
            self.decided.push(job);
        }
        let outcome = self.log.commit();
        match outcome {
            Ok(_) => self.state.publish(),
            Err(_) => self.state.discard(),
        }
        self.note(&outcome, self.decided.len());
        for job in self.decided.drain(..) {
            self.state.answer(job, outcome.clone().map(drop));
        }
        if let Ok(Written { bytes, .. }) = outcome {
            self.let_compaction_catch_up(bytes);
        }
    }

    /// Waits after a commit of so many bytes while a compaction is behind: writers that are faster than it would fill the
    /// disk. Bounded by the time that the commit takes at [`BEHIND_RATE`].
    fn let_compaction_catch_up(&self, bytes: u64) {
        let Some(running) = &self.compaction else { return };
        let until = Instant::now() + Duration::from_secs(1).mul_f64(bytes as f64 / BEHIND_RATE as f64);
        while running.schedule.strain(self.log.bytes()) > 1.0 && !running.thread.is_finished() && Instant::now() < until
        {
            thread::sleep(LOOK);
        }
    }

    /// Tells the observer what became of a commit or sync.
    fn note(&mut self, outcome: &Result<Written, CommitError>, jobs: usize) {
        match outcome {
            Ok(Written { bytes: 0, sync: None }) => {}
            Ok(Written { bytes, sync }) => {
                self.last_sync = sync.unwrap_or(self.last_sync);
                self.config.observer.committed(Committed { jobs, bytes: *bytes, sync: *sync });
            }
            Err(CommitError::Full) => {}
            Err(CommitError::Failed(reason)) => self.fail(reason),
        }
    }

    /// No more jobs; the first time, the observer is told.
    fn fail(&self, reason: &Arc<str>) {
        let first = self.shared.queue().failure.replace(Arc::clone(reason)).is_none();
        if first {
            self.config.observer.failed(reason);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Compact(done) => match &mut self.compaction {
                Some(running) => running.waiting.push(done),
                None => self.start_compaction(Some(done)),
            },
            Command::Sync(done) => {
                if self.sync() {
                    // It may have given up.
                    let _ = done.send(self.log.sequences().1);
                }
            }
            Command::Flushed => {
                let flushed = self.log.end_flush();
                self.note_sync(flushed);
            }
            Command::Compacted => {
                if let Some(running) = self.compaction.take() {
                    self.end_compaction(running);
                }
            }
        }
    }

    fn compact_if_due(&mut self) {
        if self.log.failure().is_some() || self.compaction.is_some() {
            return;
        }
        let live = self.live_bytes();
        let garbage = self.log.bytes().saturating_sub(live);
        let share = live.saturating_mul(self.config.compact_percent) / 100;
        let due = garbage > self.config.compact_bytes && garbage > share;
        if due && self.retry.may(Instant::now()) {
            self.start_compaction(None);
        }
    }

    fn live_bytes(&self) -> u64 {
        let live = self.state.live();
        record::snapshot_len(live.keys, live.bytes)
    }

    /// Rotates the log and starts a thread that makes the snapshot.
    fn start_compaction(&mut self, done: Option<Sender<Result<Compaction, CompactError>>>) {
        let before = self.log.bytes();
        let segment = match self.log.rotate() {
            Ok(segment) => segment,
            Err(error) => {
                let outcome = match error {
                    CommitError::Full => CompactError::Full,
                    CommitError::Failed(reason) => {
                        self.fail(&reason);
                        CompactError::Closed
                    }
                };
                return self.tell(done.as_slice(), &Err(outcome));
            }
        };
        if self.log.snapshot() == Some(segment) {
            // Nothing was written since.
            let keys = self.state.live().keys;
            return self.tell(done.as_slice(), &Ok(Compaction { keys, before, after: before }));
        }
        let header = self.log.snapshot_header();
        let (folder, state, old) = (self.log.folder(), Arc::clone(&self.state), self.log.closed().to_vec());
        let plan = Plan { folder, state, header, old };
        let shared = Arc::clone(&self.shared);
        let schedule = Arc::new(Schedule::new(before, self.live_bytes(), self.config.segment_bytes));
        let followed = Arc::clone(&schedule);
        let thread = thread::Builder::new().name("txlog-compact".into()).spawn(move || {
            let sync = || {
                let (done, synced) = mpsc::channel();
                shared.command(Command::Sync(done))?;
                synced.recv().map_err(|_| CompactError::Closed)
            };
            let pace = |written: u64| {
                if shared.queue().refuses().is_some() {
                    return Pace::Stop;
                }
                followed.written.store(written, Relaxed);
                if followed.strain(shared.stats().log_bytes) > HURRY { Pace::Fast } else { Pace::Gentle }
            };
            let done = plan.run(sync, pace);
            shared.report(Command::Compacted);
            done
        });
        match thread {
            Ok(thread) => self.compaction = Some(Running { thread, schedule, waiting: done.into_iter().collect() }),
            Err(source) => {
                let error = CompactError::Io { action: "start a thread".into(), source: Arc::new(source) };
                self.tell(done.as_slice(), &Err(error));
            }
        }
    }

    fn end_compaction(&mut self, running: Running) {
        let Running { thread, schedule, waiting } = running;
        let done = match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        if let Some(snapshot) = done.snapshot {
            self.log.replace(snapshot, &done.removed);
        }
        let after = self.log.bytes();
        self.update_stats();
        self.tell(&waiting, &done.outcome.map(|()| Compaction { keys: done.keys, before: schedule.before, after }));
    }

    /// Tells everybody how a compaction has ended.
    fn tell(
        &mut self,
        waiting: &[Sender<Result<Compaction, CompactError>>],
        outcome: &Result<Compaction, CompactError>,
    ) {
        self.retry.note(outcome.is_err(), Instant::now());
        for waiting in waiting {
            // It may have given up.
            let _ = waiting.send(outcome.clone());
        }
        self.config.observer.compacted(outcome);
    }

    fn update_stats(&self) {
        let (last_sequence, synced_sequence) = self.log.sequences();
        *self.shared.stats() = Stats {
            log_bytes: self.log.bytes(),
            live_bytes: self.live_bytes(),
            segments: self.log.segments(),
            last_sequence,
            synced_sequence,
            last_sync: self.last_sync,
            compacting: self.compaction.is_some(),
        };
    }
}

/// Rings when the thread panics, as a state may: nobody else would notice.
struct Alarm<J> {
    shared: Arc<Shared<J>>,
    config: Config,
}

impl<J> Drop for Alarm<J> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut queue = self.shared.queue();
            let first = queue.failure.replace(PANICKED.into()).is_none();
            // Whoever waits for them learns that they are gone.
            let (jobs, commands) = (std::mem::take(&mut queue.jobs), std::mem::take(&mut queue.commands));
            drop(queue);
            drop((jobs, commands));
            if first {
                self.config.observer.failed(PANICKED);
            }
        }
    }
}
