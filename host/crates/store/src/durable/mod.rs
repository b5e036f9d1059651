//! The backend that keeps its data: everything in memory, every change in a transaction log.
//!
//! Reads are lookups in memory. A write is a job for the log's thread, which takes all jobs that wait, decides them one
//! after the other, writes and syncs them as one, publishes them to readers and answers them. While it syncs, the next
//! ones gather. So the order of the log is the order of all writes, and one sync serves many of them.
//!
//! Bounded by [`Limits::total`] in memory, by 64 MiB of writes that wait, and on disk by the log's compaction.

mod inspect;
mod job;
mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Semaphore;
use txlog::{CommitError, MAX_BUCKET, MAX_RECORD, Reason, TxLog};

use crate::transaction::{Transaction, own};
use crate::{Begun, BoxFuture, Bucket, Error, Limits, Page, Stats, Store, Swap, Value, Versioned};

pub use inspect::{Change, dump, verify};
use job::Job;
use keys::Keys;
pub use txlog::{
    Committed, CompactError, Compaction, Damage, Observer, OpenError, Progress, Recovery, SyncPolicy, TornTail,
};

/// Bytes of writes that wait for the log; more wait before it.
const QUEUED: u32 = 64 << 20;

/// Bytes that each job counts besides its keys and values, so that their number is bounded too.
const JOB: usize = 1 << 10;

/// Bytes that a change takes in a record besides its key and value: more than enough.
const PER_CHANGE: usize = 64 + MAX_BUCKET;

/// How a store is kept.
#[derive(Clone)]
pub struct Config {
    /// Its bounds. A batch of them must fit into one record of the log.
    pub limits: Limits,
    /// When a write is as durable as it is to be.
    pub sync: SyncPolicy,
    /// Is told what happens to the log.
    pub observer: Arc<dyn Observer>,
}

/// The default limits; every write is synced; nobody is told.
impl Default for Config {
    fn default() -> Self {
        Self { limits: Limits::default(), sync: SyncPolicy::Always, observer: Arc::new(()) }
    }
}

/// A [`Store`] that keeps its data on disk. Its versions mean the same after it was opened again.
///
/// With [`SyncPolicy::Always`], an acknowledged write survives a power cut. Otherwise it survives the end of the process,
/// and the versions of writes that a power cut has taken are given again.
pub struct DurableStore {
    limits: Limits,
    keys: Arc<Keys>,
    /// None when it is closed.
    log: RwLock<Option<TxLog<Keys>>>,
    /// How much of [`QUEUED`] is free.
    room: Arc<Semaphore>,
}

impl DurableStore {
    /// Opens the store in a folder, which is made if it isn't there, and reads all of it.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong.
    ///
    /// # Panics
    /// The limits allow batches that don't fit into a record.
    pub fn open(folder: &Path, config: Config) -> Result<(Self, Recovery), OpenError> {
        Self::open_by(config, |config, keys| TxLog::open(folder, config, keys))
    }

    fn open_by(
        config: Config,
        open: impl FnOnce(txlog::Config, Arc<Keys>) -> Result<(TxLog<Keys>, Recovery), OpenError>,
    ) -> Result<(Self, Recovery), OpenError> {
        let Config { limits, sync, observer } = config;
        let largest = limits.value.max(limits.batch_bytes) + limits.key + limits.batch.max(1) * PER_CHANGE;
        assert!(largest <= MAX_RECORD, "a batch fits into a record");
        let keys = Arc::new(Keys::new(limits));
        let config = txlog::Config {
            limits: txlog::Limits { key: limits.key, value: limits.value },
            sync,
            queue_bytes: QUEUED as usize,
            queue_jobs: QUEUED as usize / JOB,
            observer,
            ..txlog::Config::default()
        };
        let (log, recovery) = open(config, Arc::clone(&keys))?;
        keys.recovered(recovery.last_sequence);
        let room = Arc::new(Semaphore::new(QUEUED as usize));
        Ok((Self { limits, keys, log: RwLock::new(Some(log)), room }, recovery))
    }

    /// Rewrites the log so that it takes no more room than what it holds. Waits for that, while everything else goes on.
    ///
    /// # Errors
    /// [`CompactError`] says why it could not be rewritten; it is as good as before.
    pub fn compact(&self) -> Result<Compaction, CompactError> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.as_ref().ok_or(CompactError::Closed)?.compact()
    }

    /// Bytes of the log on disk; may be a moment old. None when the store is closed.
    pub fn log_bytes(&self) -> Option<u64> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.as_ref().map(|log| log.stats().log_bytes)
    }

    /// Finishes what was begun, syncs it, whatever the policy, and gives the folder back. Every write fails from now on.
    ///
    /// # Errors
    /// [`Error::Failed`] if what was written may not be synced.
    pub fn close(&self) -> Result<(), Error> {
        self.room.close();
        let log = self.log.write().unwrap_or_else(PoisonError::into_inner).take();
        log.map_or(Ok(()), TxLog::close).map_err(keys::failure)
    }

    /// Has a write decided by the log's thread, and waits until it is as durable as it is to be.
    async fn write<T, D>(&self, bucket: &Bucket, bytes: usize, decide: D) -> Result<T, Error>
    where
        T: Send + 'static,
        D: FnOnce(&mut Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let bytes = bytes + JOB;
        let room = Arc::clone(&self.room).acquire_many_owned(permits(bytes)).await.map_err(|_| Error::closed())?;
        let (job, answer) = Job::new(bucket.clone(), room, false, decide);
        self.submit(job, bytes)?;
        answer.await
    }

    fn submit(&self, job: Job, bytes: usize) -> Result<(), Error> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        let submitted = log.as_ref().ok_or_else(Error::closed)?.submit(job, bytes);
        submitted.map_err(|rejected| match rejected.reason {
            Reason::Closed => Error::closed(),
            Reason::Failed(reason) => keys::failure(CommitError::Failed(reason)),
            // Not as long as the room in the queue is the same for both.
            Reason::Busy => Error::Unavailable("too many writes are waiting".to_owned()),
        })
    }
}

impl fmt::Debug for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableStore")
            .field("limits", &self.limits)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a job takes of the queue's room.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch fits into a record")
}

impl Store for DurableStore {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.keys.read().get(bucket, key).cloned())
        })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            let (key, value) = (key.to_owned(), own(&value));
            let bytes = key.len() + value.len();
            self.write(bucket, bytes, move |transaction| transaction.set(&key, value)).await
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let key = key.to_owned();
            self.write(bucket, key.len(), move |transaction| Ok(transaction.delete(&key))).await
        })
    }

    fn begin(&self, bucket: &Bucket, key: &str, value: Option<&Value>) -> Result<Option<Begun>, Error> {
        self.limits.check_key(key)?;
        value.map_or(Ok(()), |value| self.limits.check_value(value))?;
        let (key, value) = (key.to_owned(), value.map(own));
        let bytes = key.len() + value.as_ref().map_or(0, Value::len) + JOB;
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits(bytes)) else { return Ok(None) };
        let (job, begun) = Job::new(bucket.clone(), room, true, move |transaction| {
            match value {
                Some(value) => transaction.set(&key, value)?,
                None => drop(transaction.delete(&key)),
            }
            Ok(())
        });
        self.submit(job, bytes)?;
        Ok(Some(begun))
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.keys.read().get(bucket, key).is_some())
        })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(async move { Ok(self.keys.read().page(bucket, after, self.limits.page(limit))) })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let key = key.to_owned();
            self.write(bucket, key.len(), move |transaction| transaction.increment(&key, delta)).await
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.keys.read().get_versioned(bucket, key))
        })
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        version: u64,
        value: Value,
    ) -> BoxFuture<'a, Result<Swap, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            let (key, value) = (key.to_owned(), own(&value));
            let bytes = key.len() + value.len();
            self.write(bucket, bytes, move |transaction| transaction.swap(&key, version, value)).await
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            self.keys.read().get_many(bucket, keys, &self.limits)
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_values(&values)?;
            let values: Vec<_> = values.into_iter().map(|(key, value)| (key, own(&value))).collect();
            let bytes = values.iter().map(|(key, value)| key.len() + value.len()).sum();
            self.write(bucket, bytes, move |transaction| transaction.set_many(values)).await
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            let keys = keys.to_vec();
            let bytes = keys.iter().map(String::len).sum();
            self.write(bucket, bytes, move |transaction| {
                transaction.delete_many(&keys);
                Ok(())
            })
            .await
        })
    }

    fn stats(&self) -> Option<Stats> {
        Some(self.keys.read().stats())
    }
}
