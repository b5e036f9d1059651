//! A log that somebody has been at: opens with values that were written, or is refused; and what opens can be written
//! on.
//!
//! The input: changes of the fixture of version 1. Each is a kind, a file, an offset (two bytes), and what the kind
//! needs.

#![no_main]

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use txlog::medium::simulation::{Image, Simulated};
use txlog::{CommitError, Config, Entry, Live, Operation, Position, Record, State, TxLog};

/// The fixture, and all entries in it.
static FIXTURE: LazyLock<(Image, BTreeSet<Owned>)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/v1");
    let files = folder.read_dir().expect("a fixture").map(|entry| entry.expect("a file").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let image: Image = files.map(|path| (name(&path), std::fs::read(&path).expect("a file"))).collect();
    let entries = Seen::default();
    txlog::dump_in(&Simulated::new(image.clone()), |_, entry| entries.replay(entry)).expect("a log that is whole");
    (image, entries.0.into_inner().expect("no panic"))
});

type Owned = (u64, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// All entries that were ever there.
#[derive(Default)]
struct Seen(Mutex<BTreeSet<Owned>>);

impl State for Seen {
    type Job = Sender<Result<(), CommitError>>;

    fn replay(&self, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (bucket, key, value) = match entry.operation {
            Operation::Set { bucket, key, value } => (bucket, key, Some(value.to_vec())),
            Operation::Delete { bucket, key } => (bucket, key, None),
        };
        self.0.lock().expect("no panic").insert((entry.sequence, bucket.to_vec(), key.to_vec(), value));
        Ok(())
    }

    fn decide(&self, _: &mut Self::Job, record: &mut Record) {
        record.set(b"bucket", b"after", b"it").expect("small enough");
    }

    fn publish(&self) {}

    fn discard(&self) {}

    fn answer(&self, job: Self::Job, outcome: Result<(), CommitError>) {
        job.send(outcome).expect("somebody who waits");
    }

    fn visit(&self, _: Option<&Position>, _: usize, _: &mut dyn FnMut(Entry<'_>)) -> Option<Position> {
        None
    }

    fn live(&self) -> Live {
        Live::default()
    }
}

fn change(image: &mut Image, mut input: &[u8]) {
    while let [kind, file, low, high, rest @ ..] = input {
        input = rest;
        let Some(name) = image.keys().nth(usize::from(*file) % image.len().max(1)).cloned() else { return };
        let bytes = image.get_mut(&name).expect("a file of this name");
        let offset = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
        match kind % 6 {
            0 => bytes.truncate(offset),
            1 => drop(image.remove(&name)),
            2 => {
                let (len, rest) = input.split_first().unwrap_or((&0, &[]));
                let (inserted, rest) = rest.split_at(rest.len().min(usize::from(*len)));
                bytes.splice(offset..offset, inserted.iter().copied());
                input = rest;
            }
            3 => {
                let len = input.split_off_first().map_or(0, |len| usize::from(*len)).min(bytes.len() - offset);
                bytes.drain(offset..offset + len);
            }
            4 => {
                let mask = input.split_off_first().copied().unwrap_or(1);
                bytes.get_mut(offset).into_iter().for_each(|byte| *byte ^= mask);
            }
            _ => {
                // Under another name.
                let kinds = ["log", "snapshot", "log.tmp", "torn"];
                let bytes = bytes.clone();
                image.insert(format!("{:020}.{}", low % 8, kinds[usize::from(*high) % kinds.len()]), bytes);
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut image, written) = FIXTURE.clone();
    change(&mut image, input);
    let folder = Simulated::new(image.clone());
    let seen = Arc::new(Seen::default());
    let config = Config { compact_bytes: u64::MAX, ..Config::default() };
    let opened = TxLog::open_in(Arc::new(folder.clone()), config, Arc::clone(&seen));
    let read = seen.0.lock().expect("no panic").clone();
    assert!(read.is_subset(&written), "something was read that was never written");
    let Ok((log, recovery)) = opened else {
        assert_eq!(folder.image(), image, "a log that is refused was changed");
        return;
    };
    let (done, outcome) = mpsc::channel();
    log.submit(done, 0).expect("a queue with room");
    outcome.recv().expect("an answer").expect("a disk that works");
    log.close().expect("a disk that works");
    let again = txlog::dump_in(&folder, |_, _| Ok(())).expect("what was repaired is whole");
    assert_eq!((again.last_sequence, again.torn), (recovery.last_sequence + 1, None));
});
