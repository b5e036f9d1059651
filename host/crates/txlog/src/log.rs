//! The log being written: one owner, no thread. Appends records to a buffer, commits them with one write, rotates
//! segments. A sync that no commit waits for can be done elsewhere, as a [`Flush`].
//!
//! Bounded by its owner, who commits before the buffer is too large. Open files: the segment, the watermark, the lock.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use crate::config::{Config, SyncPolicy};
use crate::error::CommitError;
use crate::files::{self, Contents, FileHeader, Name};
use crate::frame::{self, Kind, Seed};
use crate::limits::Limits;
use crate::medium::{File, Folder, Lock};
use crate::record::Record;
use crate::recovery::LogFile;
use crate::scan::Place;
use crate::watermark::Watermark;

/// A file that is not written any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) bytes: u64,
}

impl Closed {
    pub(crate) fn new(name: String, file: LogFile) -> Self {
        Self { name, id: file.id, bytes: file.bytes }
    }
}

/// What recovery makes a log of.
pub(crate) struct Parts {
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) lock: Lock,
    pub(crate) identity: u64,
    /// The segment to write on.
    pub(crate) file: Box<dyn File>,
    pub(crate) segment: u64,
    /// Its end; all before it is synced.
    pub(crate) end: Place,
    pub(crate) watermark: Box<dyn File>,
    pub(crate) closed: Vec<Closed>,
    pub(crate) snapshot: Option<u64>,
}

/// A log, ready to be written on.
pub(crate) struct Log {
    folder: Arc<dyn Folder>,
    _lock: Lock,
    identity: u64,
    seed: Seed,
    limits: Limits,
    policy: SyncPolicy,
    segment_bytes: u64,
    /// A buffer that a commit has made larger than this is given back.
    buffer_bytes: usize,

    file: Arc<dyn File>,
    segment: u64,
    /// Where the next commit goes: all before it was written.
    end: Place,
    watermark: Box<dyn File>,
    /// In the segment being written: all before it was synced.
    synced: Place,
    /// Since when there has been something to sync that the flush under way doesn't.
    unsynced_since: Option<Instant>,
    /// The flush under way.
    flushing: Option<Flushing>,
    /// Snapshot and segments before the one being written.
    closed: Vec<Closed>,
    /// Id of the snapshot.
    snapshot: Option<u64>,

    /// What will be committed, and how far it leads.
    buffer: Vec<u8>,
    sequence: u64,
    chain: u32,

    /// Why nothing may be written any more.
    failure: Option<Arc<str>>,
}

/// What a commit has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    /// How long the sync took, if there was one.
    pub(crate) sync: Option<Duration>,
}

/// A sync of what was committed before it began, for another thread to run. The log goes on meanwhile.
pub(crate) struct Flush {
    file: Arc<dyn File>,
    outcome: SyncSender<io::Result<Duration>>,
}

impl Flush {
    /// Syncs: may take long.
    pub(crate) fn run(self) {
        let start = Instant::now();
        let outcome = self.file.sync().map(|()| start.elapsed());
        // The log may be gone.
        let _ = self.outcome.send(outcome);
    }
}

/// A [`Flush`] that has begun.
struct Flushing {
    /// What it makes durable.
    end: Place,
    outcome: Receiver<io::Result<Duration>>,
}

/// What a write fails with. Full is what the owner may survive.
enum WriteError {
    Full,
    Other { action: String, source: io::Error },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full"),
            Self::Other { action, source } => write!(f, "can't {action}: {source}"),
        }
    }
}

/// Creates a segment, complete, with its name. It is durable when the folder was synced.
pub(crate) fn create_segment(folder: &dyn Folder, header: &FileHeader) -> io::Result<()> {
    let name = files::segment(header.id);
    let temporary = files::temporary(&name);
    let file = folder.create(&temporary)?;
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    folder.rename(&temporary, &name)
}

/// Whether there is no room, or none for this user or file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Log {
    /// Begins to write.
    pub(crate) fn new(config: &Config, parts: Parts) -> io::Result<Self> {
        let Parts { folder, lock, identity, file, segment, end, watermark, closed, snapshot } = parts;
        let log = Self {
            folder,
            _lock: lock,
            identity,
            seed: Seed::of(identity),
            limits: config.limits,
            policy: config.sync,
            segment_bytes: config.segment_bytes,
            buffer_bytes: config.commit_bytes.saturating_mul(2),
            file: file.into(),
            segment,
            end,
            watermark,
            synced: end,
            unsynced_since: None,
            flushing: None,
            closed,
            snapshot,
            buffer: Vec::new(),
            sequence: end.sequence,
            chain: end.chain,
            failure: None,
        };
        log.write_watermark()?;
        Ok(log)
    }

    /// Begins the record after the last one that was appended. It must be given back to [`append`](Log::append).
    pub(crate) fn record(&mut self) -> Record {
        Record::begin(std::mem::take(&mut self.buffer), self.sequence + 1, self.limits)
    }

    /// Adds a record to the next commit, unless it is empty.
    pub(crate) fn append(&mut self, record: Record) {
        let (mut buffer, start) = record.finish();
        if let Some(start) = start {
            self.sequence += 1;
            let (sequence, durable, previous) = (self.sequence, self.synced.sequence, self.chain);
            self.chain = frame::seal(&mut buffer[start..], Kind::Record, sequence, durable, previous, self.seed);
        }
        self.buffer = buffer;
    }

    /// Bytes that the next commit will write.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Writes all that was appended, and syncs it if that is the policy. If it fails, nothing of it was written, or the
    /// log has failed for good.
    pub(crate) fn commit(&mut self) -> Result<Written, CommitError> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(Written::default());
        }
        let bytes = self.buffer.len() as u64;
        let outcome = self.write();
        self.buffer.clear();
        self.buffer.shrink_to(self.buffer_bytes);
        match outcome {
            Ok(()) => {
                self.end = Place { offset: self.end.offset + bytes, sequence: self.sequence, chain: self.chain };
                self.unsynced_since.get_or_insert_with(Instant::now);
                let sync = if self.policy == SyncPolicy::Always { self.sync()? } else { None };
                Ok(Written { bytes, sync })
            }
            Err(WriteError::Full) => {
                (self.sequence, self.chain) = (self.end.sequence, self.end.chain);
                Err(CommitError::Full)
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Writes the buffer at the end of a segment that has room for it. If the disk is full, nothing of it is left.
    fn write(&mut self) -> Result<(), WriteError> {
        let header = FileHeader::LEN as u64;
        if self.end.offset > header && self.end.offset + self.buffer.len() as u64 > self.segment_bytes {
            self.begin_segment()?;
        }
        let Err(source) = self.file.write_at(&self.buffer, self.end.offset) else { return Ok(()) };
        let name = files::segment(self.segment);
        if !is_full(&source) {
            return Err(WriteError::Other { action: format!("write {name}"), source });
        }
        self.settle()?;
        // Synced, so that no part of it can come back under what is written next.
        let cut = self.file.set_len(self.end.offset).and_then(|()| self.file.sync());
        cut.map_err(|source| WriteError::Other { action: format!("truncate {name}"), source })?;
        Err(WriteError::Full)
    }

    /// Makes all that was committed durable. Returns how long the disk took, if there was anything to sync.
    pub(crate) fn sync(&mut self) -> Result<Option<Duration>, CommitError> {
        self.check()?;
        self.sync_segment().map_err(|error| self.fail(&error))
    }

    fn sync_segment(&mut self) -> Result<Option<Duration>, WriteError> {
        let flushed = self.settle()?;
        if self.unsynced_since.is_none() {
            return Ok(flushed);
        }
        let start = Instant::now();
        let outcome = self.file.sync().map(|()| start.elapsed());
        self.unsynced_since = None;
        self.note_sync(self.end, outcome).map(Some)
    }

    /// Begins to make durable what was committed, if there is anything that a flush under way doesn't. When it has run,
    /// [`end_flush`](Log::end_flush) takes note of it.
    pub(crate) fn begin_flush(&mut self) -> Option<Flush> {
        if self.flushing.is_some() || self.unsynced_since.take().is_none() {
            return None;
        }
        let (outcome, receiver) = mpsc::sync_channel(1);
        self.flushing = Some(Flushing { end: self.end, outcome: receiver });
        Some(Flush { file: Arc::clone(&self.file), outcome })
    }

    /// Ends the flush under way, if there is one; waits until it has run. Returns how long it took.
    pub(crate) fn end_flush(&mut self) -> Result<Option<Duration>, CommitError> {
        self.check()?;
        self.settle().map_err(|error| self.fail(&error))
    }

    fn settle(&mut self) -> Result<Option<Duration>, WriteError> {
        let Some(Flushing { end, outcome }) = self.flushing.take() else { return Ok(None) };
        let outcome = outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs has ended")));
        self.note_sync(end, outcome).map(Some)
    }

    /// The segment was synced up to there, or was not.
    fn note_sync(&mut self, end: Place, outcome: io::Result<Duration>) -> Result<Duration, WriteError> {
        let action = || format!("sync {}", files::segment(self.segment));
        let took = outcome.map_err(|source| WriteError::Other { action: action(), source })?;
        self.synced = end;
        // The watermark is no more than a witness, but a medium that fails to write it fails.
        self.write_watermark().map_err(|source| WriteError::Other { action: "write the watermark".into(), source })?;
        Ok(took)
    }

    /// When the policy wants the next sync; `None` if there is nothing to sync, no hurry, or a flush under way.
    pub(crate) fn sync_due(&self) -> Option<Instant> {
        match (self.policy, self.unsynced_since) {
            (SyncPolicy::Every(interval), Some(since)) if self.failure.is_none() && self.flushing.is_none() => {
                since.checked_add(interval)
            }
            _ => None,
        }
    }

    /// Ends the segment and begins a new one, unless this one is still empty. Returns the id of the one being written.
    /// Only when nothing is pending.
    pub(crate) fn rotate(&mut self) -> Result<u64, CommitError> {
        self.check()?;
        debug_assert!(self.buffer.is_empty(), "records belong to the segment they were made for");
        if self.end.offset > FileHeader::LEN as u64 {
            self.begin_segment().map_err(|error| match error {
                WriteError::Full => CommitError::Full,
                error => self.fail(&error),
            })?;
        }
        Ok(self.segment)
    }

    fn begin_segment(&mut self) -> Result<(), WriteError> {
        self.sync_segment()?;
        let header = FileHeader {
            contents: Contents::Segment,
            identity: self.identity,
            id: self.segment + 1,
            first_sequence: self.end.sequence + 1,
            chain: self.end.chain,
        };
        let name = files::segment(header.id);
        let other = |source| WriteError::Other { action: format!("create {name}"), source };
        match create_segment(&*self.folder, &header) {
            Err(error) if is_full(&error) => {
                self.remove_unfinished(&name).map_err(other)?;
                return Err(WriteError::Full);
            }
            created => created.map_err(other)?,
        }
        // From here on it may be there after a crash, so there is no way back.
        self.folder.sync().map_err(other)?;
        let file = self.folder.open_to_write(&name).map_err(other)?;
        let bytes = self.end.offset;
        self.closed.push(Closed { name: files::segment(self.segment), id: self.segment, bytes });
        self.file = file.into();
        self.segment = header.id;
        self.end.offset = FileHeader::LEN as u64;
        self.synced = self.end;
        self.write_watermark().map_err(|source| WriteError::Other { action: "write the watermark".into(), source })
    }

    /// After the creation of a segment found no room: removes what there is of it. Fails if it got its name
    /// nevertheless.
    fn remove_unfinished(&self, name: &str) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        gone(self.folder.remove(&files::temporary(name)))?;
        gone(self.folder.open(name).and_then(|_| Err(io::ErrorKind::AlreadyExists.into())))
    }

    fn write_watermark(&self) -> io::Result<()> {
        let (segment, Place { offset, sequence, .. }) = (self.segment, self.synced);
        let watermark = Watermark { identity: self.identity, segment, offset, sequence };
        match self.watermark.write_at(&watermark.encode(), 0) {
            // An old one does no harm.
            Err(error) if is_full(&error) => Ok(()),
            written => written,
        }
    }

    /// Begins what a snapshot needs to know: call after [`rotate`](Log::rotate).
    pub(crate) fn snapshot_header(&self) -> FileHeader {
        FileHeader {
            contents: Contents::Snapshot,
            identity: self.identity,
            id: self.segment,
            first_sequence: self.end.sequence + 1,
            chain: self.seed.chain(),
        }
    }

    /// Id of the snapshot, if there is one.
    pub(crate) fn snapshot(&self) -> Option<u64> {
        self.snapshot
    }

    /// Snapshot and segments that are not written any more.
    pub(crate) fn closed(&self) -> &[Closed] {
        &self.closed
    }

    /// A snapshot was made, and these files were removed since it makes them superfluous.
    pub(crate) fn replace(&mut self, snapshot: Closed, removed: &[Closed]) {
        self.snapshot = Some(snapshot.id);
        self.closed.retain(|file| !removed.contains(file));
        self.closed.push(snapshot);
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.end.offset + self.closed.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Number of segments.
    pub(crate) fn segments(&self) -> u64 {
        1 + self.closed.iter().filter(|file| matches!(Name::parse(&file.name), Name::Segment(_))).count() as u64
    }

    /// Sequence of the last record that was written, and of the last that was synced.
    pub(crate) fn sequences(&self) -> (u64, u64) {
        (self.end.sequence, self.synced.sequence)
    }

    pub(crate) fn folder(&self) -> Arc<dyn Folder> {
        Arc::clone(&self.folder)
    }

    /// Why nothing may be written any more.
    pub(crate) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    fn check(&self) -> Result<(), CommitError> {
        match &self.failure {
            Some(reason) => Err(CommitError::Failed(Arc::clone(reason))),
            None => Ok(()),
        }
    }

    /// From now on, everything fails.
    fn fail(&mut self, error: &WriteError) -> CommitError {
        let reason: Arc<str> = format!("{error} (in {})", self.folder.path().display()).into();
        self.failure = Some(Arc::clone(&reason));
        CommitError::Failed(reason)
    }
}
