//! Group commit: who shares a write, what is bounded, how it ends.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Opened, PATIENCE, delete, eventually, job, open, read, set, states};
use txlog::medium::simulation::{Crash, Event, Faults, Image, Simulated, crashes};
use txlog::{CommitError, Committed, Config, Observer, Reason, SyncPolicy};

/// Passes on what was committed, and why the log failed.
struct Listener {
    committed: Mutex<Sender<Committed>>,
    failed: Mutex<Sender<String>>,
}

impl Observer for Listener {
    fn committed(&self, commit: Committed) {
        // A test may not want to know.
        let _ = self.committed.lock().unwrap().send(commit);
    }

    fn failed(&self, reason: &str) {
        let _ = self.failed.lock().unwrap().send(reason.into());
    }
}

fn listener() -> (Arc<Listener>, Receiver<Committed>, Receiver<String>) {
    let ((committed, commits), (failed, reasons)) = (mpsc::channel(), mpsc::channel());
    (Arc::new(Listener { committed: Mutex::new(committed), failed: Mutex::new(failed) }), commits, reasons)
}

/// A hook that tells when it runs, and holds up whoever runs it until the sender is dropped.
fn holder() -> (Sender<()>, Receiver<()>, Box<dyn FnOnce() + Send>) {
    let ((busy, is_busy), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let hook = move || {
        busy.send(()).unwrap();
        // Ends when the sender is dropped.
        let _ = released.recv();
    };
    (release, is_busy, Box::new(hook))
}

/// Keeps the log's thread busy with a first job until the sender that is returned is dropped.
fn hold(opened: &Opened) -> (Sender<()>, Receiver<Result<u64, CommitError>>) {
    let (release, is_busy, hook) = holder();
    *opened.map.on_decide.lock().unwrap() = Some(hook);
    let first = opened.submit(vec![set("first", "1")]);
    is_busy.recv_timeout(PATIENCE).unwrap();
    (release, first)
}

/// Holds the next sync of a file until the sender that is returned is dropped.
fn hold_sync(folder: &Simulated) -> (Sender<()>, Receiver<()>) {
    let (release, is_busy, hook) = holder();
    folder.on_sync(hook);
    (release, is_busy)
}

const INTERVAL: SyncPolicy = SyncPolicy::Every(Duration::from_millis(1));

fn syncs(folder: &Simulated) -> usize {
    folder.events().iter().filter(|event| matches!(event, Event::SyncFile(_))).count()
}

#[test]
fn all_jobs_that_wait_share_one_write_and_one_sync() {
    let folder = Simulated::default();
    let (observer, commits, _) = listener();
    let opened = open(&folder, Config { observer, ..Config::default() });
    let (release, first) = hold(&opened);
    let before = syncs(&folder);
    let waiting: Vec<_> = (0..50).map(|n| opened.submit(vec![set(&format!("key {n}"), "value")])).collect();
    // One that writes nothing is answered with the others.
    let nothing = opened.submit(Vec::new());
    drop(release);
    assert_eq!(first.recv().unwrap(), Ok(1));
    for (n, outcome) in waiting.into_iter().enumerate() {
        assert_eq!(outcome.recv().unwrap(), Ok(n as u64 + 2));
    }
    assert!(nothing.recv().unwrap().is_ok());
    assert_eq!(syncs(&folder), before + 2);
    assert_eq!(commits.recv_timeout(PATIENCE).unwrap().jobs, 1);
    let commit = commits.recv_timeout(PATIENCE).unwrap();
    assert!(commit.jobs == 51 && commit.sync.is_some(), "{commit:?}");
}

#[test]
fn a_commit_is_bounded_in_jobs_and_in_bytes() {
    let (folder, (observer, commits, _)) = (Simulated::default(), listener());
    let opened = open(&folder, Config { observer, commit_jobs: 4, commit_bytes: 1000, ..Config::default() });
    let (release, _first) = hold(&opened);
    let small: Vec<_> = (0..8).map(|_| opened.submit(vec![set("small", "value")])).collect();
    let large: Vec<_> = (0..4).map(|_| opened.submit(vec![set("large", &"v".repeat(600))])).collect();
    drop(release);
    small.into_iter().chain(large).for_each(|outcome| assert!(outcome.recv().unwrap().is_ok()));
    let jobs: Vec<usize> = commits.iter().take(5).map(|commit| commit.jobs).collect();
    assert_eq!(jobs, [1, 4, 4, 2, 2]);
}

#[test]
fn what_may_wait_is_bounded_in_jobs_and_in_bytes() {
    let folder = Simulated::default();
    let opened = open(&folder, Config { queue_jobs: 3, queue_bytes: 100, ..Config::default() });
    let submit = |bytes| {
        let (done, outcome) = mpsc::channel();
        opened.log.submit(job(vec![set("key", "value")], done), bytes).map(|()| outcome)
    };
    let (release, _first) = hold(&opened);
    let mut taken = vec![submit(50).unwrap(), submit(50).unwrap()];
    let rejected = submit(1).unwrap_err();
    assert_eq!((rejected.reason, rejected.job.changes), (Reason::Busy, vec![set("key", "value")]));
    taken.push(submit(0).unwrap());
    assert_eq!(submit(0).unwrap_err().reason, Reason::Busy);
    drop(release);
    taken.into_iter().for_each(|outcome| assert!(outcome.recv().unwrap().is_ok()));
    // One that is larger than all that may wait is taken, alone.
    let (release, _first) = hold(&opened);
    let large = submit(1000).unwrap();
    assert_eq!(submit(0).unwrap_err().reason, Reason::Busy);
    drop(release);
    assert!(large.recv().unwrap().is_ok());
}

#[test]
fn closing_ends_what_was_queued() {
    let folder = Simulated::default();
    let opened = open(&folder, Config::default());
    let (release, first) = hold(&opened);
    let waiting: Vec<_> = (0..50).map(|n| opened.submit(vec![set(&n.to_string(), "value")])).collect();
    let (log, map) = (opened.log, opened.map);
    let closing = thread::spawn(move || log.close());
    drop(release);
    closing.join().unwrap().unwrap();
    assert!(first.recv().unwrap().is_ok());
    waiting.into_iter().for_each(|outcome| assert!(outcome.recv().unwrap().is_ok()));
    assert_eq!(read(&folder.image()).unwrap().0, map.table());
}

#[test]
fn closing_ends_a_compaction_that_is_running() {
    let folder = Simulated::default();
    let opened = open(&folder, Config { compact_bytes: 0, compact_percent: 0, ..Config::default() });
    let (release, is_busy, hook) = holder();
    *opened.map.on_visit.lock().unwrap() = Some(hook);
    opened.set("key", "value").unwrap();
    is_busy.recv_timeout(PATIENCE).unwrap();
    let Opened { log, map, .. } = opened;
    let closing = thread::spawn(move || log.close());
    drop(release);
    closing.join().unwrap().unwrap();
    // Whether it was given up or not.
    let (table, recovery) = read(&folder.image()).unwrap();
    assert_eq!((table, recovery.leftovers), (map.table(), Vec::new()));
}

#[test]
fn a_state_that_panics_fails_the_log() {
    let folder = Simulated::default();
    let (observer, _, failed) = listener();
    let opened = open(&folder, Config { observer, ..Config::default() });
    opened.set("key", "value").unwrap();
    *opened.map.on_decide.lock().unwrap() = Some(Box::new(|| panic!("as the test wants")));
    let outcome = opened.submit(vec![delete("key")]);
    assert!(outcome.recv().is_err(), "nobody is told that it happened");
    assert!(failed.recv_timeout(PATIENCE).unwrap().contains("panicked"));
    let (done, _) = mpsc::channel();
    assert!(matches!(opened.log.submit(job(Vec::new(), done), 0).unwrap_err().reason, Reason::Failed(_)));
    assert!(opened.log.compact().is_err());
    assert!(opened.log.close().is_err());
    assert_eq!(read(&folder.image()).unwrap().1.last_sequence, 1);
}

#[test]
fn a_sync_of_an_interval_holds_no_commit_up_and_covers_what_was_there_before() {
    let folder = Simulated::default();
    let opened = open(&folder, Config { sync: INTERVAL, ..Config::default() });
    let (release, is_busy) = hold_sync(&folder);
    assert_eq!(opened.set("before", "1"), Ok(1));
    is_busy.recv_timeout(PATIENCE).unwrap();
    for sequence in 2..=20 {
        assert_eq!(opened.set("meanwhile", &sequence.to_string()), Ok(sequence));
    }
    assert_eq!(opened.log.stats().synced_sequence, 0);
    drop(release);
    eventually("another sync", || opened.log.stats().synced_sequence == 20);
    // What the log says of itself never runs ahead of the disk.
    let states = states(&opened.map.history());
    crashes(&Image::new(), &folder.events(), false, |Crash { image, .. }| {
        let (table, recovery) = read(&image).unwrap();
        assert_eq!(table, states[usize::try_from(recovery.last_sequence).unwrap()]);
        assert_eq!(recovery.lost, 0);
    });
}

#[test]
fn whatever_else_syncs_waits_for_the_sync_under_way() {
    type End = fn(Opened) -> u64;
    let ends: [(&str, End); 3] = [
        ("a compaction", |opened| opened.log.compact().map(|_| opened.log.stats().synced_sequence).unwrap()),
        ("closing", |opened| opened.log.close().map(|()| 2).unwrap()),
        ("the end of a segment", |opened| opened.set("next", &"v".repeat(1000)).unwrap() - 1),
    ];
    for (what, end) in ends {
        let folder = Simulated::default();
        let opened = open(&folder, Config { sync: INTERVAL, segment_bytes: 1000, ..Config::default() });
        let (release, is_busy) = hold_sync(&folder);
        opened.set("before", "1").unwrap();
        is_busy.recv_timeout(PATIENCE).unwrap();
        opened.set("meanwhile", "2").unwrap();
        let before = syncs(&folder);
        let ending = thread::spawn(move || end(opened));
        // It can't have synced anything, however long it had for it.
        (0..1000).for_each(|_| thread::yield_now());
        assert_eq!(syncs(&folder), before, "{what}");
        drop(release);
        assert_eq!(ending.join().unwrap(), 2, "{what}");
        assert!(syncs(&folder) > before, "{what}");
    }
}

#[test]
fn a_sync_of_an_interval_that_fails_fails_the_log() {
    let folder = Simulated::default();
    let (observer, _, failed) = listener();
    let opened = open(&folder, Config { observer, sync: INTERVAL, ..Config::default() });
    folder.set_faults(Faults { sync: true, ..Faults::default() });
    assert_eq!(opened.set("key", "value"), Ok(1));
    let reason = failed.recv_timeout(PATIENCE).unwrap();
    assert!(reason.contains("sync") && reason.contains("simulated"), "{reason}");
    assert!(opened.log.close().is_err());
}
