//! A full disk, and a disk that fails.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, delete, eventually, open, read, set, tiny};
use txlog::medium::simulation::{Event, Faults, Simulated};
use txlog::{CommitError, CompactError, Compaction, Config, Observer, SyncPolicy};

const HEALTHY: Faults = Faults { capacity: None, sync: false, write: false, set_len: false, sync_folder: false };

/// Passes on why a log failed, and how compactions ended.
struct Listener {
    failed: Mutex<Sender<String>>,
    compacted: Mutex<Sender<bool>>,
}

impl Observer for Listener {
    fn failed(&self, reason: &str) {
        self.failed.lock().unwrap().send(reason.into()).unwrap();
    }

    fn compacted(&self, outcome: &Result<Compaction, CompactError>) {
        let _ = self.compacted.lock().unwrap().send(outcome.is_ok());
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_and_loses_nothing() {
    // At every size, so that it happens in every write of a run, those of rotations included.
    for capacity in 150..900 {
        let folder = Simulated::default();
        let opened = open(&folder, tiny(SyncPolicy::Always));
        folder.set_faults(Faults { capacity: Some(capacity), ..HEALTHY });
        let mut written = 0;
        let refused = loop {
            match opened.set(&format!("key {written}"), "value") {
                Ok(sequence) => written = sequence,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, CommitError::Full);
        assert_eq!(opened.set("again and again", "value"), Err(CommitError::Full));
        // Killed now, it has what was acknowledged and nothing else.
        let (table, recovery) = read(&folder.image()).unwrap();
        assert_eq!((&table, recovery.last_sequence), (&opened.map.table(), written));
        assert_eq!(recovery.torn, None, "capacity {capacity}");
        folder.set_faults(HEALTHY);
        for n in 1..5 {
            assert_eq!(opened.set("resumed", &n.to_string()), Ok(written + n));
        }
        let table = opened.map.table();
        opened.log.close().unwrap();
        assert_eq!(open(&folder, tiny(SyncPolicy::Always)).map.table(), table);
    }
}

#[test]
fn a_log_opens_on_a_full_disk_though_its_tail_is_torn() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    opened.set("a", "1").unwrap();
    opened.log.close().unwrap();
    let mut image = folder.image();
    image.get_mut("00000000000000000001.log").unwrap().extend(b"the beginning of a write");
    let folder = Simulated::new(image);
    folder.set_faults(Faults { capacity: Some(0), ..HEALTHY });
    let opened = open(&folder, tiny(SyncPolicy::Always));
    let torn = opened.recovery.torn.clone().unwrap();
    assert_eq!((torn.bytes, torn.saved_as), (24, None));
    assert_eq!(opened.get("a").as_deref(), Some("1"));
    assert_eq!(opened.set("b", "2"), Err(CommitError::Full));
}

#[test]
fn after_a_failure_nothing_is_acknowledged_or_written() {
    let faults = [
        Faults { sync: true, ..HEALTHY },
        Faults { write: true, ..HEALTHY },
        Faults { capacity: Some(0), set_len: true, ..HEALTHY },
        Faults { capacity: Some(0), sync: true, ..HEALTHY },
    ];
    for faults in faults {
        let folder = Simulated::default();
        let (failed, reason) = mpsc::channel();
        let listener = Listener { failed: Mutex::new(failed), compacted: Mutex::new(mpsc::channel().0) };
        let opened = open(&folder, Config { observer: Arc::new(listener), ..tiny(SyncPolicy::Always) });
        opened.set("a", "1").unwrap();
        folder.set_faults(faults);
        let outcome = opened.set("a", "2");
        let Err(CommitError::Failed(why)) = &outcome else { panic!("{faults:?}: {outcome:?}") };
        assert!(why.contains("00000000000000000001.log") && why.contains("simulated"), "{why}");
        assert_eq!(reason.recv_timeout(PATIENCE).as_deref(), Ok(&**why));
        // What was not acknowledged isn't shown either.
        assert_eq!(opened.get("a").as_deref(), Some("1"));
        // The disk recovers, the log does not.
        folder.set_faults(HEALTHY);
        let before = folder.events().len();
        let (done, _) = mpsc::channel();
        let rejected = opened.log.submit(common::job(vec![set("a", "3")], done), 0).unwrap_err();
        assert!(matches!(rejected.reason, txlog::Reason::Failed(_)));
        assert!(matches!(opened.log.compact(), Err(CompactError::Closed)));
        assert!(opened.log.close().is_err());
        assert_eq!(folder.events().len(), before, "nothing is written any more");
        assert!(reason.try_recv().is_err(), "it was told once");
        let (table, _) = read(&folder.image()).unwrap();
        assert!(table.values().all(|(_, value)| value != b"3"));
    }
}

#[test]
fn a_rotation_that_may_have_happened_fails_the_log() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    folder.set_faults(Faults { sync_folder: true, ..HEALTHY });
    let failed = (0..100).find_map(|_| opened.set("key", "value").err());
    assert!(matches!(failed, Some(CommitError::Failed(_))));
    assert!(read(&folder.image()).is_ok());
}

#[test]
fn a_compaction_without_room_leaves_the_log_as_it_was_and_works_later() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    for n in 0..20 {
        opened.set(&format!("key {n}"), "value").unwrap();
    }
    let used: usize = folder.image().values().map(Vec::len).sum();
    for room in [0, 100, 300] {
        folder.set_faults(Faults { capacity: Some(used as u64 + room), ..HEALTHY });
        let error = opened.log.compact().unwrap_err();
        assert!(matches!(error, CompactError::Io { .. } | CompactError::Full), "{error}");
        let (table, recovery) = read(&folder.image()).unwrap();
        assert_eq!((table, recovery.leftovers), (opened.map.table(), Vec::new()));
    }
    folder.set_faults(HEALTHY);
    opened.set("key 1", "new").unwrap();
    let compaction = opened.log.compact().unwrap();
    assert_eq!(compaction.keys, 20);
    assert!(compaction.after < compaction.before);
    let (table, recovery) = read(&folder.image()).unwrap();
    assert_eq!((table, recovery.keys, recovery.segments), (opened.map.table(), 20, 1));
    // There is nothing to do the second time.
    let again = opened.log.compact().unwrap();
    assert_eq!((again.before, again.after), (compaction.after, compaction.after));
}

#[test]
fn compaction_begins_by_itself_when_there_is_garbage_and_keeps_the_log_small() {
    let folder = Simulated::default();
    let (compacted, outcome) = mpsc::channel();
    let listener = Listener { failed: Mutex::new(mpsc::channel().0), compacted: Mutex::new(compacted) };
    let config = Config { compact_bytes: 2000, observer: Arc::new(listener), ..tiny(SyncPolicy::Always) };
    let opened = open(&folder, config.clone());
    for n in 0..200 {
        opened.set(&format!("key {}", n % 7), &n.to_string()).unwrap();
    }
    assert_eq!(outcome.recv_timeout(PATIENCE), Ok(true));
    eventually("the compaction's end", || !opened.log.stats().compacting);
    for n in 0..7 {
        opened.write(vec![delete(&format!("key {n}"))]).unwrap();
    }
    // The first may join one that had begun before.
    opened.log.compact().unwrap();
    opened.log.compact().unwrap();
    let stats = opened.log.stats();
    assert!(stats.log_bytes < 400, "{stats:?}");
    opened.log.close().unwrap();
    assert_eq!(open(&folder, config).set("key", "value"), Ok(208));
}

#[test]
fn an_interval_syncs_without_further_writes() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Every(Duration::from_millis(5))));
    let sequence = opened.set("key", "value").unwrap();
    eventually("a sync", || opened.log.stats().synced_sequence == sequence);
    let events = folder.events();
    let last = events.iter().rposition(|event| matches!(event, Event::SyncFile(_))).unwrap();
    let written =
        events.iter().rposition(|event| matches!(event, Event::Write(_, _, bytes) if bytes.starts_with(b"\xf5")));
    assert!(last > written.unwrap());
}

#[test]
fn opening_writes_and_syncs_what_may_not_be_on_the_disk() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    opened.set("key", "value").unwrap();
    opened.log.close().unwrap();
    let mut image = folder.image();
    let segment = image["00000000000000000001.log"].clone();
    // With the watermark, and without it.
    for written in [Vec::new(), vec![segment]] {
        let folder = Simulated::new(image.clone());
        drop(open(&folder, tiny(SyncPolicy::Always)));
        let (mut writes, mut syncs) = (Vec::new(), 0);
        for event in folder.events() {
            match event {
                Event::Write(_, 0, bytes) if bytes.starts_with(b"TXLOGWTM") => break,
                Event::Write(_, _, bytes) => writes.push(bytes),
                Event::SyncFile(_) => syncs += 1,
                _ => {}
            }
        }
        assert_eq!((writes, syncs), (written, 1));
        image.remove("watermark");
    }
}

#[test]
fn without_a_sync_closing_does_it() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Never));
    let syncs = |folder: &Simulated| folder.events().iter().filter(|e| matches!(e, Event::SyncFile(_))).count();
    let before = syncs(&folder);
    opened.set("key", "value").unwrap();
    assert_eq!((syncs(&folder), opened.log.stats().synced_sequence), (before, 0));
    opened.log.close().unwrap();
    assert_eq!(syncs(&folder), before + 1);
}
