//! An overlay: the world of a second run, in which nothing it does is seen by anyone else.
//!
//! Lives as long as one run, of one request. A key holds what a [`Recording`](crate::Recording) says that the first run
//! found in it; one that the first run didn't touch, what the store holds when this run first touches it. From then on
//! it is the run's own: what the run writes stays here and ends with the run. The store is only ever read.
//!
//! All that the run has touched is in a [`MemoryStore`] of its own, so that increments, swaps and batches are that
//! store's, with its limits. What bounds it: `limits.total` of that store, and [`Overlay::KEYS`]; beyond them operations
//! fail with [`Error::Full`], and [`Overlay::is_exhausted`] says that this was not the run's fault.
//!
//! Pages of keys are made of the store's and the run's own; those that others wrote since the first run are in them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{BoxFuture, Bucket, Error, FirstValues, Limits, MemoryStore, Page, Stats, Store, Swap, Value, Versioned};

/// A [`Store`] over another one that it never writes to.
pub struct Overlay {
    real: Arc<dyn Store>,
    /// What the touched keys hold.
    own: MemoryStore,
    /// The keys of which `own` knows what they hold, also that they hold nothing. Locked while `own` learns of another.
    touched: Mutex<BTreeSet<(Bucket, String)>>,
    exhausted: AtomicBool,
}

impl Overlay {
    /// Keys that a run may touch.
    pub const KEYS: usize = 8192;

    /// Over this store, where the keys of `first` hold what is said there.
    pub fn new(real: Arc<dyn Store>, first: FirstValues, limits: Limits) -> Self {
        let own = MemoryStore::new(limits);
        let overlay = Self { real, own, touched: Mutex::default(), exhausted: AtomicBool::new(false) };
        for ((bucket, key), value) in first {
            // What doesn't fit is missed when it is touched.
            let _ = overlay.learn(&bucket, &key, value);
        }
        overlay
    }

    /// Whether something failed because the run needs more than an overlay holds.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
    }

    /// Sees to it that `own` knows the key. A bad key fails by the store's limits, a bad value later by `own`'s.
    async fn touch(&self, bucket: &Bucket, key: &str) -> Result<(), Error> {
        if self.touched().contains(&(bucket.clone(), key.to_owned())) {
            return Ok(());
        }
        let value = self.real.get(bucket, key).await?;
        self.learn(bucket, key, value)
    }

    /// Takes over what a key holds, unless the run has touched it meanwhile.
    fn learn(&self, bucket: &Bucket, key: &str, value: Option<Value>) -> Result<(), Error> {
        let mut touched = self.touched();
        if touched.len() >= Self::KEYS {
            return self.note(Err(Error::Full { limit: self.own.limits().total }));
        }
        if touched.insert((bucket.clone(), key.to_owned()))
            && let Some(value) = value
            && let Err(error) = self.own.put(bucket, key, value)
        {
            touched.remove(&(bucket.clone(), key.to_owned()));
            return self.note(Err(error));
        }
        Ok(())
    }

    /// Looks whether there was too little room.
    fn note<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Err(Error::Full { .. })) {
            self.exhausted.store(true, Relaxed);
        }
        result
    }

    fn touched(&self) -> MutexGuard<'_, BTreeSet<(Bucket, String)>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Overlay {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.own.get(bucket, key).await
        })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.note(self.own.set(bucket, key, value).await)
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.own.delete(bucket, key).await
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.own.exists(bucket, key).await
        })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(async move {
            let limit = self.own.limits().page(limit);
            let (mut real, mut cursor) = (Vec::new(), after.map(str::to_owned));
            loop {
                let page = self.real.list(bucket, cursor.as_deref(), limit).await?;
                real.extend(page.keys);
                cursor = page.next;
                // Until here, nothing of this was certain: the run may have touched keys meanwhile.
                let touched = self.touched();
                real.retain(|key| !touched.contains(&(bucket.clone(), key.clone())));
                if real.len() <= limit && cursor.is_some() {
                    continue;
                }
                let own = self.own.page(bucket, after, limit);
                drop(touched);
                let mut keys: Vec<String> = real.into_iter().chain(own.keys).collect();
                keys.sort_unstable();
                let more = keys.len() > limit || own.next.is_some();
                keys.truncate(limit);
                let next = more.then(|| keys.last().cloned()).flatten();
                return Ok(Page { keys, next });
            }
        })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.note(self.own.increment(bucket, key, delta).await)
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            self.touch(bucket, key).await?;
            self.own.read_versioned(bucket, key).await
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
            self.touch(bucket, key).await?;
            self.note(self.own.swap(bucket, key, version, value).await)
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            self.own.limits().check_keys(keys)?;
            for key in keys {
                self.touch(bucket, key).await?;
            }
            self.own.get_many(bucket, keys).await
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.own.limits().check_values(&values)?;
            for (key, _) in &values {
                self.touch(bucket, key).await?;
            }
            self.note(self.own.set_many(bucket, values).await)
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.own.limits().check_keys(keys)?;
            for key in keys {
                self.touch(bucket, key).await?;
            }
            self.own.delete_many(bucket, keys).await
        })
    }

    /// Of what the run has touched.
    fn stats(&self) -> Option<Stats> {
        self.own.stats()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &'static str) -> Value {
        Value::from_static(value.as_bytes())
    }

    async fn over_nothing(limits: Limits) -> Arc<dyn Store> {
        Arc::new(Overlay::new(Arc::new(MemoryStore::new(limits)), FirstValues::new(), limits))
    }

    /// The first run found nothing where the store is full of things by now.
    async fn over_what_was_not_there(limits: Limits) -> Arc<dyn Store> {
        let (real, mut first) = (MemoryStore::new(limits), FirstValues::new());
        for bucket in ["default", "other", "left", "right", "some"] {
            let bucket: Bucket = bucket.parse().expect("a name");
            for key in ["k", "n", "a", "b", "a/b", "e", "\0", "123456", "key-3"] {
                real.put(&bucket, key, text("junk")).expect("there is room");
                first.insert((bucket.clone(), key.to_owned()), None);
            }
        }
        Arc::new(Overlay::new(Arc::new(real), first, limits))
    }

    mod nothing {
        crate::contract_tests!(super::over_nothing);
    }

    mod what_was_not_there {
        crate::contract_tests!(super::over_what_was_not_there);
    }

    #[tokio::test]
    async fn a_key_is_what_the_first_run_found_then_what_the_run_makes_of_it() {
        let (real, main) = (Arc::new(MemoryStore::default()), Bucket::default());
        for key in ["taped", "real"] {
            real.put(&main, key, text("now")).expect("there is room");
        }
        let first = FirstValues::from([((main.clone(), "taped".to_owned()), Some(text("then")))]);
        let overlay = Overlay::new(real.clone(), first, Limits::default());
        assert_eq!(overlay.get(&main, "taped").await, Ok(Some(text("then"))));
        assert_eq!(overlay.get(&main, "real").await, Ok(Some(text("now"))));
        real.put(&main, "real", text("later")).expect("there is room");
        assert_eq!(overlay.get(&main, "real").await, Ok(Some(text("now"))), "it stays as the run saw it first");
        overlay.set(&main, "taped", text("mine")).await.expect("set");
        assert_eq!(overlay.get(&main, "taped").await, Ok(Some(text("mine"))));
        assert_eq!(real.get(&main, "taped").await, Ok(Some(text("now"))));
    }

    #[tokio::test]
    async fn an_increment_begins_where_the_first_one_did() {
        let (real, main): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::default()), Bucket::default());
        for sum in 1..=3 {
            let recording = crate::Recording::new(real.clone());
            assert_eq!(recording.increment(&main, "n", 1).await, Ok(sum));
            let first = recording.first_values().expect("it is complete");
            let overlay = Overlay::new(real.clone(), first, Limits::default());
            assert_eq!(overlay.increment(&main, "n", 1).await, Ok(sum));
        }
        assert_eq!(real.increment(&main, "n", 0).await, Ok(3));
    }

    #[tokio::test]
    async fn says_when_it_was_too_small() {
        let (real, main) = (Arc::new(MemoryStore::default()), Bucket::default());
        real.put(&main, "large", vec![0; 1000].into()).expect("there is room");
        let small = Limits { total: 1000, ..Limits::default() };
        let overlay = Overlay::new(real.clone(), FirstValues::new(), small);
        assert_eq!(overlay.set(&main, "k", text("v")).await, Ok(()));
        assert!(!overlay.is_exhausted());
        assert_eq!(overlay.get(&main, "large").await, Err(Error::Full { limit: 1000 }));
        assert!(overlay.is_exhausted());
        assert_eq!(overlay.get(&main, "large").await, Err(Error::Full { limit: 1000 }), "never taken for absent");

        let overlay = Overlay::new(real, FirstValues::new(), Limits::default());
        for number in 0..Overlay::KEYS {
            assert_eq!(overlay.get(&main, &number.to_string()).await, Ok(None));
        }
        assert!(!overlay.is_exhausted());
        assert!(overlay.get(&main, "one more").await.is_err());
        assert!(overlay.is_exhausted());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Get(String),
        Set(String, String),
        Delete(String),
        Increment(String, i64),
        List(Option<String>, usize),
        SetMany(Vec<(String, String)>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || "[a-f]{1,2}";
        let value = || "[0-9]{1,2}";
        prop_oneof![
            2 => key().prop_map(Step::Get),
            3 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
            3 => key().prop_map(Step::Delete),
            2 => (key(), -3..4_i64).prop_map(|(key, delta)| Step::Increment(key, delta)),
            4 => (prop::option::of(key()), 0..7_usize).prop_map(|(after, limit)| Step::List(after, limit)),
            1 => prop::collection::vec((key(), value()), 0..4).prop_map(Step::SetMany),
        ]
    }

    async fn answer(store: &dyn Store, step: Step) -> String {
        let main = Bucket::default();
        match step {
            Step::Get(key) => format!("{:?}", store.get(&main, &key).await),
            Step::Set(key, value) => format!("{:?}", store.set(&main, &key, value.into()).await),
            Step::Delete(key) => format!("{:?}", store.delete(&main, &key).await),
            Step::Increment(key, delta) => format!("{:?}", store.increment(&main, &key, delta).await),
            Step::List(after, limit) => format!("{:?}", store.list(&main, after.as_deref(), limit).await),
            Step::SetMany(values) => {
                let values = values.into_iter().map(|(key, value)| (key, value.into())).collect();
                format!("{:?}", store.set_many(&main, values).await)
            }
        }
    }

    async fn contents(store: &dyn Store) -> Vec<(String, Option<Value>)> {
        let main = Bucket::default();
        let keys = store.list(&main, None, 1000).await.expect("list").keys;
        let values = store.get_many(&main, &keys).await.expect("get");
        keys.into_iter().zip(values).collect()
    }

    proptest! {
        /// Over whatever the store holds, a run gets the answers that the store would give, and the store stays as it is.
        #[test]
        fn behaves_like_the_store_and_leaves_it_alone(
            before in prop::collection::vec(step(), 0..40),
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let (real, reference) = (Arc::new(MemoryStore::default()), MemoryStore::default());
            block_on(async {
                for step in before {
                    answer(&*real, step.clone()).await;
                    answer(&reference, step).await;
                }
                let untouched = contents(&*real).await;
                let overlay = Overlay::new(real.clone(), FirstValues::new(), Limits::default());
                for step in steps {
                    let expected = answer(&reference, step.clone()).await;
                    prop_assert_eq!(answer(&overlay, step.clone()).await, expected, "{:?}", step);
                }
                prop_assert_eq!(contents(&overlay).await, contents(&reference).await);
                prop_assert_eq!(contents(&*real).await, untouched);
                Ok(())
            })?;
        }

        /// A second run of the same steps, in the world that the first one found, gets the same answers.
        #[test]
        fn a_second_run_sees_the_world_of_the_first(
            before in prop::collection::vec(step(), 0..40),
            steps in prop::collection::vec(step().prop_filter("pages are not taped", |step| !matches!(step, Step::List(..))), 1..40),
            meanwhile in prop::collection::vec(step(), 0..20),
        ) {
            let real: Arc<dyn Store> = Arc::new(MemoryStore::default());
            block_on(async {
                for step in before {
                    answer(&*real, step).await;
                }
                let recording = crate::Recording::new(real.clone());
                let mut answers = Vec::new();
                for step in &steps {
                    answers.push(answer(&recording, step.clone()).await);
                }
                for step in meanwhile {
                    answer(&*real, step).await;
                }
                let overlay = Overlay::new(real, recording.first_values().expect("it is small"), Limits::default());
                for (step, expected) in steps.into_iter().zip(answers) {
                    prop_assert_eq!(answer(&overlay, step.clone()).await, expected, "{:?}", step);
                }
                Ok(())
            })?;
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be started").block_on(future)
    }
}
