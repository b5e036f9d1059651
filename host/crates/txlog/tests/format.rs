//! What an older version wrote can be read. The files in `fixtures` stay as they are, whatever becomes of the format.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Opened, Table, apply, delete, open, set, tiny, try_open};
use txlog::SyncPolicy;
use txlog::medium::Disk;
use txlog::medium::simulation::{Image, Simulated};

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

/// What was written: a snapshot with segments on top, a batch, a delete, empty keys and values.
fn write(opened: &Opened) {
    for n in 1..=6 {
        opened.set(&format!("key {n}"), &format!("value {n}")).unwrap();
    }
    opened.write(vec![delete("key 1"), delete("never there")]).unwrap();
    opened.log.compact().unwrap();
    opened.write(vec![set("key 2", "again"), set("", "no key"), set("no value", "")]).unwrap();
    opened.write(vec![delete("key 3")]).unwrap();
    for n in 4..=6 {
        opened.set(&format!("key {n}"), &"long ".repeat(20)).unwrap();
    }
}

fn expected() -> Table {
    let mut table = Table::new();
    apply(&mut table, 8, &set("key 2", "again"));
    apply(&mut table, 8, &set("", "no key"));
    apply(&mut table, 8, &set("no value", ""));
    for n in 4..=6 {
        apply(&mut table, n + 6, &set(&format!("key {n}"), &"long ".repeat(20)));
    }
    table
}

#[test]
fn version_1_is_read() {
    let mut image = Image::new();
    for entry in fs::read_dir(fixture("v1")).unwrap() {
        let entry = entry.unwrap();
        image.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    }
    assert_eq!(image.len(), 6, "a snapshot, four segments, a watermark");
    let opened = open(&Simulated::new(image), tiny(SyncPolicy::Always));
    assert_eq!(opened.map.table(), expected());
    let recovery = &opened.recovery;
    assert_eq!((recovery.keys, recovery.records, recovery.segments, recovery.last_sequence), (5, 5, 4, 12));
    assert_eq!((&recovery.torn, recovery.lost, recovery.foreign.len()), (&None, 0, 0));
    assert_eq!(opened.set("goes", "on"), Ok(13));
}

/// Writes the fixture of today's version: `cargo test -p txlog --test format -- --ignored`. Only for a new version;
/// those that are there stay as they are.
#[test]
#[ignore = "writes a fixture"]
fn write_a_fixture() {
    let folder = fixture("v1");
    assert!(!folder.exists(), "{} is there", folder.display());
    let opened = try_open(Arc::new(Disk::create(&folder).unwrap()), tiny(SyncPolicy::Always)).unwrap();
    write(&opened);
    assert_eq!(opened.map.table(), expected());
    opened.log.close().unwrap();
    fs::remove_file(folder.join("lock")).unwrap();
}
