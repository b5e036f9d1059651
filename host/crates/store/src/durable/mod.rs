//! The backend that keeps its data: everything in memory, every change in a transaction log.
//!
//! Reads are lookups in memory. A write is a [`Job`] for the log's thread, which takes all jobs that wait, decides them one
//! after the other, writes and syncs them as one, publishes them to readers and answers them. While it syncs, the next
//! ones gather. So the order of the log is the order of all writes, and one sync serves many of them.
//!
//! Bounded by [`Limits::total`] in memory, by [`QUEUED`] for writes that wait, and on disk by the log's compaction.

mod job;
mod keys;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use txlog::TxLog;

use crate::transaction::{Transaction, own};
use crate::{BoxFuture, Bucket, Error, Limits, Page, Stats, Store, Swap, Value, Versioned};

use job::Job;
use keys::Keys;

/// Bytes of writes that wait for the log; more wait before it.
const QUEUED: u32 = 64 << 20;

/// Bytes that each job counts besides its keys and values, so that their number is bounded too.
const JOB: usize = 1 << 10;

/// A [`Store`] that keeps its data on disk.
pub struct DurableStore {
    limits: Limits,
    keys: Arc<Keys>,
    log: TxLog<Keys>,
    /// How much of [`QUEUED`] is free.
    room: Arc<Semaphore>,
}

impl DurableStore {
    /// Bytes of a job with so many bytes of keys and values, as the queue counts them.
    async fn write<T, D>(&self, bucket: &Bucket, bytes: usize, decide: D) -> Result<T, Error>
    where
        T: Send + 'static,
        D: FnOnce(&mut Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let bytes = bytes + JOB;
        let permits = u32::try_from(bytes).unwrap_or(QUEUED).min(QUEUED);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| closed())?;
        let (job, answer) = Job::new(bucket.clone(), room, decide);
        self.log.submit(job, bytes).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> Error {
    Error::Failed("it is closed".to_owned())
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
            let table = self.keys.read();
            Ok(keys.iter().map(|key| table.get(bucket, key).cloned()).collect())
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

    fn stats(&self) -> Stats {
        self.keys.read().stats()
    }
}
