//! A store on disk that nobody has open: nothing is written, nothing is kept in memory.

use std::path::Path;

use txlog::{Entry, OpenError, Operation, Recovery};

use crate::Bucket;

/// One change of one key, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The number of the write it belongs to; the key's version.
    pub sequence: u64,
    /// The bucket's name.
    pub bucket: &'a str,
    /// The key.
    pub key: &'a str,
    /// The value it was given; none if it was deleted.
    pub value: Option<&'a [u8]>,
}

impl<'a> Change<'a> {
    /// Reads what [`DurableStore`](super::DurableStore) writes.
    pub(super) fn read(entry: Entry<'a>) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (bucket, key, value) = match entry.operation {
            Operation::Set { bucket, key, value } => (bucket, key, Some(value)),
            Operation::Delete { bucket, key } => (bucket, key, None),
        };
        let bucket = std::str::from_utf8(bucket).map_err(|_| "a bucket's name that is not UTF-8")?;
        let key = std::str::from_utf8(key).map_err(|_| "a key that is not UTF-8")?;
        Ok(Self { sequence: entry.sequence, bucket, key, value })
    }
}

/// Checks all of a store, and says what opening it would do.
///
/// # Errors
/// What opening it would fail with.
pub fn verify(folder: &Path) -> Result<Recovery, OpenError> {
    dump(folder, |_| Ok(()))
}

/// As [`verify`], and shows all changes: first each key of the snapshot, then those since, in order.
///
/// # Errors
/// As [`verify`]; changes before the damage were shown. [`OpenError::Refused`] if `show` fails, which ends it.
pub fn dump(
    folder: &Path,
    mut show: impl FnMut(Change<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
) -> Result<Recovery, OpenError> {
    txlog::dump(folder, |_, entry| {
        let change = Change::read(entry)?;
        change.bucket.parse::<Bucket>()?;
        show(change)
    })
}
