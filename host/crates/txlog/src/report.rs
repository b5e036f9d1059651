//! What was found when a log was read.

use std::fmt;

/// What was found, and what was done about it (or would be, if it was only verified).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Keys that came from the snapshot.
    pub keys: u64,
    /// Records that were replayed on top.
    pub records: u64,
    /// Segments that they were in.
    pub segments: u64,
    /// Sequence of the last record; 0 if there has never been one.
    pub last_sequence: u64,
    /// Bytes of snapshot and segments, torn tail not counted.
    pub bytes: u64,
    /// The tail that was cut off.
    pub torn: Option<TornTail>,
    /// Acknowledged records that are missing because a file is shorter than it was when they were synced: somebody cut
    /// it, or the medium lost what it had confirmed. An error, though the log opens.
    pub lost: u64,
    /// Files of a rotation or compaction that was cut short, now deleted.
    pub leftovers: Vec<String>,
    /// Files that don't belong to a log, left alone: worth a warning.
    pub foreign: Vec<String>,
}

/// Bytes at the end of the last segment that no writer had been told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Name of the segment.
    pub file: String,
    /// Where it was cut.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
    /// Name of the file in the same folder that they were saved in; `None` if the disk was full.
    pub saved_as: Option<String>,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, bytes, saved_as } = self;
        write!(f, "{file} ends in {bytes} bytes of an unfinished write at offset {offset}, ")?;
        match saved_as {
            Some(name) => write!(f, "saved as {name}"),
            None => f.write_str("not saved since the disk is full"),
        }
    }
}
