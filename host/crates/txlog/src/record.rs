//! What a record consists of, and how its payload is written. FORMAT.md has the bytes.

use crate::frame;
use crate::limits::{LimitError, Limits, MAX_RECORD};

/// Bytes of the number of operations at the start of a payload.
pub(crate) const COUNT: usize = 4;
/// Bytes of an operation before its bucket, key and value.
const FIXED: usize = 8;
/// Bytes of the sequence that an operation has in a snapshot.
pub(crate) const AS_OF: usize = 8;

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

/// The operations of a payload, in order. Each comes with the sequence it is as of, if it has one.
pub(crate) struct Operations<'a> {
    rest: &'a [u8],
    count: u32,
}

/// A payload isn't what FORMAT.md says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Operations<'a> {
    pub(crate) fn of(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (count, rest) = payload.split_first_chunk::<COUNT>().ok_or(Malformed)?;
        match u32::from_le_bytes(*count) {
            0 => Err(Malformed),
            count => Ok(Self { rest, count }),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn operation(&mut self) -> Result<(Operation<'a>, Option<u64>), Malformed> {
        let fixed = self.take(FIXED)?;
        let key_len = u16::from_le_bytes([fixed[2], fixed[3]]);
        let value_len = frame::u32_at(fixed, 4) as usize;
        let as_of = match fixed[0] {
            SET_AS_OF => Some(frame::u64_at(self.take(AS_OF)?, 0)),
            _ => None,
        };
        let bucket = self.take(fixed[1].into())?;
        let key = self.take(key_len.into())?;
        let value = self.take(value_len)?;
        let operation = match fixed[0] {
            SET | SET_AS_OF => Operation::Set { bucket, key, value },
            DELETE if value.is_empty() => Operation::Delete { bucket, key },
            _ => return Err(Malformed),
        };
        Ok((operation, as_of))
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<(Operation<'a>, Option<u64>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            // Once only: what follows the last operation.
            return (!std::mem::take(&mut self.rest).is_empty()).then_some(Err(Malformed));
        }
        self.count -= 1;
        let operation = self.operation();
        if operation.is_err() {
            (self.rest, self.count) = (&[], 0);
        }
        Some(operation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn payload(record: Record) -> Vec<u8> {
        let (buffer, start) = record.finish();
        buffer[start.unwrap() + frame::HEADER..].to_vec()
    }

    fn record() -> Record {
        Record::begin(b"what is before".to_vec(), 1, Limits { key: 3, value: 5 })
    }

    #[test]
    fn an_empty_record_leaves_the_buffer_as_it_was() {
        let mut empty = record();
        assert!(empty.is_empty());
        empty.set(b"b", b"k", b"v").unwrap();
        assert!(!empty.is_empty());
        empty.clear();
        assert!(empty.is_empty());
        assert_eq!(empty.finish(), (b"what is before".to_vec(), None));
    }

    #[test]
    fn what_is_too_large_is_refused_and_changes_nothing() {
        let mut record = record();
        record.set(b"b", b"key", b"value").unwrap();
        let before = format!("{record:?}");
        assert_eq!(record.set(b"b", b"keys", b""), Err(LimitError::KeyTooLarge { len: 4, limit: 3 }));
        assert_eq!(record.delete(b"b", b"keys"), Err(LimitError::KeyTooLarge { len: 4, limit: 3 }));
        assert_eq!(record.set(b"b", b"key", b"values"), Err(LimitError::ValueTooLarge { len: 6, limit: 5 }));
        assert_eq!(record.set(&[b'b'; 65], b"key", b""), Err(LimitError::BucketTooLarge { len: 65 }));
        assert_eq!(format!("{record:?}"), before);
        record.set(&[b'b'; 64], b"", b"").unwrap();
    }

    #[test]
    fn a_record_ends_at_its_limit() {
        let limits = Limits { key: 1, value: usize::MAX };
        let value = vec![0; MAX_RECORD - COUNT - FIXED - 1];
        let fits = Operation::Set { bucket: b"", key: b"k", value: &value };
        assert_eq!(limits.check_all([fits]), Ok(MAX_RECORD));
        let mut record = Record::begin(Vec::new(), 1, limits);
        record.set(b"", b"k", &value).unwrap();
        let len = MAX_RECORD + FIXED;
        assert_eq!(record.delete(b"", b""), Err(LimitError::RecordTooLarge { len }));
        assert_eq!(
            limits.check_all([fits, Operation::Delete { bucket: b"", key: b"" }]),
            Err(LimitError::RecordTooLarge { len })
        );
    }

    proptest! {
        #[test]
        fn operations_are_read_as_they_were_written(
            written in vec((any::<bool>(), vec(any::<u8>(), 0..4), vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9)), 1..9),
        ) {
            let operations: Vec<_> = written.iter().map(|(delete, bucket, key, value)| match delete {
                true => Operation::Delete { bucket, key },
                false => Operation::Set { bucket, key, value },
            }).collect();
            let mut record = Record::begin(Vec::new(), 1, Limits::default());
            for operation in &operations {
                record.push(*operation).unwrap();
            }
            let payload = payload(record);
            prop_assert_eq!(Limits::default().check_all(operations.clone()), Ok(payload.len()));
            let read: Result<Vec<_>, _> = Operations::of(&payload).unwrap().collect();
            prop_assert_eq!(read.unwrap(), operations.into_iter().map(|o| (o, None)).collect::<Vec<_>>());
            // Nor is a part of it, or more than it, taken for something else.
            for len in 0..payload.len() {
                let read: Result<Vec<_>, _> = Operations::of(&payload[..len]).and_then(Iterator::collect);
                prop_assert_eq!(read, Err(Malformed));
            }
            let more = [&payload[..], b"x"].concat();
            prop_assert!(Operations::of(&more).and_then(Iterator::collect::<Result<Vec<_>, _>>).is_err());
        }

        #[test]
        fn any_bytes_can_be_read(payload in vec(any::<u8>(), 0..64)) {
            let _ = Operations::of(&payload).map(Iterator::count);
        }
    }
}
