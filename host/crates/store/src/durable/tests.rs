mod medium;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Waker};

use proptest::prelude::*;
use tempfile::TempDir;
use txlog::medium::Folder;
use txlog::medium::simulation::{Event, Image, Simulated, crashes};

use super::*;
use crate::contract::{Kept, behaves_like_a_map_across_openings};
use medium::{Fault, Medium};

fn open_in<F: Folder + Clone>(medium: &F, config: Config) -> DurableStore {
    let opened = DurableStore::open_by(config, |config, keys| TxLog::open_in(Arc::new(medium.clone()), config, keys));
    opened.expect("a sound medium").0
}

async fn open(limits: Limits) -> Arc<dyn Store> {
    Arc::new(open_in(&Medium::default(), Config { limits, ..Config::default() }))
}

crate::contract_tests!(open);

/// A store in a folder of its own.
struct InFolder {
    store: DurableStore,
    folder: TempDir,
    limits: Limits,
}

impl InFolder {
    fn open_in(folder: TempDir, limits: Limits) -> Self {
        let (store, recovery) =
            DurableStore::open(folder.path(), Config { limits, ..Config::default() }).expect("the folder is whole");
        assert_eq!((recovery.torn, recovery.lost), (None, 0));
        Self { store, folder, limits }
    }
}

impl Kept for InFolder {
    fn open(limits: Limits) -> Self {
        Self::open_in(tempfile::tempdir().expect("a temporary folder"), limits)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Orderly, and then from a snapshot; or from a copy of what is there, as after `kill -9`.
    fn reopen(self, orderly: bool) -> Self {
        let Self { store, folder, limits } = self;
        if orderly {
            store.compact().expect("a sound disk");
            store.close().expect("a sound disk");
            return Self::open_in(folder, limits);
        }
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in fs::read_dir(folder.path()).expect("it can be read") {
            let file = file.expect("it can be read");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("it can be copied");
        }
        Self::open_in(copy, limits)
    }
}

#[test]
fn behaves_like_a_map_wherever_it_ends() {
    behaves_like_a_map_across_openings::<InFolder>();
}

#[derive(Clone, Debug)]
enum Write {
    Set(&'static str, i64),
    Delete(&'static str),
    Increment(&'static str, i64),
    SetMany(Vec<(&'static str, i64)>),
    DeleteMany(Vec<&'static str>),
    Compact,
}

fn write() -> impl Strategy<Value = Write> {
    let key = || prop::sample::select(vec!["a", "b", "c"]);
    let number = -9..100_i64;
    prop_oneof![
        3 => (key(), number.clone()).prop_map(|(key, number)| Write::Set(key, number)),
        2 => key().prop_map(Write::Delete),
        2 => (key(), -3..4_i64).prop_map(|(key, delta)| Write::Increment(key, delta)),
        2 => prop::collection::vec((key(), number), 1..4).prop_map(Write::SetMany),
        1 => prop::collection::vec(key(), 1..4).prop_map(Write::DeleteMany),
        1 => Just(Write::Compact),
    ]
}

impl Write {
    /// To a map, and to a store, where it is acknowledged.
    async fn apply(&self, model: &mut BTreeMap<String, String>, store: &DurableStore) {
        let (main, done) = (Bucket::default(), "the medium is sound");
        let text = |number: &i64| number.to_string();
        match self {
            Write::Set(key, number) => {
                model.insert((*key).to_owned(), text(number));
                store.set(&main, key, text(number).into()).await.expect(done);
            }
            Write::Delete(key) => {
                let existed = model.remove(*key).is_some();
                assert_eq!(store.delete(&main, key).await, Ok(existed));
            }
            Write::Increment(key, delta) => {
                let before: i64 = model.get(*key).map_or(0, |text| text.parse().expect("all values are numbers"));
                model.insert((*key).to_owned(), text(&(before + delta)));
                assert_eq!(store.increment(&main, key, *delta).await, Ok(before + delta));
            }
            Write::SetMany(values) => {
                model.extend(values.iter().map(|(key, number)| ((*key).to_owned(), text(number))));
                let values = values.iter().map(|(key, number)| ((*key).to_owned(), text(number).into()));
                store.set_many(&main, values.collect()).await.expect(done);
            }
            Write::DeleteMany(keys) => {
                model.retain(|key, _| !keys.contains(&key.as_str()));
                let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
                store.delete_many(&main, &keys).await.expect(done);
            }
            Write::Compact => {
                store.compact().expect(done);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Killed or without power at any moment, the store opens with every write that was acknowledged, and at most with
    /// the whole of the one under way.
    #[test]
    fn a_crash_at_any_moment_loses_nothing(writes in prop::collection::vec(write(), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be started");
        let medium = Simulated::default();
        let mut model = BTreeMap::new();
        let mut states = vec![model.clone()];
        let store = open_in(&medium, Config::default());
        for (number, write) in (1..).zip(&writes) {
            runtime.block_on(write.apply(&mut model, &store));
            medium.note(number);
            states.push(model.clone());
        }
        drop(store);
        crashes(&Image::new(), &medium.events(), false, |crash| {
            let acknowledged = crash.events.iter().filter(|event| matches!(event, Event::Note(_))).count();
            let store = open_in(&Simulated::new(crash.image), Config::default());
            let table = store.keys.read();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let held: BTreeMap<_, _> = table.entries_after(None).map(|(_, key, value, _)| (key.to_owned(), text(value))).collect();
            let possible = &states[acknowledged..states.len().min(acknowledged + 2)];
            assert!(possible.contains(&held), "{held:?} after {acknowledged} of {writes:?}: {:?}", crash.events.last());
        });
    }
}

fn value(text: &'static str) -> Value {
    Value::from_static(text.as_bytes())
}

/// Lets a write begin: it is in the log's queue.
fn begin<T>(write: &mut BoxFuture<'_, T>) {
    assert!(Pin::new(write).poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it waits for the medium");
}

/// A store whose next write waits in its sync.
async fn stalled(medium: &Medium) -> DurableStore {
    let store = open_in(medium, Config::default());
    store.set(&Bucket::default(), "before", value("v")).await.expect("set");
    medium.set(Some(Fault::Stalled));
    store
}

#[tokio::test]
async fn nobody_reads_what_could_still_be_lost() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = stalled(&medium).await;
    let syncs = medium.syncs();
    let mut write = store.set(&main, "k", value("v"));
    begin(&mut write);
    medium.wait_for_syncs(syncs + 1);
    assert_eq!(store.get(&main, "k").await, Ok(None));
    assert_eq!(store.get(&main, "before").await, Ok(Some(value("v"))), "reads don't wait");
    assert_eq!(store.stats().map(|stats| stats.keys), Some(1));
    medium.set(None);
    assert_eq!(write.await, Ok(()));
    assert_eq!(store.get(&main, "k").await, Ok(Some(value("v"))));
}

#[tokio::test]
async fn writes_that_wait_share_a_sync() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = stalled(&medium).await;
    let syncs = medium.syncs();
    let mut writes: Vec<_> = (0..50).map(|_| store.increment(&main, "n", 1)).collect();
    begin(&mut writes[0]);
    medium.wait_for_syncs(syncs + 1);
    writes[1..].iter_mut().for_each(begin);
    medium.set(None);
    for (number, write) in (1..).zip(writes) {
        assert_eq!(write.await, Ok(number), "each is decided upon those before it");
    }
    assert_eq!(medium.syncs(), syncs + 2);
}

#[tokio::test]
async fn a_write_that_is_given_up_in_the_queue_does_not_happen() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = stalled(&medium).await;
    let syncs = medium.syncs();
    let (mut first, mut second) = (store.set(&main, "first", value("v")), store.set(&main, "second", value("v")));
    begin(&mut first);
    medium.wait_for_syncs(syncs + 1);
    begin(&mut second);
    drop((first, second));
    medium.set(None);
    assert_eq!(store.increment(&main, "n", 1).await, Ok(1));
    assert_eq!(store.exists(&main, "first").await, Ok(true), "it was decided, nobody heard of it");
    assert_eq!(store.exists(&main, "second").await, Ok(false));
}

#[tokio::test]
async fn what_was_begun_is_seen_when_it_is_durable() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = stalled(&medium).await;
    let syncs = medium.syncs();
    let begin = |key| store.begin(&main, key, Some(&value("v"))).expect("it can be written").expect("there is room");
    let begun = begin("begun");
    medium.wait_for_syncs(syncs + 1);
    drop(begin("dropped"));
    assert_eq!(store.exists(&main, "begun").await, Ok(false));
    medium.set(None);
    assert_eq!(begun.await, Ok(()));
    assert_eq!(store.exists(&main, "begun").await, Ok(true));
    assert_eq!(store.increment(&main, "n", 1).await, Ok(1));
    assert_eq!(store.exists(&main, "dropped").await, Ok(true), "it came before");
}

#[tokio::test]
async fn nothing_is_begun_that_would_have_to_wait_for_room() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = stalled(&medium).await;
    let large = Value::from(vec![0; Limits::default().value]);
    let begin = || store.begin(&main, "k", Some(&large)).expect("it can be written");
    let begun: Vec<_> = std::iter::from_fn(begin).collect();
    assert_eq!(begun.len(), QUEUED as usize / (large.len() + "k".len() + JOB));
    medium.set(None);
    for begun in begun {
        assert_eq!(begun.await, Ok(()));
    }
    assert!(begin().is_some());
}

#[tokio::test]
async fn a_full_disk_changes_nothing_until_there_is_room() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = open_in(&medium, Config::default());
    store.set(&main, "n", value("1")).await.expect("set");
    let version = store.read_versioned(&main, "n").await.expect("read").version;
    medium.set(Some(Fault::Full));
    let begun = store.begin(&main, "n", Some(&value("9"))).expect("that isn't known yet").expect("there is room");
    assert_eq!(begun.await, Err(Error::DiskFull));
    assert_eq!(store.increment(&main, "n", 1).await, Err(Error::DiskFull));
    assert_eq!(store.delete(&main, "n").await, Err(Error::DiskFull));
    assert_eq!(store.get(&main, "n").await, Ok(Some(value("1"))));
    medium.set(None);
    assert_eq!(store.swap(&main, "n", version, value("2")).await, Ok(Swap::Done), "the version is what it was");
    assert_eq!(store.increment(&main, "n", 1).await, Ok(3));
    drop(store);
    let store = open_in(&medium, Config::default());
    assert_eq!(store.get(&main, "n").await, Ok(Some(value("3"))));
    assert_eq!(store.stats(), Some(Stats { keys: 1, bytes: 2 }));
}

/// Remembers why it failed.
#[derive(Default)]
struct Failures(Mutex<Vec<String>>);

impl Observer for Failures {
    fn failed(&self, reason: &str) {
        self.0.lock().expect("no panics").push(reason.to_owned());
    }
}

#[tokio::test]
async fn after_a_failed_sync_no_write_is_acknowledged() {
    let (medium, main, failures) = (Medium::default(), Bucket::default(), Arc::new(Failures::default()));
    let store = open_in(&medium, Config { observer: failures.clone(), ..Config::default() });
    store.set(&main, "k", value("before")).await.expect("set");
    medium.set(Some(Fault::Broken));
    for _ in 0..3 {
        assert!(matches!(store.set(&main, "k", value("after")).await, Err(Error::Failed(_))));
        medium.set(None);
    }
    assert_eq!(store.get(&main, "k").await, Ok(Some(value("before"))), "reads go on");
    assert!(matches!(store.close(), Err(Error::Failed(_))));
    let failures = failures.0.lock().expect("no panics");
    assert!(matches!(&failures[..], [reason] if reason.contains("input/output error")), "{failures:?}");
}

#[tokio::test]
async fn a_version_never_comes_back() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = open_in(&medium, Config::default());
    let never = store.read_versioned(&main, "k").await.expect("read").version;
    store.set(&main, "k", value("v")).await.expect("set");
    let set = store.read_versioned(&main, "k").await.expect("read").version;
    store.set(&main, "other", value("v")).await.expect("set");
    store.compact().expect("a sound medium");
    drop(store);

    let store = open_in(&medium, Config::default());
    assert_eq!(store.read_versioned(&main, "k").await.map(|read| read.version), Ok(set), "it is in the snapshot");
    store.delete(&main, "k").await.expect("delete");
    store.compact().expect("a sound medium");
    drop(store);

    // Nothing on disk says that there ever was such a key.
    let store = open_in(&medium, Config::default());
    for version in [never, set] {
        assert!(matches!(store.swap(&main, "k", version, value("v")).await, Ok(Swap::Conflict(_))), "{version}");
    }
}

#[tokio::test]
async fn a_closed_store_refuses_writes() {
    let (medium, main) = (Medium::default(), Bucket::default());
    let store = open_in(&medium, Config::default());
    store.set(&main, "k", value("v")).await.expect("set");
    assert_eq!(store.close(), Ok(()));
    assert!(matches!(store.set(&main, "k", value("w")).await, Err(Error::Failed(_))));
    assert!(matches!(store.begin(&main, "k", None), Ok(None)), "whoever waits hears why");
    assert_eq!(store.get(&main, "k").await, Ok(Some(value("v"))));
    assert_eq!(store.close(), Ok(()), "again");
}

#[test]
fn what_is_not_a_stores_is_refused() {
    let keys = Keys::new(Limits::default());
    let replay = |bucket, key| {
        let operation = txlog::Operation::Set { bucket, key, value: b"v" };
        txlog::State::replay(&keys, txlog::Entry { sequence: 1, operation })
    };
    assert!(replay(b"default", b"k").is_ok());
    for (bucket, key) in [(&b"no bucket"[..], &b"k"[..]), (b"\xff", b"k"), (b"default", b"\xff")] {
        assert!(replay(bucket, key).is_err(), "{bucket:?} {key:?}");
    }
    assert_eq!(keys.read().stats().keys, 1);
}
