//! The backend in memory. It promises nothing beyond the process: what it holds is gone when that ends.
//!
//! One `RwLock` around one ordered map. The lock is held for a lookup and never while waiting, so the workers (a handful
//! of threads) rarely meet at it, and readers don't exclude each other. Shards would make reads no faster, and would make
//! batches that are atomic and pages in key order slow or complicated. Bounded by [`Limits::total`].

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::table::Table;
use crate::transaction::{Pending, Transaction, own};
use crate::{BoxFuture, Bucket, Error, Limits, Page, Stats, Store, Swap, Value, Versioned};

/// A [`Store`] that keeps everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    limits: Limits,
    kept: RwLock<Kept>,
}

#[derive(Debug)]
struct Kept {
    table: Table,
    /// The number of the newest write.
    sequence: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { limits, kept: RwLock::new(Kept { table: Table::new(), sequence: 0 }) }
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// [`Store::set`] without a check of key and value, and at once.
    pub(crate) fn put(&self, bucket: &Bucket, key: &str, value: Value) -> Result<(), Error> {
        self.write(bucket, |transaction| transaction.set(key, value))
    }

    /// [`Store::list`], at once.
    pub(crate) fn page(&self, bucket: &Bucket, after: Option<&str>, limit: usize) -> Page {
        self.read().table.page(bucket, after, self.limits.page(limit))
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        // Nothing panics under the lock but a failed allocation, which aborts.
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, bucket: &Bucket, decide: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let Kept { table, sequence } = &mut *kept;
        let mut pending = Pending::over(table);
        let mut transaction = Transaction::new(&self.limits, table, &pending, bucket);
        let decided = decide(&mut transaction);
        let changes = transaction.into_changes();
        *sequence += 1;
        pending.add(table, bucket, changes, *sequence);
        let old = pending.publish(table);
        drop(kept);
        drop(old);
        decided
    }
}

/// An empty store with the default limits.
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().table.get(bucket, key).cloned())
        })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            let value = own(&value);
            self.write(bucket, |transaction| transaction.set(key, value))
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.write(bucket, |transaction| transaction.delete(key)))
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().table.get(bucket, key).is_some())
        })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(async move { Ok(self.page(bucket, after, limit)) })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.write(bucket, |transaction| transaction.increment(key, delta))
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().table.get_versioned(bucket, key))
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
            let value = own(&value);
            self.write(bucket, |transaction| transaction.swap(key, version, value))
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            self.read().table.get_many(bucket, keys, &self.limits)
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_values(&values)?;
            let values = values.into_iter().map(|(key, value)| (key, own(&value))).collect();
            self.write(bucket, |transaction| transaction.set_many(values))
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            self.write(bucket, |transaction| transaction.delete_many(keys));
            Ok(())
        })
    }

    fn stats(&self) -> Option<Stats> {
        Some(self.read().table.stats())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    async fn open(limits: Limits) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(limits))
    }

    crate::contract_tests!(open);

    #[tokio::test]
    async fn counts_what_it_holds() {
        let (store, main) = (MemoryStore::default(), Bucket::default());
        assert_eq!(store.stats(), Some(Stats { keys: 0, bytes: 0 }));
        store.set(&main, "key", Value::from_static(b"value")).await.expect("set");
        store.set(&main, "n", Value::from_static(b"99")).await.expect("set");
        assert_eq!(store.stats(), Some(Stats { keys: 2, bytes: 11 }));
        store.increment(&main, "n", 1).await.expect("increment");
        store.set(&main, "key", Value::new()).await.expect("set");
        assert_eq!(store.stats(), Some(Stats { keys: 2, bytes: 7 }));
        store.delete_many(&main, &["key".to_owned(), "n".to_owned()]).await.expect("delete");
        assert_eq!(store.stats(), Some(Stats { keys: 0, bytes: 0 }));
    }

    #[tokio::test]
    async fn does_not_keep_a_whole_request_alive() {
        let (store, main) = (MemoryStore::default(), Bucket::default());
        let request = Bytes::from(vec![0; 1 << 16]);
        store.set(&main, "k", request.slice(..4)).await.expect("set");
        assert!(request.is_unique());
    }

    #[tokio::test]
    async fn tiny_keys_count_with_what_they_take() {
        let store = MemoryStore::new(Limits { total: 10 * (Limits::KEY_OVERHEAD + 1), ..Limits::default() });
        for key in '0'..='9' {
            store.set(&Bucket::default(), &key.to_string(), Value::new()).await.expect("there is room for ten");
        }
        let eleventh = store.set(&Bucket::default(), "x", Value::new()).await;
        assert_eq!(eleventh, Err(Error::Full { limit: 10 * (Limits::KEY_OVERHEAD + 1) }));
    }
}
