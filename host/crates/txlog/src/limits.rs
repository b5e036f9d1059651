//! How large the parts of a record may be.

use thiserror::Error;

use crate::frame::MAX_PAYLOAD;
use crate::record::Operation;

/// Bytes that a bucket's name may have.
pub const MAX_BUCKET: usize = 64;

/// Bytes that an encoded record may have, its frame's header not counted. Less than what a frame can hold, since in a
/// snapshot each operation takes a little more.
pub const MAX_RECORD: usize = MAX_PAYLOAD - 1024;

/// How long keys and values may be. Limits hold for what is written; what is in the log can be read under any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key. The format allows 65,535.
    pub key: usize,
    /// Bytes of a value. The format allows [`MAX_RECORD`], less what a record needs besides.
    pub value: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { key: 1024, value: 1024 * 1024 }
    }
}

/// An operation or a record is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// The bucket's name has more than [`MAX_BUCKET`] bytes.
    #[error("the bucket's name has {len} bytes; at most {MAX_BUCKET} are allowed")]
    BucketTooLarge {
        /// Bytes it has.
        len: usize,
    },
    /// The key has more bytes than [`Limits::key`].
    #[error("the key has {len} bytes; at most {limit} are allowed")]
    KeyTooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The value has more bytes than [`Limits::value`].
    #[error("the value has {len} bytes; at most {limit} are allowed")]
    ValueTooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// All operations of the record together have more than [`MAX_RECORD`] bytes.
    #[error("the record would have {len} bytes; at most {MAX_RECORD} are allowed: split it")]
    RecordTooLarge {
        /// Bytes it would have.
        len: usize,
    },
}

impl Limits {
    /// Checks one operation.
    ///
    /// # Errors
    /// [`LimitError::BucketTooLarge`], [`LimitError::KeyTooLarge`], [`LimitError::ValueTooLarge`].
    pub fn check(&self, operation: &Operation<'_>) -> Result<(), LimitError> {
        let (bucket, key, value) = operation.parts();
        // What the format can't express is refused whatever was configured.
        let (key_limit, value_limit) = (self.key.min(u16::MAX.into()), self.value.min(MAX_RECORD));
        if bucket.len() > MAX_BUCKET {
            return Err(LimitError::BucketTooLarge { len: bucket.len() });
        }
        if key.len() > key_limit {
            return Err(LimitError::KeyTooLarge { len: key.len(), limit: key_limit });
        }
        if value.len() > value_limit {
            return Err(LimitError::ValueTooLarge { len: value.len(), limit: value_limit });
        }
        Ok(())
    }

    /// Checks the operations of one record and returns how many bytes it takes: what a job says to
    /// [`submit`](crate::TxLog::submit) before it is queued.
    ///
    /// # Errors
    /// Those of [`check`](Limits::check), and [`LimitError::RecordTooLarge`].
    pub fn check_all<'a>(&self, operations: impl IntoIterator<Item = Operation<'a>>) -> Result<usize, LimitError> {
        let mut len = crate::record::COUNT;
        for operation in operations {
            self.check(&operation)?;
            len += operation.encoded_len();
        }
        if len > MAX_RECORD {
            return Err(LimitError::RecordTooLarge { len });
        }
        Ok(len)
    }
}
