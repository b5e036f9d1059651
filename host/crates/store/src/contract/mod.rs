//! What every backend has to pass. For tests only, behind the feature `contract-tests`.
//!
//! ```ignore
//! async fn open(limits: Limits) -> Arc<dyn Store> { /* an empty store */ }
//! store::contract_tests!(open);
//! ```
//!
//! expands to one test per case (the crate needs tokio with `macros` and `rt-multi-thread`). Every case opens stores of
//! its own. What a backend promises beyond the contract (surviving a crash, reconnecting) it tests itself; for one that
//! keeps its data, there is [`behaves_like_a_map_across_openings`].

mod model;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use crate::{Bucket, Error, Limits, Page, Store, Swap, Value, Versioned};

pub use model::{Kept, behaves_like_a_map, behaves_like_a_map_across_openings};

/// Makes a test of each case, with stores opened by `$open`: `async fn(Limits) -> Arc<dyn Store>`.
#[macro_export]
macro_rules! contract_tests {
    ($open:path) => {
        $crate::contract_tests! { @cases $open;
            sets_gets_and_deletes
            keeps_any_text_and_any_bytes
            keeps_buckets_apart
            refuses_what_is_too_large
            refuses_only_growth_when_full
            increments_numbers
            swaps_only_what_is_unchanged
            applies_batches
            lists_in_order
            lists_stably_under_writes
            loses_no_increment
            loses_no_swap
            shows_no_half_of_a_batch
            shows_what_was_acknowledged
            does_nothing_before_it_is_polled
            does_what_it_has_begun
        }

        #[test]
        fn behaves_like_a_map() {
            $crate::contract::behaves_like_a_map($open);
        }
    };
    (@cases $open:path; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $crate::contract::$case($open).await;
            }
        )*
    };
}

/// Opens an empty store with these limits.
pub trait Open: Fn(Limits) -> Self::Opening {
    /// It may take a while.
    type Opening: Future<Output = Arc<dyn Store>>;
}

impl<O: Fn(Limits) -> F, F: Future<Output = Arc<dyn Store>>> Open for O {
    type Opening = F;
}

fn bucket(name: &str) -> Bucket {
    name.parse().expect("tests use valid names")
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn value(text: &str) -> Value {
    Bytes::copy_from_slice(text.as_bytes())
}

/// One key: set, overwritten, deleted, deleted again.
pub async fn sets_gets_and_deletes<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    assert_eq!(store.get(&main, "k").await, Ok(None));
    assert_eq!(store.exists(&main, "k").await, Ok(false));
    assert_eq!(store.delete(&main, "k").await, Ok(false));

    for text in ["one", "", "two"] {
        assert_eq!(store.set(&main, "k", value(text)).await, Ok(()));
        assert_eq!(store.get(&main, "k").await, Ok(Some(value(text))));
        assert_eq!(store.exists(&main, "k").await, Ok(true));
    }
    assert_eq!(store.get(&main, "K").await, Ok(None), "case matters");

    assert_eq!(store.delete(&main, "k").await, Ok(true));
    assert_eq!(store.get(&main, "k").await, Ok(None));
    assert_eq!(store.exists(&main, "k").await, Ok(false));
    assert_eq!(store.delete(&main, "k").await, Ok(false));
}

/// Keys of any text up to the limit, values of any bytes up to the limit.
pub async fn keeps_any_text_and_any_bytes<O: Open>(open: O) {
    let (store, main, limits) = (open(Limits::default()).await, Bucket::default(), Limits::default());
    let longest = "x".repeat(limits.key);
    let odd =
        ["a/b", "a//b/", "..", "/", " ", "a b", "\0", "a\nb", "%2F", "?#&", "ä", "🚂", "\u{7f}", longest.as_str()];
    let all_bytes: Value = (0..=255).collect::<Vec<u8>>().into();
    for (index, key) in odd.iter().enumerate() {
        let value: Value = [all_bytes.as_ref(), &[index as u8]].concat().into();
        assert_eq!(store.set(&main, key, value).await, Ok(()), "{key:?}");
    }
    for (index, key) in odd.iter().enumerate() {
        let value: Value = [all_bytes.as_ref(), &[index as u8]].concat().into();
        assert_eq!(store.get(&main, key).await, Ok(Some(value)), "{key:?}");
    }
    let mut sorted = keys(&odd);
    sorted.sort_unstable();
    assert_eq!(store.list(&main, None, 1000).await, Ok(Page { keys: sorted, next: None }));

    let largest: Value = vec![0xff; limits.value].into();
    assert_eq!(store.set(&main, &longest, largest.clone()).await, Ok(()));
    assert_eq!(store.get(&main, &longest).await, Ok(Some(largest)));
}

/// The same key in two buckets is two keys; the empty bucket's name is `default`.
pub async fn keeps_buckets_apart<O: Open>(open: O) {
    let (store, left, right) = (open(Limits::default()).await, bucket("left"), bucket("right"));
    store.set(&left, "k", value("l")).await.expect("set");
    assert_eq!(store.get(&right, "k").await, Ok(None));
    store.set(&right, "k", value("r")).await.expect("set");
    assert_eq!(store.get(&left, "k").await, Ok(Some(value("l"))));
    assert_eq!(store.delete(&left, "k").await, Ok(true));
    assert_eq!(store.get(&right, "k").await, Ok(Some(value("r"))));
    assert_eq!(store.list(&left, None, 10).await, Ok(Page::default()));

    store.set(&bucket(""), "k", value("d")).await.expect("set");
    assert_eq!(store.get(&bucket("default"), "k").await, Ok(Some(value("d"))));
}

/// Every method refuses an empty key, and what is one above a limit; nothing changes.
pub async fn refuses_what_is_too_large<O: Open>(open: O) {
    let limits = Limits { key: 8, value: 16, batch: 3, batch_bytes: 51, ..Limits::default() };
    let (store, main) = (open(limits).await, Bucket::default());
    let large = || value(&"v".repeat(17));
    for (key, error) in [("", Error::EmptyKey), ("123456789", Error::KeyTooLarge { len: 9, limit: 8 })] {
        let batch = vec![("ok".to_owned(), value("v")), (key.to_owned(), value("v"))];
        assert_eq!(store.get(&main, key).await, Err(error.clone()));
        assert_eq!(store.set(&main, key, value("v")).await, Err(error.clone()));
        assert_eq!(store.delete(&main, key).await, Err(error.clone()));
        assert_eq!(store.exists(&main, key).await, Err(error.clone()));
        assert_eq!(store.increment(&main, key, 1).await, Err(error.clone()));
        assert_eq!(store.read_versioned(&main, key).await, Err(error.clone()));
        assert_eq!(store.swap(&main, key, 0, value("v")).await, Err(error.clone()));
        assert_eq!(store.get_many(&main, &keys(&["ok", key])).await, Err(error.clone()));
        assert_eq!(store.set_many(&main, batch).await, Err(error.clone()));
        assert_eq!(store.delete_many(&main, &keys(&["ok", key])).await, Err(error));
    }

    let error = Error::ValueTooLarge { len: 17, limit: 16 };
    let batch = vec![("ok".to_owned(), value("v")), ("k".to_owned(), large())];
    assert_eq!(store.set(&main, "k", large()).await, Err(error.clone()));
    assert_eq!(store.swap(&main, "k", 0, large()).await, Err(error.clone()));
    assert_eq!(store.set_many(&main, batch).await, Err(error));

    let error = Error::BatchTooLarge { len: 4, limit: 3 };
    let four = keys(&["a", "b", "c", "d"]);
    let batch = four.iter().map(|key| (key.clone(), value("v"))).collect();
    assert_eq!(store.get_many(&main, &four).await, Err(error.clone()));
    assert_eq!(store.set_many(&main, batch).await, Err(error.clone()));
    assert_eq!(store.delete_many(&main, &four).await, Err(error));

    let heavy = ["aa", "bb", "c"].map(|key| (key.to_owned(), value(&"v".repeat(16)))).to_vec();
    assert_eq!(store.set_many(&main, heavy).await, Err(Error::BatchTooHeavy { len: 53, limit: 51 }));

    assert_eq!(store.list(&main, None, 10).await, Ok(Page::default()), "nothing was written");
    assert_eq!(store.set(&main, "12345678", value(&"v".repeat(16))).await, Ok(()), "exactly at the limits");
    assert_eq!(
        store.set_many(&main, four[..3].iter().map(|key| (key.clone(), value(&"v".repeat(16)))).collect()).await,
        Ok(())
    );
    let limits = Limits { batch: 4, ..limits };
    let store = open(limits).await;
    for key in &four {
        assert_eq!(store.set(&main, key, value(&"v".repeat(16))).await, Ok(()));
    }
    assert_eq!(store.get_many(&main, &four).await, Err(Error::BatchTooHeavy { len: 64, limit: 51 }), "to be read");
    assert_eq!(store.get_many(&main, &four[..3]).await.map(|values| values.len()), Ok(3));
}

/// A full store refuses what would make it larger, and takes everything else.
pub async fn refuses_only_growth_when_full<O: Open>(open: O) {
    let limits = Limits { value: 4096, total: 16 << 10, ..Limits::default() };
    let (store, main) = (open(limits).await, Bucket::default());
    let full = Error::Full { limit: limits.total };
    let block = |len: usize| Value::from(vec![7; len]);

    let mut held = Vec::new();
    let refused = loop {
        let key = format!("key-{}", held.len());
        match store.set(&main, &key, block(1024)).await {
            Ok(()) => held.push(key),
            Err(error) => break (key, error),
        }
        assert!(held.len() <= 16, "holds more than its limit");
    };
    assert_eq!(refused, (format!("key-{}", held.len()), full.clone()));
    assert!(held.len() >= 8, "full already with {} KiB of 16", held.len());

    let version = store.read_versioned(&main, "new").await.expect("read").version;
    let batch = vec![(held[0].clone(), block(1)), ("new".to_owned(), block(4096))];
    assert_eq!(store.set_many(&main, batch).await, Err(full.clone()));
    assert_eq!(store.swap(&main, "new", version, block(1024)).await, Err(full.clone()));
    assert_eq!(store.set(&main, &held[0], block(4096)).await, Err(full));
    assert_eq!(store.get(&main, &held[0]).await, Ok(Some(block(1024))), "a refused write changes nothing");
    assert_eq!(store.exists(&main, "new").await, Ok(false));

    assert_eq!(store.set(&main, &held[0], block(1023)).await, Ok(()), "smaller");
    assert_eq!(store.delete(&main, &held[1]).await, Ok(true));
    assert_eq!(store.set(&main, "new", block(1000)).await, Ok(()), "there is room again");
}

/// Decimal text, from nothing, in both directions, up to the ends of the range.
pub async fn increments_numbers<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    for (delta, sum) in [(5, 5), (-7, -2), (0, -2), (2, 0)] {
        assert_eq!(store.increment(&main, "n", delta).await, Ok(sum));
        assert_eq!(store.get(&main, "n").await, Ok(Some(value(&sum.to_string()))));
    }
    assert_eq!(store.increment(&main, "n", i64::MAX).await, Ok(i64::MAX));
    assert_eq!(store.increment(&main, "n", 1).await, Err(Error::Overflow));
    assert_eq!(store.get(&main, "n").await, Ok(Some(value(&i64::MAX.to_string()))), "unchanged");

    store.set(&main, "n", value(&i64::MIN.to_string())).await.expect("set");
    assert_eq!(store.increment(&main, "n", -1).await, Err(Error::Overflow));
    for text in ["", " 1", "1 ", "1.0", "one", "0x10", "9223372036854775808"] {
        store.set(&main, "n", value(text)).await.expect("set");
        assert_eq!(store.increment(&main, "n", 1).await, Err(Error::NotANumber), "{text:?}");
        assert_eq!(store.get(&main, "n").await, Ok(Some(value(text))), "unchanged");
    }
    store.set(&main, "n", Bytes::from_static(&[0xff])).await.expect("set");
    assert_eq!(store.increment(&main, "n", 1).await, Err(Error::NotANumber));
}

/// A swap fails after any write to its key, also if the key looks as it did (ABA), and says what there is now.
pub async fn swaps_only_what_is_unchanged<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    let read = || async { store.read_versioned(&main, "k").await.expect("read") };
    let swap = |version, text| {
        let store = &store;
        let main = &main;
        async move { store.swap(main, "k", version, value(text)).await.expect("swap") }
    };

    let absent = read().await;
    assert_eq!(absent.value, None);
    assert_eq!(swap(absent.version, "one").await, Swap::Done);
    let one = read().await;
    assert_eq!(one.value, Some(value("one")));
    assert_eq!(swap(absent.version, "two").await, Swap::Conflict(one.clone()), "it was absent, it isn't now");

    store.set(&main, "k", value("one")).await.expect("set");
    let again = read().await;
    assert_eq!(swap(one.version, "two").await, Swap::Conflict(again.clone()), "the same value was written again");

    store.delete(&main, "k").await.expect("delete");
    let Swap::Conflict(gone) = swap(again.version, "two").await else { panic!("it was deleted") };
    assert_eq!(gone.value, None);
    assert!(matches!(swap(absent.version, "two").await, Swap::Conflict(_)), "absent, but not for the first time");
    store.set(&main, "k", value("one")).await.expect("set");
    assert!(matches!(swap(again.version, "two").await, Swap::Conflict(_)), "deleted and created again");
    assert!(matches!(swap(gone.version, "two").await, Swap::Conflict(_)), "created");
    assert_eq!(read().await.value, Some(value("one")), "no failed swap wrote anything");

    let Versioned { version, .. } = read().await;
    store.increment(&main, "n", 1).await.expect("increment");
    assert_eq!(swap(version, "two").await, Swap::Done, "another key doesn't matter");
    let two = read().await;
    store.set_many(&main, vec![("k".to_owned(), value("two"))]).await.expect("set");
    assert!(matches!(swap(two.version, "three").await, Swap::Conflict(_)), "a batch wrote it");
    let two = read().await;
    store.delete_many(&main, &keys(&["k"])).await.expect("delete");
    assert!(matches!(swap(two.version, "three").await, Swap::Conflict(_)), "a batch deleted it");
    assert_eq!(swap(read().await.version, "three").await, Swap::Done);
}

/// Batches: order of answers, duplicates, absent keys, nothing at all.
pub async fn applies_batches<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    let batch = [("a", "1"), ("b", "2"), ("a", "3")].map(|(key, text)| (key.to_owned(), value(text)));
    assert_eq!(store.set_many(&main, batch.to_vec()).await, Ok(()));
    let answer = store.get_many(&main, &keys(&["b", "nobody", "a", "b"])).await;
    assert_eq!(answer, Ok(vec![Some(value("2")), None, Some(value("3")), Some(value("2"))]));
    assert_eq!(store.delete_many(&main, &keys(&["nobody", "a", "a"])).await, Ok(()));
    assert_eq!(store.list(&main, None, 10).await, Ok(Page { keys: keys(&["b"]), next: None }));

    assert_eq!(store.get_many(&main, &[]).await, Ok(Vec::new()));
    assert_eq!(store.set_many(&main, Vec::new()).await, Ok(()));
    assert_eq!(store.delete_many(&main, &[]).await, Ok(()));
}

/// Pages of every size, from any place.
pub async fn lists_in_order<O: Open>(open: O) {
    let limits = Limits { batch: 7, ..Limits::default() };
    let (store, main) = (open(limits).await, bucket("some"));
    assert_eq!(store.list(&main, None, 5).await, Ok(Page::default()));
    let mut all: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    for key in &all {
        store.set(&main, key, value("v")).await.expect("set");
    }
    store.set(&bucket("other"), "key-5x", value("v")).await.expect("set");
    all.sort_unstable();

    for limit in [0, 1, 3, 4, 7, 20, usize::MAX] {
        let (mut listed, mut after): (Vec<String>, _) = (Vec::new(), None);
        loop {
            let page = store.list(&main, after.as_deref(), limit).await.expect("list");
            assert!(!page.keys.is_empty() && page.keys.len() <= limit.clamp(1, 7), "{} keys", page.keys.len());
            listed.extend(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, all, "in pages of {limit}");
    }
    let from_between = store.list(&main, Some("key-18x"), 2).await.expect("list");
    assert_eq!(from_between.keys, keys(&["key-19", "key-2"]), "`after` need not exist");
    assert_eq!(store.list(&main, Some("z"), 2).await, Ok(Page::default()));
}

/// While others write and delete between them, the keys that stay are each listed once.
pub async fn lists_stably_under_writes<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    let stay: Vec<String> = (0..50).map(|number| format!("{number:02}-stays")).collect();
    store.set_many(&main, stay.iter().map(|key| (key.clone(), value("v"))).collect()).await.expect("set");

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, main, stop) = (store.clone(), main.clone(), stop.clone());
        async move {
            for number in (0..50).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("{number:02}-comes-and-goes");
                store.set(&main, &key, value("v")).await.expect("set");
                store.delete(&main, &key).await.expect("delete");
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..20 {
        let (mut listed, mut after): (Vec<String>, _) = (Vec::new(), None);
        loop {
            let page = store.list(&main, after.as_deref(), 3).await.expect("list");
            listed.extend(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(listed.is_sorted_by(|left, right| left < right), "in order, none twice: {listed:?}");
        listed.retain(|key| key.ends_with("stays"));
        assert_eq!(listed, stay);
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer runs until it is stopped");
}

/// Increments from many tasks add up.
pub async fn loses_no_increment<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    in_parallel(8, |_| {
        let (store, main) = (store.clone(), main.clone());
        async move {
            for _ in 0..100 {
                store.increment(&main, "n", 1).await.expect("increment");
            }
        }
    })
    .await;
    assert_eq!(store.increment(&main, "n", 0).await, Ok(800));
}

/// Swaps in a loop, from many tasks, add up, also while others delete the key's neighbours.
pub async fn loses_no_swap<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    in_parallel(4, |task| {
        let (store, main) = (store.clone(), main.clone());
        async move {
            for step in 0..50 {
                let mut now = store.read_versioned(&main, "n").await.expect("read");
                loop {
                    let number = now.value.map_or(0, |value| value.len());
                    let next = vec![b'x'; number + 1].into();
                    match store.swap(&main, "n", now.version, next).await.expect("swap") {
                        Swap::Done => break,
                        Swap::Conflict(newer) => now = newer,
                    }
                }
                let neighbour = format!("{task}-{step}");
                store.set(&main, &neighbour, value("v")).await.expect("set");
                store.delete(&main, &neighbour).await.expect("delete");
            }
        }
    })
    .await;
    let number = store.get(&main, "n").await.expect("get").map(|value| value.len());
    assert_eq!(number, Some(200));
}

/// Two tasks overwrite three keys with one batch each: a reader sees one of them, whole, or the deletion, whole.
pub async fn shows_no_half_of_a_batch<O: Open>(open: O) {
    let (store, main, names) = (open(Limits::default()).await, Bucket::default(), keys(&["a", "b", "c"]));
    in_parallel(4, |task| {
        let (store, main, names) = (store.clone(), main.clone(), names.clone());
        async move {
            for step in 0..100 {
                match task {
                    0 | 1 => {
                        let text = format!("{task}-{step}");
                        let batch = names.iter().map(|name| (name.clone(), value(&text))).collect();
                        store.set_many(&main, batch).await.expect("set");
                    }
                    2 => store.delete_many(&main, &names).await.expect("delete"),
                    _ => {
                        let values = store.get_many(&main, &names).await.expect("get");
                        assert!(values.iter().all(|value| *value == values[0]), "half a batch: {values:?}");
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// A read that starts after a write was acknowledged sees that write or a later one.
pub async fn shows_what_was_acknowledged<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    let acknowledged = Arc::new(AtomicU64::new(0));
    store.set(&main, "n", value("0")).await.expect("set");
    in_parallel(4, |task| {
        let (store, main, acknowledged) = (store.clone(), main.clone(), acknowledged.clone());
        async move {
            for number in 1..=100_u64 {
                if task == 0 {
                    store.set(&main, "n", value(&number.to_string())).await.expect("set");
                    acknowledged.store(number, Ordering::SeqCst);
                } else {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let seen = store.get(&main, "n").await.expect("get").expect("is never deleted");
                    let seen: u64 = String::from_utf8_lossy(&seen).parse().expect("a number was written");
                    assert!(seen >= least, "saw {seen} after {least} was acknowledged");
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// A future that was dropped at once did nothing.
pub async fn does_nothing_before_it_is_polled<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    drop(store.set(&main, "k", value("v")));
    assert_eq!(store.get(&main, "k").await, Ok(None));
}

/// Writes that were begun happen, in that order and before later ones, also those that nobody waits for. A backend need not
/// begin any.
pub async fn does_what_it_has_begun<O: Open>(open: O) {
    let (store, main) = (open(Limits::default()).await, Bucket::default());
    let begin = |key: &str, text: Option<&str>| {
        let begun = store.begin(&main, key, text.map(value).as_ref());
        begun.expect("there is nothing wrong with it")
    };
    assert_eq!(store.set(&main, "gone", value("v")).await, Ok(()));
    let Some(first) = begin("k", Some("first")) else { return };
    drop(begin("k", Some("dropped")));
    drop(begin("forgotten", Some("v")));
    let last = begin("gone", None);
    assert_eq!(store.increment(&main, "n", 1).await, Ok(1), "it comes after those that were begun");
    assert_eq!(store.get(&main, "k").await, Ok(Some(value("dropped"))));
    assert_eq!(store.get(&main, "forgotten").await, Ok(Some(value("v"))));
    assert_eq!(store.exists(&main, "gone").await, Ok(false));
    assert_eq!(first.await, Ok(()));
    assert_eq!(last.expect("there is room").await, Ok(()));

    let long = "x".repeat(Limits::default().key + 1);
    assert_eq!(store.begin(&main, "", Some(&value("v"))).map(drop), Err(Error::EmptyKey));
    assert!(matches!(store.begin(&main, &long, None).map(drop), Err(Error::KeyTooLarge { .. })));
    let large = Value::from(vec![0; Limits::default().value + 1]);
    assert!(matches!(store.begin(&main, "k", Some(&large)).map(drop), Err(Error::ValueTooLarge { .. })));
}

async fn in_parallel<F: Future<Output = ()> + Send + 'static>(tasks: usize, task: impl Fn(usize) -> F) {
    let tasks: Vec<_> = (0..tasks).map(|number| tokio::spawn(task(number))).collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
}
