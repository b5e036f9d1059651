//! A small key-value state, and what it should be.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use txlog::medium::Folder;
use txlog::medium::simulation::{Image, Simulated};
use txlog::{
    CommitError, Config, Entry, Live, OpenError, Operation, Position, Record, Recovery, State, SyncPolicy, TxLog,
};

/// One change: a key, and its value unless it is deleted.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Values by bucket and key, each with the sequence that set it.
pub(crate) type Table = BTreeMap<(Vec<u8>, Vec<u8>), (u64, Vec<u8>)>;

pub(crate) const BUCKET: &[u8] = b"b";

pub(crate) struct Job {
    pub(crate) changes: Vec<Change>,
    pub(crate) done: Sender<Result<u64, CommitError>>,
    sequence: u64,
}

pub(crate) fn job(changes: Vec<Change>, done: Sender<Result<u64, CommitError>>) -> Job {
    Job { changes, done, sequence: 0 }
}

/// What is committed, and what was decided since.
#[derive(Default)]
pub(crate) struct Map {
    inner: Mutex<Inner>,
    /// Done once, when a compaction begins to look.
    pub(crate) on_visit: Hook,
    /// Done once, when a job is decided.
    pub(crate) on_decide: Hook,
}

pub(crate) type Hook = Mutex<Option<Box<dyn FnOnce() + Send>>>;

fn run(hook: &Hook) {
    let hook = hook.lock().unwrap().take();
    if let Some(hook) = hook {
        hook();
    }
}

#[derive(Default)]
struct Inner {
    table: Table,
    pending: Vec<(u64, Change)>,
    /// All records that were decided and published: what the log should hold.
    history: Vec<(u64, Vec<Change>)>,
}

impl Map {
    pub(crate) fn table(&self) -> Table {
        self.inner().table.clone()
    }

    /// The records that were committed, with their sequences.
    pub(crate) fn history(&self) -> Vec<(u64, Vec<Change>)> {
        self.inner().history.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

pub(crate) fn apply(table: &mut Table, sequence: u64, (key, value): &Change) {
    let place = (BUCKET.to_vec(), key.clone());
    match value {
        Some(value) => table.insert(place, (sequence, value.clone())),
        None => table.remove(&place),
    };
}

pub(crate) fn apply_entry(table: &mut Table, entry: Entry<'_>) {
    match entry.operation {
        Operation::Set { bucket, key, value } => {
            table.insert((bucket.to_vec(), key.to_vec()), (entry.sequence, value.to_vec()));
        }
        Operation::Delete { bucket, key } => {
            table.remove(&(bucket.to_vec(), key.to_vec()));
        }
    }
}

impl State for Map {
    type Job = Job;

    fn replay(&self, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        apply_entry(&mut self.inner().table, entry);
        Ok(())
    }

    fn decide(&self, job: &mut Job, record: &mut Record) {
        run(&self.on_decide);
        let mut inner = self.inner();
        job.sequence = record.sequence();
        for (key, value) in &job.changes {
            match value {
                Some(value) => record.set(BUCKET, key, value).unwrap(),
                None => record.delete(BUCKET, key).unwrap(),
            }
            inner.pending.push((record.sequence(), (key.clone(), value.clone())));
        }
    }

    fn publish(&self) {
        let mut inner = self.inner();
        for (sequence, change) in std::mem::take(&mut inner.pending) {
            apply(&mut inner.table, sequence, &change);
            match inner.history.last_mut() {
                Some((last, changes)) if *last == sequence => changes.push(change),
                _ => inner.history.push((sequence, vec![change])),
            }
        }
    }

    fn discard(&self) {
        self.inner().pending.clear();
    }

    fn answer(&self, job: Job, outcome: Result<(), CommitError>) {
        // A test that doesn't want to know has dropped it.
        let _ = job.done.send(outcome.map(|()| job.sequence));
    }

    fn visit(&self, after: Option<&Position>, bytes: usize, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Position> {
        use std::ops::Bound::{Excluded, Unbounded};
        run(&self.on_visit);
        let inner = self.inner();
        let from = after.map_or(Unbounded, |after| Excluded((after.bucket.clone(), after.key.clone())));
        let mut visited = 0;
        for ((bucket, key), (sequence, value)) in inner.table.range((from, Unbounded)) {
            visit(Entry { sequence: *sequence, operation: Operation::Set { bucket, key, value } });
            visited += bucket.len() + key.len() + value.len();
            if visited >= bytes {
                return Some(Position { bucket: bucket.clone(), key: key.clone() });
            }
        }
        None
    }

    fn live(&self) -> Live {
        let table = &self.inner().table;
        let bytes = table.iter().map(|((bucket, key), (_, value))| bucket.len() + key.len() + value.len());
        Live { keys: table.len() as u64, bytes: bytes.sum::<usize>() as u64 }
    }
}

/// A log of a [`Map`].
pub(crate) struct Opened {
    pub(crate) log: TxLog<Map>,
    pub(crate) map: Arc<Map>,
    pub(crate) recovery: Recovery,
}

impl Opened {
    pub(crate) fn submit(&self, changes: Vec<Change>) -> Receiver<Result<u64, CommitError>> {
        let (done, outcome) = mpsc::channel();
        self.log.submit(job(changes, done), 0).unwrap();
        outcome
    }

    /// Writes and waits for the answer.
    pub(crate) fn write(&self, changes: Vec<Change>) -> Result<u64, CommitError> {
        self.submit(changes).recv().unwrap()
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> Result<u64, CommitError> {
        self.write(vec![set(key, value)])
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let table = self.map.table();
        table.get(&(BUCKET.to_vec(), key.into())).map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    }
}

pub(crate) fn set(key: &str, value: &str) -> Change {
    (key.into(), Some(value.into()))
}

pub(crate) fn delete(key: &str) -> Change {
    (key.into(), None)
}

/// Segments so small that a few records fill one.
pub(crate) fn tiny(sync: SyncPolicy) -> Config {
    Config { segment_bytes: 300, compact_bytes: u64::MAX, sync, ..Config::default() }
}

pub(crate) fn try_open(folder: Arc<dyn Folder>, config: Config) -> Result<Opened, OpenError> {
    let map = Arc::new(Map::default());
    let (log, recovery) = TxLog::open_in(folder, config, Arc::clone(&map))?;
    Ok(Opened { log, map, recovery })
}

pub(crate) fn open(folder: &Simulated, config: Config) -> Opened {
    try_open(Arc::new(folder.clone()), config).unwrap()
}

/// What is in a log, and what opening it would do.
pub(crate) fn read(image: &Image) -> Result<(Table, Recovery), OpenError> {
    let mut table = Table::new();
    let recovery = txlog::dump_in(&Simulated::new(image.clone()), |_, entry| {
        apply_entry(&mut table, entry);
        Ok(())
    })?;
    Ok((table, recovery))
}

/// What a table is after each record: after record `n` at `n`.
pub(crate) fn states(history: &[(u64, Vec<Change>)]) -> Vec<Table> {
    let mut states = vec![Table::new()];
    for (sequence, changes) in history {
        assert_eq!(*sequence, states.len() as u64, "sequences have no gaps");
        let mut table = states[states.len() - 1].clone();
        changes.iter().for_each(|change| apply(&mut table, *sequence, change));
        states.push(table);
    }
    states
}

/// Long enough for what is expected to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) fn eventually(what: &str, so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}
