//! What a record consists of, and how its payload is written. FORMAT.md has the bytes.

use crate::frame;
use crate::limits::{LimitError, Limits, MAX_RECORD};

/// Bytes of the number of operations at the start of a payload.
pub(crate) const COUNT: usize = 4;
/// Bytes of an operation before its bucket, key and value.
const FIXED: usize = 8;
/// Bytes of the sequence that an operation has in a snapshot.
const AS_OF: usize = 8;

const SET: u8 = 1;
const DELETE: u8 = 2;
const SET_AS_OF: u8 = 3;

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The key has this value from now on.
    Set {
        /// The bucket's name.
        bucket: &'a [u8],
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key has no value from now on.
    Delete {
        /// The bucket's name.
        bucket: &'a [u8],
        /// The key.
        key: &'a [u8],
    },
}

/// An operation, and the sequence of the record that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Grows by one with each record, over restarts and compactions.
    pub sequence: u64,
    /// What happened.
    pub operation: Operation<'a>,
}

impl<'a> Operation<'a> {
    /// The bucket, the key, and the value: empty for a delete.
    pub(crate) fn parts(&self) -> (&'a [u8], &'a [u8], &'a [u8]) {
        match *self {
            Self::Set { bucket, key, value } => (bucket, key, value),
            Self::Delete { bucket, key } => (bucket, key, &[]),
        }
    }

    /// Bytes that it takes in a record.
    pub(crate) fn encoded_len(&self) -> usize {
        let (bucket, key, value) = self.parts();
        FIXED + bucket.len() + key.len() + value.len()
    }
}

/// Bytes of a snapshot of so many keys, whose buckets, keys and values have so many bytes together; its header and its
/// frames' are not counted.
pub(crate) fn snapshot_len(keys: u64, bytes: u64) -> u64 {
    keys * (FIXED + AS_OF) as u64 + bytes
}

/// A record being made: the operations of one transaction, in order. Without any, it isn't written.
///
/// It is built in the buffer that is written to the segment, behind the records before it.
#[derive(Debug)]
pub struct Record {
    buffer: Vec<u8>,
    start: usize,
    operations: u32,
    sequence: u64,
    limits: Limits,
}

impl Record {
    /// Begins a record at the end of `buffer`, leaving room for a frame's header.
    pub(crate) fn begin(mut buffer: Vec<u8>, sequence: u64, limits: Limits) -> Self {
        let start = buffer.len();
        buffer.resize(start + frame::HEADER + COUNT, 0);
        Self { buffer, start, operations: 0, sequence, limits }
    }

    /// The sequence it will have, if anything is written: the version of the keys it sets.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether there is no operation in it.
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// Adds: `key` of `bucket` has `value`.
    ///
    /// # Errors
    /// Those of [`Limits::check_all`]; the record is then as it was before.
    pub fn set(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), LimitError> {
        self.push(Operation::Set { bucket, key, value })
    }

    /// Adds: `key` of `bucket` has no value.
    ///
    /// # Errors
    /// Those of [`Limits::check_all`]; the record is then as it was before.
    pub fn delete(&mut self, bucket: &[u8], key: &[u8]) -> Result<(), LimitError> {
        self.push(Operation::Delete { bucket, key })
    }

    /// Takes all operations out again.
    pub fn clear(&mut self) {
        self.buffer.truncate(self.start + frame::HEADER + COUNT);
        self.operations = 0;
    }

    fn push(&mut self, operation: Operation<'_>) -> Result<(), LimitError> {
        self.limits.check(&operation)?;
        let len = self.buffer.len() - self.start - frame::HEADER + operation.encoded_len();
        if len > MAX_RECORD {
            return Err(LimitError::RecordTooLarge { len });
        }
        encode(&mut self.buffer, &operation, None);
        self.operations += 1;
        Ok(())
    }

    /// Gives the buffer back: with the payload complete and still no header at the place returned, or as it was if the
    /// record is empty.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Option<usize>) {
        if self.operations == 0 {
            self.buffer.truncate(self.start);
            return (self.buffer, None);
        }
        let count = self.start + frame::HEADER;
        self.buffer[count..count + COUNT].copy_from_slice(&self.operations.to_le_bytes());
        (self.buffer, Some(self.start))
    }
}

/// Appends an operation that is within the format's limits. `as_of` makes it one of a snapshot.
pub(crate) fn encode(buffer: &mut Vec<u8>, operation: &Operation<'_>, as_of: Option<u64>) {
    let (bucket, key, value) = operation.parts();
    let kind = match (operation, as_of) {
        (Operation::Delete { .. }, _) => DELETE,
        (Operation::Set { .. }, None) => SET,
        (Operation::Set { .. }, Some(_)) => SET_AS_OF,
    };
    let mut fixed = [0; FIXED];
    fixed[0] = kind;
    fixed[1] = u8::try_from(bucket.len()).expect("a bucket within the limits");
    fixed[2..4].copy_from_slice(&u16::try_from(key.len()).expect("a key within the limits").to_le_bytes());
    fixed[4..].copy_from_slice(&u32::try_from(value.len()).expect("a value within the limits").to_le_bytes());
    buffer.extend_from_slice(&fixed);
    if let Some(sequence) = as_of {
        buffer.extend_from_slice(&sequence.to_le_bytes());
    }
    buffer.extend_from_slice(bucket);
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
}
