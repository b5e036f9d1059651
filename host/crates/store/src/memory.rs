//! The backend in memory. It promises nothing beyond the process: what it holds is gone when that ends.
//!
//! One `RwLock` around one ordered map. The lock is held for a lookup and never while waiting, so the workers (a handful
//! of threads) rarely meet at it, and readers don't exclude each other. Shards would make reads no faster, and would make
//! batches that are atomic and pages in key order slow or complicated. Bounded by [`Limits::total`].

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::table::Table;
use crate::{BoxFuture, Bucket, Error, Limits, Page, Stats, Store, Swap, Value, Versioned};

/// A [`Store`] that keeps everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    limits: Limits,
    table: RwLock<Table>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { limits, table: RwLock::new(Table::new()) }
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing panics under the lock but a failed allocation, which aborts.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_room(&self, table: &Table, bucket: &Bucket, key: &str, value: usize) -> Result<(), Error> {
        self.check_room_for(table, bucket, [(key, value)])
    }

    fn check_room_for<'a>(
        &self,
        table: &Table,
        bucket: &Bucket,
        writes: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Result<(), Error> {
        let limit = self.limits.total;
        if table.overflows(bucket, writes, limit) { Err(Error::Full { limit }) } else { Ok(()) }
    }
}

/// An empty store with the default limits.
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// A copy of its own: what came in may be a slice of a whole request, which it would keep alive uncounted.
fn own(value: &Value) -> Value {
    Bytes::copy_from_slice(value)
}

// Old values are dropped after the lock is released: freeing a large one takes longer than the write itself.
impl Store for MemoryStore {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().get(bucket, key).cloned())
        })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            let value = own(&value);
            let mut table = self.write();
            self.check_room(&table, bucket, key, value.len())?;
            let old = table.set(bucket, key, value);
            drop(table);
            drop(old);
            Ok(())
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let old = self.write().delete(bucket, key);
            Ok(old.is_some())
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().get(bucket, key).is_some())
        })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(async move { Ok(self.read().page(bucket, after, self.limits.page(limit))) })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let mut table = self.write();
            let number = match table.get(bucket, key) {
                Some(value) => parse_number(value)?,
                None => 0,
            };
            let sum = number.checked_add(delta).ok_or(Error::Overflow)?;
            let text = Value::from(sum.to_string());
            self.limits.check_value(&text)?;
            self.check_room(&table, bucket, key, text.len())?;
            let old = table.set(bucket, key, text);
            drop(table);
            drop(old);
            Ok(sum)
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            Ok(self.read().get_versioned(bucket, key))
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
            let mut table = self.write();
            if table.version(bucket, key) != version {
                return Ok(Swap::Conflict(table.get_versioned(bucket, key)));
            }
            self.check_room(&table, bucket, key, value.len())?;
            let old = table.set(bucket, key, value);
            drop(table);
            drop(old);
            Ok(Swap::Done)
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            let table = self.read();
            Ok(keys.iter().map(|key| table.get(bucket, key).cloned()).collect())
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_values(&values)?;
            let values: Vec<_> = values.into_iter().map(|(key, value)| (key, own(&value))).collect();
            let mut table = self.write();
            let sizes = values.iter().map(|(key, value)| (key.as_str(), value.len()));
            self.check_room_for(&table, bucket, sizes)?;
            let old: Vec<_> = values.into_iter().map(|(key, value)| table.set(bucket, &key, value)).collect();
            drop(table);
            drop(old);
            Ok(())
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            let mut table = self.write();
            let old: Vec<_> = keys.iter().map(|key| table.delete(bucket, key)).collect();
            drop(table);
            drop(old);
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        self.read().stats()
    }
}

fn parse_number(value: &[u8]) -> Result<i64, Error> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Error::NotANumber)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn open(limits: Limits) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(limits))
    }

    crate::contract_tests!(open);

    #[tokio::test]
    async fn counts_what_it_holds() {
        let (store, main) = (MemoryStore::default(), Bucket::default());
        assert_eq!(store.stats(), Stats { keys: 0, bytes: 0 });
        store.set(&main, "key", Value::from_static(b"value")).await.expect("set");
        store.set(&main, "n", Value::from_static(b"99")).await.expect("set");
        assert_eq!(store.stats(), Stats { keys: 2, bytes: 11 });
        store.increment(&main, "n", 1).await.expect("increment");
        store.set(&main, "key", Value::new()).await.expect("set");
        assert_eq!(store.stats(), Stats { keys: 2, bytes: 7 });
        store.delete_many(&main, &["key".to_owned(), "n".to_owned()]).await.expect("delete");
        assert_eq!(store.stats(), Stats { keys: 0, bytes: 0 });
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
