//! Compaction: a snapshot of the live keys replaces the segments before it. FORMAT.md has the steps, what a crash
//! leaves at each, and why a snapshot is right that is made while the state changes.
//!
//! Runs in a thread of its own, one at a time; its memory is bounded by a page of the state, and what it has written
//! but not synced by [`SLICE`], so that the writers' syncs don't have to wait for much of it. It rests between slices,
//! unless the log grows so fast meanwhile that the disk would fill up.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::files::{self, FileHeader};
use crate::frame::{self, HEADER, Kind, MAX_PAYLOAD, Seed};
use crate::log::Closed;
use crate::medium::{File, Folder};
use crate::record::{self, COUNT, Entry};
use crate::recovery::{END_LEN, LogFile};
use crate::state::State;

/// About so many bytes of keys and values are in a frame of a snapshot.
const PAGE: usize = 64 * 1024;
/// After so many bytes the snapshot is synced.
const SLICE: u64 = 64 * 1024;
/// Between slices the disk belongs to the writers: for so many times what a slice took, and not longer than that.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(50);

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
    /// There is no room for a new segment; it is tried again later.
    #[error("can't begin a new segment: the disk is full")]
    Full,
    /// The log is being closed, or it has failed.
    #[error("the log is closed")]
    Closed,
}

/// A compaction to be done.
pub(crate) struct Plan<S> {
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) state: Arc<S>,
    pub(crate) header: FileHeader,
    /// Files that the snapshot makes superfluous.
    pub(crate) old: Vec<Closed>,
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Leaving most of the disk's time to the writers.
    Gentle,
    /// As fast as the disk can: the writers are filling it.
    Fast,
    /// Not at all.
    Stop,
}

/// What it came to, as far as it came.
pub(crate) struct Done {
    /// The new snapshot, if it has its name.
    pub(crate) snapshot: Option<Closed>,
    pub(crate) keys: u64,
    pub(crate) removed: Vec<Closed>,
    pub(crate) outcome: Result<(), CompactError>,
}

fn error(action: &str, name: &str) -> impl FnOnce(io::Error) -> CompactError {
    let action = format!("{action} {name}");
    move |source| CompactError::Io { action, source: Arc::new(source) }
}

impl<S: State> Plan<S> {
    /// Makes the snapshot. `sync` makes the log durable and returns its last sequence; `pace` is asked for each page,
    /// with the bytes that were written so far.
    pub(crate) fn run(self, sync: impl FnOnce() -> Result<u64, CompactError>, pace: impl Fn(u64) -> Pace) -> Done {
        let mut done = Done { snapshot: None, keys: 0, removed: Vec::new(), outcome: Ok(()) };
        done.outcome = self.install(sync, pace, &mut done).and_then(|()| self.remove_old(&mut done.removed));
        done
    }

    fn install(
        &self,
        sync: impl FnOnce() -> Result<u64, CompactError>,
        pace: impl Fn(u64) -> Pace,
        done: &mut Done,
    ) -> Result<(), CompactError> {
        let name = files::snapshot(self.header.id);
        let temporary = files::temporary(&name);
        let written = self.write(&temporary, sync, pace).and_then(|written| {
            self.folder.rename(&temporary, &name).map_err(error("create", &name))?;
            Ok(written)
        });
        let (keys, bytes) = written.inspect_err(|_| {
            // If that fails too, opening the log will remove it.
            let _ = self.folder.remove(&temporary);
        })?;
        done.keys = keys;
        done.snapshot = Some(Closed::new(name, LogFile { id: self.header.id, bytes }));
        self.folder.sync().map_err(error("sync", "the folder"))
    }

    fn write(
        &self,
        temporary: &str,
        sync: impl FnOnce() -> Result<u64, CompactError>,
        pace: impl Fn(u64) -> Pace,
    ) -> Result<(u64, u64), CompactError> {
        let file = self.folder.create(temporary).map_err(error("create", temporary))?;
        let mut writer = Writer::begin(&*file, &self.header).map_err(error("write", temporary))?;
        let mut after = None;
        let mut slice = Instant::now();
        loop {
            let pace = pace(writer.offset);
            if pace == Pace::Stop {
                return Err(CompactError::Closed);
            }
            after = self.state.visit(after.as_ref(), PAGE, &mut |entry| writer.add(entry));
            let synced = writer.end_page().map_err(error("write", temporary))?;
            if after.is_none() {
                break;
            }
            if synced {
                if pace == Pace::Gentle {
                    thread::sleep((slice.elapsed() * REST).min(LONGEST_REST));
                }
                slice = Instant::now();
            }
        }
        let last = sync()?;
        writer.end(last).map_err(error("write", temporary))
    }

    fn remove_old(&self, removed: &mut Vec<Closed>) -> Result<(), CompactError> {
        for old in &self.old {
            self.folder.remove(&old.name).map_err(error("remove", &old.name))?;
            removed.push(old.clone());
        }
        self.folder.sync().map_err(error("sync", "the folder"))
    }
}

/// A snapshot being written.
struct Writer<'f> {
    file: &'f dyn File,
    seed: Seed,
    /// Where the next frame goes.
    offset: u64,
    /// How much of that is synced.
    synced: u64,
    sequence: u64,
    chain: u32,
    keys: u64,
    /// The frame being made.
    buffer: Vec<u8>,
    count: u32,
    /// What went wrong while the state was visited.
    failure: Option<io::Error>,
}

impl<'f> Writer<'f> {
    fn begin(file: &'f dyn File, header: &FileHeader) -> io::Result<Self> {
        file.write_at(&header.encode(), 0)?;
        let mut writer = Self {
            file,
            seed: Seed::of(header.identity),
            offset: FileHeader::LEN as u64,
            synced: 0,
            sequence: 0,
            chain: header.chain,
            keys: 0,
            buffer: Vec::new(),
            count: 0,
            failure: None,
        };
        writer.begin_page();
        Ok(writer)
    }

    fn begin_page(&mut self) {
        self.buffer.clear();
        self.buffer.resize(HEADER + COUNT, 0);
        self.count = 0;
    }

    fn add(&mut self, entry: Entry<'_>) {
        let len = self.buffer.len() - HEADER + entry.operation.encoded_len() + record::AS_OF;
        if self.count > 0 && len > MAX_PAYLOAD {
            let written = self.end_page();
            self.failure = self.failure.take().or(written.err());
        }
        record::encode(&mut self.buffer, &entry.operation, Some(entry.sequence));
        self.count += 1;
        self.keys += 1;
    }

    /// Returns whether that ended a slice.
    fn end_page(&mut self) -> io::Result<bool> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.count > 0 {
            self.buffer[HEADER..HEADER + COUNT].copy_from_slice(&self.count.to_le_bytes());
            self.write(Kind::Record)?;
            self.begin_page();
        }
        if self.offset - self.synced < SLICE {
            return Ok(false);
        }
        self.file.sync()?;
        self.synced = self.offset;
        Ok(true)
    }

    fn write(&mut self, kind: Kind) -> io::Result<()> {
        self.sequence += 1;
        self.chain = frame::seal(&mut self.buffer, kind, self.sequence, 0, self.chain, self.seed);
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        Ok(())
    }

    /// Returns the number of keys, and that of bytes.
    fn end(mut self, last: u64) -> io::Result<(u64, u64)> {
        self.buffer.clear();
        self.buffer.resize(HEADER + END_LEN, 0);
        self.buffer[HEADER..HEADER + 8].copy_from_slice(&self.keys.to_le_bytes());
        self.buffer[HEADER + 8..].copy_from_slice(&last.to_le_bytes());
        self.write(Kind::End)?;
        self.file.sync()?;
        Ok((self.keys, self.offset))
    }
}

/// When to try again after compactions that failed.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// How long to wait after the next failure, and until when to wait now.
    pause: Duration,
    until: Option<Instant>,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(300);

    pub(crate) fn note(&mut self, failed: bool, now: Instant) {
        if !failed {
            *self = Self::default();
            return;
        }
        self.pause = (self.pause * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(now + self.pause);
    }

    pub(crate) fn may(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_failures_grows_and_ends_with_a_success() {
        let (mut retry, now) = (Retry::default(), Instant::now());
        assert!(retry.may(now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            retry.note(true, now);
            assert!(!retry.may(now + Duration::from_secs(seconds) - Duration::from_nanos(1)), "{seconds}");
            assert!(retry.may(now + Duration::from_secs(seconds)), "{seconds}");
        }
        retry.note(false, now);
        assert!(retry.may(now));
    }
}
