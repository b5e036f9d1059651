//! A recording: the store as one run sees it, and what that run found in it.
//!
//! Lives as long as one run, of one request. Everything passes through to the store; of each key that is touched, the
//! value it had before the run's own writes is kept, so that an [`Overlay`](crate::Overlay) can show the same world to a
//! second run. Bounded: what is beyond [`Recording::KEYS`] or [`Recording::BYTES`] is not kept, and makes the recording
//! [`Incomplete`]; the run itself never notices.
//!
//! What a write replaces is read right before it, which is a look-up more. For an increment it follows from the sum:
//! others who increment the same key at the same time can't come in between.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{BoxFuture, Bucket, Error, Page, Stats, Store, Swap, Value, Versioned};

/// What keys held when a run first touched them; `None`: nothing.
pub type FirstValues = BTreeMap<(Bucket, String), Option<Value>>;

/// A run can't be repeated from its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Incomplete {
    /// It touched more than is kept.
    #[error("it touched more than {} keys or {} MiB of the store", Recording::KEYS, Recording::BYTES >> 20)]
    TooLarge,
    /// What it touched could not be read.
    #[error("the store failed")]
    StoreFailed,
}

/// A [`Store`] that remembers what it showed.
pub struct Recording {
    store: Arc<dyn Store>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    values: FirstValues,
    /// Of keys and values.
    bytes: usize,
    incomplete: Option<Incomplete>,
}

impl Recording {
    /// Keys of which the value is kept.
    pub const KEYS: usize = 4096;
    /// Bytes of keys and values that are kept.
    pub const BYTES: usize = 16 << 20;

    /// Of a run on this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, kept: Mutex::default() }
    }

    /// What the run has found so far.
    ///
    /// # Errors
    /// See [`Incomplete`].
    pub fn first_values(&self) -> Result<FirstValues, Incomplete> {
        let kept = self.kept();
        match kept.incomplete {
            None => Ok(kept.values.clone()),
            Some(incomplete) => Err(incomplete),
        }
    }

    /// A key was found to hold this. Counts only if it is the first time.
    fn found(&self, bucket: &Bucket, key: &str, value: Option<&Value>) {
        self.kept().add(bucket, key, value.cloned());
    }

    /// Notes what those of the keys hold that aren't known yet.
    async fn look<'a>(&self, bucket: &Bucket, keys: impl IntoIterator<Item = &'a str>) {
        let unknown: Vec<String> = {
            let kept = self.kept();
            keys.into_iter().filter(|key| kept.lacks(bucket, key)).map(str::to_owned).collect()
        };
        if unknown.is_empty() {
            return;
        }
        match self.store.get_many(bucket, &unknown).await {
            Ok(values) => unknown.iter().zip(&values).for_each(|(key, value)| self.found(bucket, key, value.as_ref())),
            Err(Error::Unavailable(_) | Error::Failed(_)) => {
                self.kept().incomplete.get_or_insert(Incomplete::StoreFailed);
            }
            Err(Error::BatchTooHeavy { .. }) => {
                self.kept().incomplete.get_or_insert(Incomplete::TooLarge);
            }
            // The keys are not such as can be written either.
            Err(_) => {}
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn lacks(&self, bucket: &Bucket, key: &str) -> bool {
        self.incomplete.is_none() && !self.values.contains_key(&(bucket.clone(), key.to_owned()))
    }

    fn add(&mut self, bucket: &Bucket, key: &str, value: Option<Value>) {
        if self.incomplete.is_some() {
            return;
        }
        let full = self.values.len() >= Recording::KEYS;
        let Entry::Vacant(place) = self.values.entry((bucket.clone(), key.to_owned())) else { return };
        self.bytes += key.len() + value.as_ref().map_or(0, Value::len);
        if full || self.bytes > Recording::BYTES {
            self.incomplete = Some(Incomplete::TooLarge);
            self.values.clear();
        } else {
            place.insert(value);
        }
    }

    /// The run decides on this value, not on the one that it saw first.
    fn replace(&mut self, bucket: &Bucket, key: &str, value: Option<Value>) {
        if let Some(old) = self.values.remove(&(bucket.clone(), key.to_owned())) {
            self.bytes -= key.len() + old.map_or(0, |old| old.len());
        }
        self.add(bucket, key, value);
    }
}

impl Store for Recording {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move {
            let value = self.store.get(bucket, key).await?;
            self.found(bucket, key, value.as_ref());
            Ok(value)
        })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.look(bucket, [key]).await;
            self.store.set(bucket, key, value).await
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.look(bucket, [key]).await;
            self.store.delete(bucket, key).await
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move { Ok(self.get(bucket, key).await?.is_some()) })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        self.store.list(bucket, after, limit)
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            match self.store.increment(bucket, key, delta).await {
                Ok(sum) => {
                    // No value counts as 0, so one can stand for the other.
                    let before = sum.wrapping_sub(delta);
                    let before = (before != 0).then(|| Value::from(before.to_string()));
                    self.found(bucket, key, before.as_ref());
                    Ok(sum)
                }
                Err(error) => {
                    // It changed nothing, so what there is now is what it stumbled over.
                    self.look(bucket, [key]).await;
                    Err(error)
                }
            }
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            let read = self.store.read_versioned(bucket, key).await?;
            self.found(bucket, key, read.value.as_ref());
            Ok(read)
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
            self.look(bucket, [key]).await;
            let swapped = self.store.swap(bucket, key, version, value).await?;
            if let Swap::Conflict(now) = &swapped {
                self.kept().replace(bucket, key, now.value.clone());
            }
            Ok(swapped)
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            let values = self.store.get_many(bucket, keys).await?;
            for (key, value) in keys.iter().zip(&values) {
                self.found(bucket, key, value.as_ref());
            }
            Ok(values)
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.look(bucket, values.iter().map(|(key, _)| key.as_str())).await;
            self.store.set_many(bucket, values).await
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.look(bucket, keys.iter().map(String::as_str)).await;
            self.store.delete_many(bucket, keys).await
        })
    }

    fn stats(&self) -> Option<Stats> {
        self.store.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, MemoryStore};

    async fn open(limits: Limits) -> Arc<dyn Store> {
        Arc::new(Recording::new(Arc::new(MemoryStore::new(limits))))
    }

    // Whoever uses it sees a store like any other.
    crate::contract_tests!(open);

    async fn store(values: &[(&str, &'static str)]) -> Arc<dyn Store> {
        let store = Arc::new(MemoryStore::default());
        for (key, text) in values {
            store.set(&Bucket::default(), key, Value::from_static(text.as_bytes())).await.expect("set");
        }
        store
    }

    fn found(recording: &Recording) -> Vec<(String, Option<String>)> {
        let values = recording.first_values().expect("it is complete");
        let text = |value: Value| String::from_utf8(value.into()).expect("a test's value");
        values.into_iter().map(|((_, key), value)| (key, value.map(text))).collect()
    }

    fn entry(key: &str, value: Option<&str>) -> (String, Option<String>) {
        (key.to_owned(), value.map(str::to_owned))
    }

    #[tokio::test]
    async fn keeps_what_was_there_before_the_run_wrote() {
        let (main, other) = (Bucket::default(), "other".parse().expect("a name"));
        let values = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("n", "40"), ("untouched", "x")];
        let recording = Recording::new(store(&values).await);
        let new = || Value::from_static(b"new");
        recording.set(&main, "a", new()).await.expect("set");
        recording.get(&main, "a").await.expect("get");
        recording.delete(&main, "b").await.expect("delete");
        recording.exists(&main, "b").await.expect("exists");
        recording.set_many(&main, vec![("c".into(), new()), ("absent".into(), new())]).await.expect("set");
        recording.delete_many(&main, &["d".to_owned(), "absent".to_owned()]).await.expect("delete");
        let version = recording.read_versioned(&main, "e").await.expect("read").version;
        recording.swap(&main, "e", version, new()).await.expect("swap");
        recording.increment(&main, "n", 2).await.expect("increment");
        recording.increment(&main, "n", 2).await.expect("increment");
        recording.increment(&main, "from-nothing", 2).await.expect("increment");
        let expected = [
            entry("a", Some("1")),
            entry("absent", None),
            entry("b", Some("2")),
            entry("c", Some("3")),
            entry("d", Some("4")),
            entry("e", Some("5")),
            entry("from-nothing", None),
            entry("n", Some("40")),
        ];
        assert_eq!(found(&recording), expected);
        recording.get(&other, "a").await.expect("get");
        assert_eq!(recording.first_values().expect("it is complete")[&(other, "a".to_owned())], None);
    }

    #[tokio::test]
    async fn a_conflict_is_what_the_run_decided_on() {
        let (main, real) = (Bucket::default(), store(&[("k", "1")]).await);
        let recording = Recording::new(real.clone());
        let version = recording.read_versioned(&main, "k").await.expect("read").version;
        real.set(&main, "k", Value::from_static(b"2")).await.expect("set");
        let swapped = recording.swap(&main, "k", version, Value::from_static(b"mine")).await.expect("swap");
        let Swap::Conflict(now) = swapped else { panic!("somebody was faster") };
        recording.swap(&main, "k", now.version, Value::from_static(b"mine")).await.expect("swap");
        assert_eq!(found(&recording), [entry("k", Some("2"))]);
    }

    #[tokio::test]
    async fn an_increment_that_failed_saw_what_it_stumbled_over() {
        let recording = Recording::new(store(&[("k", "one")]).await);
        assert_eq!(recording.increment(&Bucket::default(), "k", 1).await, Err(Error::NotANumber));
        assert_eq!(found(&recording), [entry("k", Some("one"))]);
    }

    #[tokio::test]
    async fn too_much_makes_it_incomplete_and_changes_nothing_else() {
        let main = Bucket::default();
        let recording = Recording::new(store(&[]).await);
        for number in 0..=Recording::KEYS {
            assert_eq!(recording.first_values().map(|values| values.len()), Ok(number));
            recording.set(&main, &number.to_string(), Value::new()).await.expect("set");
        }
        assert_eq!(recording.first_values(), Err(Incomplete::TooLarge));

        let recording = Recording::new(store(&[]).await);
        let large = Value::from(vec![0; 1 << 20]);
        for number in 0..=16 {
            recording.store.set(&main, &number.to_string(), large.clone()).await.expect("set");
            recording.get(&main, &number.to_string()).await.expect("get");
        }
        assert_eq!(recording.first_values(), Err(Incomplete::TooLarge));
    }
}
