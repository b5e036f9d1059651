//! Random operations, compared with a `BTreeMap`. Bounded: 59 operations at most, on 14 keys.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::{Open, bucket, value};
use crate::{Bucket, Error, Limits, Page, Store, Swap, Value, Versioned};

/// Any sequence of operations gives the answers that a map gives.
///
/// # Panics
/// With the shortest sequence that doesn't. `PROPTEST_CASES` sets how many are tried.
pub fn behaves_like_a_map<O: Open>(open: O) {
    check(prop::collection::vec(step(), 1..60), async |steps| {
        let (store, mut model) = (open(MODEL_LIMITS).await, Model::default());
        for step in steps {
            model.check(&*store, step).await?;
        }
        Ok(())
    });
}

/// A store that can be ended and opened again with what it has kept.
pub trait Kept: Sized {
    /// Opens an empty one.
    fn open(limits: Limits) -> Self;

    /// What is open.
    fn store(&self) -> &dyn Store;

    /// Ends it, in an orderly way or not, and opens it again.
    #[must_use]
    fn reopen(self, orderly: bool) -> Self;
}

/// Any sequence of operations gives the answers that a map gives, wherever the store ends and is opened again in between.
///
/// # Panics
/// As [`behaves_like_a_map`].
pub fn behaves_like_a_map_across_openings<K: Kept>() {
    let turn = prop_oneof![
        9 => step().prop_map(Turn::Step),
        1 => any::<bool>().prop_map(|orderly| Turn::Reopen { orderly }),
    ];
    check(prop::collection::vec(turn, 1..60), async |turns| {
        let (mut kept, mut model) = (K::open(MODEL_LIMITS), Model::default());
        for turn in turns {
            match turn {
                Turn::Step(step) => model.check(kept.store(), step).await?,
                Turn::Reopen { orderly } => {
                    kept = kept.reopen(orderly);
                    model.check_all(kept.store()).await?;
                }
            }
        }
        Ok(())
    });
}

#[derive(Clone, Debug)]
enum Turn {
    Step(Step),
    Reopen { orderly: bool },
}

/// Tries sequences until one fails, and panics with the shortest one that does.
fn check<T: std::fmt::Debug>(
    sequences: impl Strategy<Value = Vec<T>>,
    run: impl AsyncFn(Vec<T>) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be started");
    match TestRunner::default().run(&sequences, |steps| runtime.block_on(run(steps))) {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => panic!("{reason}\nsteps: {steps:#?}"),
        Err(error) => panic!("{error}"),
    }
}

/// Small, so that random operations meet them.
const MODEL_LIMITS: Limits = Limits { key: 6, value: 24, total: 1 << 20, batch: 4, batch_bytes: 60 };

#[derive(Clone, Debug)]
enum Step {
    Get(At),
    Exists(At),
    Set(At, Value),
    Delete(At),
    Increment(At, i64),
    /// Reads the key's version, to be used by a later `Swap`.
    Remember(At),
    /// With the version remembered last, for whichever key that was.
    Swap(Value),
    /// With a version read right before.
    SwapFresh(At, Value),
    List(usize, Option<String>, usize),
    GetMany(usize, Vec<String>),
    SetMany(usize, Vec<(String, Value)>),
    DeleteMany(usize, Vec<String>),
}

/// The index of a bucket, and a key.
type At = (usize, String);

fn step() -> impl Strategy<Value = Step> {
    let key = || {
        let key = prop::sample::select(vec!["a", "b", "a/b", "🚂", "\0", " ", "123456", "", "1234567"]);
        key.prop_map(str::to_owned)
    };
    let at = move || (0..2usize, key());
    let value = || {
        prop_oneof![
            3 => any::<i8>().prop_map(|number| value(&number.to_string())),
            1 => Just(value(&i64::MAX.to_string())),
            2 => prop::collection::vec(any::<u8>(), 0..26).prop_map(Value::from),
        ]
    };
    let many = move || prop::collection::vec(key(), 0..6);
    prop_oneof![
        3 => at().prop_map(Step::Get),
        1 => at().prop_map(Step::Exists),
        4 => (at(), value()).prop_map(|(at, value)| Step::Set(at, value)),
        3 => at().prop_map(Step::Delete),
        2 => (at(), -3..4i64).prop_map(|(at, delta)| Step::Increment(at, delta)),
        3 => at().prop_map(Step::Remember),
        3 => value().prop_map(Step::Swap),
        1 => (at(), value()).prop_map(|(at, value)| Step::SwapFresh(at, value)),
        2 => (0..2usize, prop::option::of(key()), 0..6usize)
            .prop_map(|(bucket, after, limit)| Step::List(bucket, after, limit)),
        1 => (0..2usize, many()).prop_map(|(bucket, keys)| Step::GetMany(bucket, keys)),
        2 => (0..2usize, prop::collection::vec((key(), value()), 0..6))
            .prop_map(|(bucket, values)| Step::SetMany(bucket, values)),
        1 => (0..2usize, many()).prop_map(|(bucket, keys)| Step::DeleteMany(bucket, keys)),
    ]
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    values: BTreeMap<At, Value>,
    /// How often a key was written or deleted.
    changes: BTreeMap<At, u64>,
    /// Where, with which version, and with how many changes `Remember` was last.
    remembered: Option<(At, u64, u64)>,
}

impl Model {
    fn get(&self, at: &At) -> Option<Value> {
        self.values.get(at).cloned()
    }

    fn changes(&self, at: &At) -> u64 {
        self.changes.get(at).copied().unwrap_or_default()
    }

    fn set(&mut self, at: At, value: Value) {
        *self.changes.entry(at.clone()).or_default() += 1;
        self.values.insert(at, value);
    }

    fn delete(&mut self, at: At) -> bool {
        let existed = self.values.remove(&at).is_some();
        *self.changes.entry(at).or_default() += u64::from(existed);
        existed
    }

    /// The store holds what it should, and nothing else.
    async fn check_all(&self, store: &dyn Store) -> Result<(), TestCaseError> {
        for (index, bucket) in [Bucket::default(), bucket("other")].iter().enumerate() {
            let inside: Vec<_> = self.values.iter().filter(|(at, _)| at.0 == index).collect();
            let (mut listed, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let page = store.list(bucket, after.as_deref(), usize::MAX).await;
                let page = page.map_err(|error| TestCaseError::fail(error.to_string()))?;
                listed.extend(page.keys);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert!(listed.iter().eq(inside.iter().map(|(at, _)| &at.1)), "{:?} is listed", listed);
            for (at, value) in inside {
                prop_assert_eq!(store.get(bucket, &at.1).await, Ok(Some(value.clone())));
            }
        }
        Ok(())
    }

    async fn check(&mut self, store: &dyn Store, step: Step) -> Result<(), TestCaseError> {
        let limits = MODEL_LIMITS;
        let buckets = [Bucket::default(), bucket("other")];
        match step {
            Step::Get(at) => {
                let expected = limits.check_key(&at.1).map(|()| self.get(&at));
                prop_assert_eq!(store.get(&buckets[at.0], &at.1).await, expected);
            }
            Step::Exists(at) => {
                let expected = limits.check_key(&at.1).map(|()| self.get(&at).is_some());
                prop_assert_eq!(store.exists(&buckets[at.0], &at.1).await, expected);
            }
            Step::Set(at, value) => {
                let expected = limits.check_key(&at.1).and_then(|()| limits.check_value(&value));
                prop_assert_eq!(&store.set(&buckets[at.0], &at.1, value.clone()).await, &expected);
                if expected.is_ok() {
                    self.set(at, value);
                }
            }
            Step::Delete(at) => {
                let answer = store.delete(&buckets[at.0], &at.1).await;
                let expected = limits.check_key(&at.1).map(|()| self.delete(at));
                prop_assert_eq!(answer, expected);
            }
            Step::Increment(at, delta) => {
                let number = || match self.get(&at) {
                    Some(value) => {
                        let text = std::str::from_utf8(&value).map_err(|_| Error::NotANumber)?;
                        text.parse::<i64>().map_err(|_| Error::NotANumber)
                    }
                    None => Ok(0),
                };
                let sum = limits.check_key(&at.1).and_then(|()| number());
                let expected = sum.and_then(|number| number.checked_add(delta).ok_or(Error::Overflow));
                prop_assert_eq!(&store.increment(&buckets[at.0], &at.1, delta).await, &expected);
                if let Ok(sum) = expected {
                    self.set(at, value(&sum.to_string()));
                }
            }
            Step::Remember(at) => match store.read_versioned(&buckets[at.0], &at.1).await {
                Ok(Versioned { value, version }) => {
                    prop_assert_eq!(value, self.get(&at));
                    let changes = self.changes(&at);
                    self.remembered = Some((at, version, changes));
                }
                Err(error) => prop_assert_eq!(Err(error), limits.check_key(&at.1)),
            },
            Step::Swap(value) => {
                let Some((at, version, changes)) = self.remembered.clone() else {
                    return Ok(());
                };
                match store.swap(&buckets[at.0], &at.1, version, value.clone()).await {
                    Ok(Swap::Done) => {
                        prop_assert_eq!(changes, self.changes(&at), "swapped though it had changed");
                        self.set(at, value);
                    }
                    // Versions may change without need: a conflict is never wrong, if it tells the truth.
                    Ok(Swap::Conflict(now)) => prop_assert_eq!(now.value, self.get(&at)),
                    Err(error) => prop_assert_eq!(Err(error), limits.check_value(&value)),
                }
            }
            Step::SwapFresh(at, value) => {
                if limits.check_key(&at.1).is_ok() && limits.check_value(&value).is_ok() {
                    let version = store.read_versioned(&buckets[at.0], &at.1).await.map(|read| read.version);
                    let version = version.map_err(|error| TestCaseError::fail(error.to_string()))?;
                    let answer = store.swap(&buckets[at.0], &at.1, version, value.clone()).await;
                    prop_assert_eq!(answer, Ok(Swap::Done));
                    self.set(at, value);
                }
            }
            Step::List(bucket, after, limit) => {
                let inside = self.values.keys().filter(|at| at.0 == bucket).map(|at| at.1.clone());
                let mut rest = inside.filter(|key| after.as_ref().is_none_or(|after| key > after));
                let keys: Vec<String> = rest.by_ref().take(limit.clamp(1, limits.batch)).collect();
                let next = rest.next().and_then(|_| keys.last().cloned());
                let answer = store.list(&buckets[bucket], after.as_deref(), limit).await;
                prop_assert_eq!(answer, Ok(Page { keys, next }));
            }
            Step::GetMany(bucket, keys) => {
                let values: Vec<_> = keys.iter().map(|key| self.get(&(bucket, key.clone()))).collect();
                let found = || limits.check_found(values.iter().flatten());
                let expected = limits.check_keys(&keys).and_then(|()| found()).map(|()| values.clone());
                prop_assert_eq!(store.get_many(&buckets[bucket], &keys).await, expected);
            }
            Step::SetMany(bucket, values) => {
                let expected = limits.check_values(&values);
                prop_assert_eq!(&store.set_many(&buckets[bucket], values.clone()).await, &expected);
                if expected.is_ok() {
                    values.into_iter().for_each(|(key, value)| self.set((bucket, key), value));
                }
            }
            Step::DeleteMany(bucket, keys) => {
                let expected = limits.check_keys(&keys);
                prop_assert_eq!(&store.delete_many(&buckets[bucket], &keys).await, &expected);
                if expected.is_ok() {
                    for key in keys {
                        self.delete((bucket, key));
                    }
                }
            }
        }
        Ok(())
    }
}
