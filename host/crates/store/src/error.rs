//! What can go wrong in a store.

use thiserror::Error;

/// Why an operation failed. Only after [`Unavailable`](Error::Unavailable) and [`Failed`](Error::Failed) is it unknown
/// whether a write happened; after any other error, it didn't.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The key has no bytes.
    #[error("a key must not be empty")]
    EmptyKey,
    /// The key has more bytes than [`Limits::key`](crate::Limits::key).
    #[error("the key has {len} bytes; at most {limit} are allowed")]
    KeyTooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The value has more bytes than [`Limits::value`](crate::Limits::value).
    #[error("the value has {len} bytes; at most {limit} are allowed")]
    ValueTooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The batch has more keys than [`Limits::batch`](crate::Limits::batch).
    #[error("the batch has {len} keys; at most {limit} are allowed: split it")]
    BatchTooLarge {
        /// Keys it has.
        len: usize,
        /// Keys it may have.
        limit: usize,
    },
    /// The batch has more bytes, or what was asked for has, than [`Limits::batch_bytes`](crate::Limits::batch_bytes).
    #[error("the batch has {len} bytes; at most {limit} are allowed: split it")]
    BatchTooHeavy {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// `increment` of a value that is not the decimal text of an `i64`.
    #[error("the value is not a whole number in decimal digits")]
    NotANumber,
    /// `increment` beyond the range of an `i64`; the value is unchanged.
    #[error("the sum is beyond the range of a signed 64-bit integer")]
    Overflow,
    /// The store holds as much as it may. Reads go on, deletes make room, and writes work again once there is some.
    #[error("the store is full ({limit} bytes): delete keys or raise its limit")]
    Full {
        /// Bytes it may hold.
        limit: u64,
    },
    /// The disk that the store writes to has no room. Reads go on, and writes work again once there is some. Deletes
    /// don't make any at once: they are written down too.
    #[error("the store's disk is full: make room on it; nothing was lost, and reads go on")]
    DiskFull,
    /// The backend can't be reached right now; trying again later makes sense. A write may or may not have happened.
    #[error("the store can't be reached: {0}")]
    Unavailable(String),
    /// The backend failed and won't recover by itself, for example because a write could not be synced. A write may or
    /// may not have happened; no later one will be acknowledged.
    #[error("the store has failed: {0}")]
    Failed(String),
}

impl Error {
    /// It was closed.
    pub(crate) fn closed() -> Self {
        Self::Failed("it is closed".to_owned())
    }
}
