//! Figures of the log alone, on the disk of the current folder. `just bench-log` runs it beside Redis.
//!
//! Usage: `bench write [WRITERS] [WRITES]`, `bench replay [MIB] [KEYS]`, `bench compact [MIB] [KEYS]`

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use txlog::{
    CommitError, Committed, Config, Entry, Live, Observer, Operation, Position, Progress, Record, State, TxLog,
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const VALUE: usize = 64;

/// As little state as a log can be compacted with: one value for each number up to a limit.
#[derive(Default)]
struct Numbers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By key; sequence 0 where there is none.
    values: Vec<(u64, Box<[u8]>)>,
    pending: Vec<(u64, u32, Box<[u8]>)>,
    keys: u64,
    bytes: u64,
}

struct Job {
    key: u32,
    value: Box<[u8]>,
    waiter: Arc<Waiter>,
}

/// A writer, asleep until its write is answered.
struct Waiter {
    thread: Thread,
    done: AtomicBool,
}

const BUCKET: &[u8] = b"default";

impl Numbers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, key: u32, sequence: u64, value: Box<[u8]>) {
        let at = key as usize;
        if self.values.len() <= at {
            self.values.resize(at + 1, (0, Box::default()));
        }
        let (before, old) = &self.values[at];
        self.bytes = self.bytes + value.len() as u64 - old.len() as u64;
        if *before == 0 {
            self.keys += 1;
            self.bytes += 8;
        }
        self.values[at] = (sequence, value);
    }
}

impl State for Numbers {
    type Job = Job;

    fn replay(&self, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Operation::Set { key, value, .. } = entry.operation else { return Err("nothing was deleted".into()) };
        let key = u32::from_str_radix(std::str::from_utf8(key)?, 16)?;
        self.inner().put(key, entry.sequence, value.into());
        Ok(())
    }

    fn decide(&self, job: &mut Job, record: &mut Record) {
        record.set(BUCKET, format!("{:08x}", job.key).as_bytes(), &job.value).expect("small enough");
        self.inner().pending.push((record.sequence(), job.key, std::mem::take(&mut job.value)));
    }

    fn publish(&self) {
        let mut inner = self.inner();
        let mut pending = std::mem::take(&mut inner.pending);
        for (sequence, key, value) in pending.drain(..) {
            inner.put(key, sequence, value);
        }
        inner.pending = pending;
    }

    fn discard(&self) {
        self.inner().pending.clear();
    }

    fn answer(&self, job: Job, outcome: Result<(), CommitError>) {
        outcome.expect("a disk with room");
        job.waiter.done.store(true, Relaxed);
        job.waiter.thread.unpark();
    }

    fn visit(&self, after: Option<&Position>, bytes: usize, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Position> {
        let inner = self.inner();
        let from = after.map_or(0, |after| {
            let key = std::str::from_utf8(&after.key).ok().and_then(|key| usize::from_str_radix(key, 16).ok());
            key.expect("a key of ours") + 1
        });
        let mut visited = 0;
        for (key, (sequence, value)) in inner.values.iter().enumerate().skip(from).filter(|(_, value)| value.0 > 0) {
            let key = format!("{key:08x}").into_bytes();
            visit(Entry { sequence: *sequence, operation: Operation::Set { bucket: BUCKET, key: &key, value } });
            visited += key.len() + value.len();
            if visited >= bytes {
                return Some(Position { bucket: BUCKET.into(), key });
            }
        }
        None
    }

    fn live(&self) -> Live {
        let inner = self.inner();
        Live { keys: inner.keys, bytes: inner.bytes }
    }
}

/// Counts.
#[derive(Default)]
struct Counters {
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
    compactions: AtomicU64,
}

impl Observer for Counters {
    fn committed(&self, commit: Committed) {
        if let Some(sync) = commit.sync {
            self.syncs.fetch_add(1, Relaxed);
            self.sync_nanos.fetch_add(u64::try_from(sync.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    fn replaying(&self, Progress { done, total }: Progress) {
        println!("  replayed {} of {} MiB", done >> 20, total >> 20);
    }

    fn compacted(&self, _: &Result<txlog::Compaction, txlog::CompactError>) {
        self.compactions.fetch_add(1, Relaxed);
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: u64| arguments.get(n).map_or(Ok(default), |text| text.parse());
    let folder = Path::new("bench-log.tmp");
    let outcome = match arguments.first().map(String::as_str) {
        Some("write") => write(folder, number(1, 64)?, number(2, 300_000)?),
        Some("replay") => replay(folder, number(1, 1024)?, number(2, 1_000_000)?),
        Some("compact") => compact(folder, number(1, 1024)?, number(2, 1_000_000)?),
        _ => Err("usage: bench write|replay|compact [NUMBER] [NUMBER]".into()),
    };
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    outcome
}

/// Lets so many threads write small values, each waiting for its answer, until `stop`. Returns how long each took.
fn load(log: &TxLog<Numbers>, writers: u64, keys: u32, stop: impl Fn(u64) -> bool + Sync) -> Vec<Duration> {
    let writer = |n: u64| {
        let waiter = Arc::new(Waiter { thread: thread::current(), done: AtomicBool::new(false) });
        let (mut latencies, mut random) = (Vec::new(), n * 0x9e37_79b9 + 1);
        while !stop(latencies.len() as u64) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = u32::try_from((random >> 33) % u64::from(keys)).expect("less than a key");
            let start = Instant::now();
            waiter.done.store(false, Relaxed);
            let job = Job { key, value: vec![b'x'; VALUE].into(), waiter: Arc::clone(&waiter) };
            log.submit(job, VALUE + 64).expect("a queue with room");
            while !waiter.done.load(Relaxed) {
                thread::park();
            }
            latencies.push(start.elapsed());
        }
        latencies
    };
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers).map(|n| scope.spawn(move || writer(n))).collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer that doesn't panic")).collect()
    });
    latencies.sort_unstable();
    latencies
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn write(folder: &Path, writers: u64, writes: u64) -> Outcome {
    let counters = Arc::new(Counters::default());
    let config = Config { observer: counters.clone(), ..Config::default() };
    let (log, _) = TxLog::open(folder, config, Arc::default())?;
    let start = Instant::now();
    let latencies = load(&log, writers, 100_000, |done| done >= writes / writers);
    let seconds = start.elapsed().as_secs_f64();
    log.close()?;
    let (writes, syncs) = (latencies.len() as f64, counters.syncs.load(Relaxed));
    let sync = Duration::from_nanos(counters.sync_nanos.load(Relaxed) / syncs.max(1));
    println!(
        "{writers} writers, {VALUE} bytes, always: {:.0} writes/s, {:.0} syncs/s, {:.1} writes each, a sync takes {sync:.1?}; p50 {:.1?}, p99 {:.1?}",
        writes / seconds,
        syncs as f64 / seconds,
        writes / syncs as f64,
        percentile(&latencies, 50),
        percentile(&latencies, 99),
    );
    Ok(())
}

/// Fills a log with so many bytes for so many keys, without compaction and in large commits.
fn fill(folder: &Path, mib: u64, keys: u64) -> Outcome {
    let config = Config { compact_bytes: u64::MAX, sync: txlog::SyncPolicy::Never, ..Config::default() };
    let keys = u32::try_from(keys)?;
    let (log, _) = TxLog::<Numbers>::open(folder, config, Arc::default())?;
    // Each key is written twice, half of the bytes are garbage.
    let value = usize::try_from((mib << 20) / u64::from(keys) / 2)?.saturating_sub(63).max(1);
    let waiter = Arc::new(Waiter { thread: thread::current(), done: AtomicBool::new(false) });
    for key in (0..keys).chain(0..keys) {
        let mut job = Job { key, value: vec![b'x'; value].into(), waiter: Arc::clone(&waiter) };
        while let Err(rejected) = log.submit(job, value) {
            job = rejected.job;
            thread::park_timeout(Duration::from_millis(1));
        }
    }
    log.close()?;
    Ok(())
}

fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn replay(folder: &Path, mib: u64, keys: u64) -> Outcome {
    fill(folder, mib, keys)?;
    let start = Instant::now();
    txlog::verify(folder)?;
    println!("verify: {:.2?}", start.elapsed());
    let before = resident_mib();
    let config = Config { observer: Arc::new(Counters::default()), compact_bytes: u64::MAX, ..Config::default() };
    let state = Arc::new(Numbers::default());
    let start = Instant::now();
    let (log, recovery) = TxLog::open(folder, config, state)?;
    println!(
        "replay of {} MiB, {} records, {} keys: {:.2?}; {} MiB of memory more, {} MiB are live",
        recovery.bytes >> 20,
        recovery.records,
        keys,
        start.elapsed(),
        resident_mib() - before,
        log.stats().live_bytes >> 20,
    );
    log.close()?;
    Ok(())
}

fn compact(folder: &Path, mib: u64, keys: u64) -> Outcome {
    fill(folder, mib, keys)?;
    let keys = u32::try_from(keys)?;
    let config = Config { compact_bytes: u64::MAX, ..Config::default() };
    let (log, _) = TxLog::open(folder, config, Arc::<Numbers>::default())?;
    let phase = |name: &str, latencies: &[Duration], seconds: f64| {
        let (p50, p99) = (percentile(latencies, 50), percentile(latencies, 99));
        let max = percentile(latencies, 100);
        println!(
            "{name}: {:.0} writes/s, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}",
            latencies.len() as f64 / seconds
        );
        p99
    };
    // Twice: on a machine that does other things too, one says little.
    let quiet = |name: &str| {
        let start = Instant::now();
        let latencies = load(&log, 32, keys, |_| start.elapsed() > Duration::from_secs(5));
        phase(name, &latencies, 5.0)
    };
    let before = quiet("32 writers before");
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (latencies, compaction, took) = thread::scope(|scope| {
        let compaction = scope.spawn(|| {
            let compaction = log.compact();
            done.store(true, Relaxed);
            (compaction, start.elapsed())
        });
        let latencies = load(&log, 32, keys, |_| done.load(Relaxed));
        let (compaction, took) = compaction.join().expect("a compaction that doesn't panic");
        (latencies, compaction, took)
    });
    let during = phase("32 writers during", &latencies, took.as_secs_f64());
    let compaction = compaction?;
    println!("compaction: {took:.1?}, {} -> {} MiB", compaction.before >> 20, compaction.after >> 20);
    let after = quiet("32 writers after");
    let ratio = during.as_secs_f64() * 2.0 / (before + after).as_secs_f64();
    println!("p99 during, to the mean of before and after: {ratio:.2}");
    log.close()?;
    Ok(())
}
