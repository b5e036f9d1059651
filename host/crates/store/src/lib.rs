//! The key-value store: what it promises, and its backends.
//!
//! - [`Store`]: the contract; everything else in this program sees the store as `Arc<dyn Store>`.
//! - [`Bucket`], [`Limits`], [`Error`]: what goes in, and what can go wrong. [`Begun`]: a write that nobody need wait for.
//! - [`DurableStore`]: the backend that keeps its data on disk; see [`durable`].
//! - [`MemoryStore`]: the backend that forgets everything when the process ends.
//! - [`Recording`], [`Overlay`]: a store as one run of a request sees it, and the same world once more for a second run.
//! - `contract` (feature `contract-tests`): the tests that every backend has to pass.
//!
//! # The contract
//!
//! **Order.** All operations take effect one after another, as if there were one thread (linearisability): a read that
//! starts after a write was acknowledged sees that write or a later one, whoever made it.
//!
//! **Durability.** A write is *acknowledged* when its future resolves to `Ok`. By then it survives whatever the backend
//! says it survives: the end of the process, or a power cut, or nothing. An acknowledgement may wait for a disk or a
//! network, hence the futures. A read never returns a value that could still be lost: a write that others can see is as
//! durable as one that was acknowledged.
//!
//! **Atomicity.** A write happens entirely or not at all, also across a crash, and `set_many` and `delete_many` are one
//! write: nobody ever sees half of one.
//!
//! **Failure.** A write that returns an error other than [`Error::Unavailable`] and [`Error::Failed`] changed nothing.
//! After those two it is unknown whether it happened, but never half. A backend that could not make a write durable
//! acknowledges none after it ([`Error::Failed`]); it doesn't try again, since that isn't safe.
//!
//! **Cancellation.** Nothing happens before a future is polled. When one is dropped before it resolves, its write happens
//! later, or never, but never half. One that [`Store::begin`] has begun happens, whoever drops what.

mod begun;
mod bucket;
#[cfg(any(test, feature = "contract-tests"))]
pub mod contract;
pub mod durable;
mod error;
mod limits;
mod memory;
mod overlay;
mod recording;
mod table;
mod transaction;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

pub use begun::Begun;
pub use bucket::{Bucket, InvalidBucket};
pub use durable::{DurableStore, SyncPolicy};
pub use error::Error;
pub use limits::Limits;
pub use memory::MemoryStore;
pub use overlay::Overlay;
pub use recording::{FirstValues, Incomplete, Recording};

/// What is kept under a key: any bytes.
pub type Value = Bytes;

/// A future in a box, so that [`Store`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key-value store. The [crate's documentation](crate) has its contract.
///
/// Keys are text of 1 byte to [`Limits::key`] bytes, in the order of their bytes. Every method checks its keys and values
/// against the store's limits first, and fails with [`Error::EmptyKey`], [`Error::KeyTooLarge`],
/// [`Error::ValueTooLarge`], [`Error::BatchTooLarge`] or [`Error::BatchTooHeavy`]. Every write can fail with
/// [`Error::Full`] and [`Error::DiskFull`], and everything with [`Error::Unavailable`] and [`Error::Failed`]. Further
/// errors are named at the method.
///
/// A bucket exists while it has a key; one without keys can't be told from one that never was.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`, if it has one.
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>>;

    /// Sets `key` to `value`, whatever it was.
    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes `key`. Says whether it existed.
    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>>;

    /// Begins to set `key` to `value`, or to remove it if there is none, without waiting for anything. When this returns, the
    /// write is in line before whatever is begun or polled later, and its acknowledgement comes through [`Begun`]. `None` if
    /// the store can't do that, or has no room for it now: [`set`](Store::set) and [`delete`](Store::delete) wait.
    ///
    /// # Errors
    /// What is wrong with the key or the value, or with the store.
    fn begin(&self, _bucket: &Bucket, _key: &str, _value: Option<&Value>) -> Result<Option<Begun>, Error> {
        Ok(None)
    }

    /// Whether `key` has a value.
    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>>;

    /// A page of the bucket's keys: in order, those greater than `after` (which need not exist), at most `limit` and at
    /// most [`Limits::batch`]; a `limit` of 0 counts as 1.
    ///
    /// Going on with [`Page::next`] visits, once each, all keys that exist from the first page to the last; keys that are
    /// written or deleted meanwhile may be visited or not.
    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// Adds `delta` to the number that `key` holds as decimal text, and returns the sum. No value counts as 0.
    ///
    /// # Errors
    /// [`Error::NotANumber`] if the value is not the text of an `i64`, [`Error::Overflow`] if the sum is none.
    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>>;

    /// The value of `key`, and the version to hand to [`swap`](Store::swap).
    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>>;

    /// Sets `key` to `value` if nothing wrote or deleted it since `version` was read. Otherwise changes nothing and says
    /// what there is now.
    fn swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        version: u64,
        value: Value,
    ) -> BoxFuture<'a, Result<Swap, Error>>;

    /// The values of several keys, in the order of `keys`, all at one moment. At most [`Limits::batch`], and
    /// [`Limits::batch_bytes`] of values.
    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>>;

    /// Sets several keys, all or none. Of a key that occurs twice, the last value counts. At most [`Limits::batch`], and
    /// [`Limits::batch_bytes`] of keys and values.
    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes several keys, all or none. One that doesn't exist is no error. At most [`Limits::batch`].
    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>>;

    /// How much the store holds, for metrics. Doesn't wait; may be a moment old. `None` if it isn't known here.
    fn stats(&self) -> Option<Stats>;
}

/// Part of a bucket's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub keys: Vec<String>,
    /// The `after` of the next page; `None` if this one is the last.
    pub next: Option<String>,
}

/// A value, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value, if there is one.
    pub value: Option<Value>,
    /// Changes whenever the key is written or deleted, and never takes a value again that it had, also not after the key
    /// was deleted and created again. May change by a write to another key too: a swap then fails though it need not
    /// have, and its caller tries again. Means nothing to anyone but the store, and nothing to it after the process ended unless the
    /// backend says otherwise.
    pub version: u64,
}

/// What became of a [`swap`](Store::swap).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The key has the new value.
    Done,
    /// Somebody else was faster: this is what the key holds now.
    Conflict(Versioned),
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys in all buckets.
    pub keys: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
}
