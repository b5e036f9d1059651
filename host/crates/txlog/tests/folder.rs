//! Logs on the real file system: what is accepted, what is refused, and with which words.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{BUCKET, Opened, Table, apply_entry, delete, set, tiny, try_open};
use tempfile::TempDir;
use txlog::medium::Disk;
use txlog::{Config, OpenError, SyncPolicy};

fn open(folder: &Path) -> Result<Opened, OpenError> {
    try_open(
        Arc::new(Disk::create(folder).map_err(|source| OpenError::Io { action: "open".into(), source })?),
        config(),
    )
}

fn config() -> Config {
    tiny(SyncPolicy::Always)
}

/// A folder with a log of three segments, closed.
fn three_segments() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path()).unwrap();
    for n in 0..9 {
        opened.set(&format!("key {n}"), &"v".repeat(10)).unwrap();
    }
    opened.log.close().unwrap();
    assert_eq!(segments(folder.path()).len(), 3);
    folder
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    segments
}

/// All bytes in a folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// What both opening and verifying say; neither changes anything.
fn refusal(folder: &Path) -> OpenError {
    let before = contents(folder);
    let error = txlog::verify(folder).unwrap_err();
    let opened = open(folder).err().expect("what can't be verified can't be opened");
    assert_eq!(opened.to_string(), error.to_string());
    assert_eq!(contents(folder), before);
    error
}

fn assert_damage(folder: &Path, file: &str, offset: u64, words: &str) {
    let error = refusal(folder);
    assert!(error.is_damage(), "{error}");
    let OpenError::Damage(damage) = error else { panic!("{error}") };
    assert_eq!((damage.file.as_str(), damage.offset), (file, offset), "{damage}");
    assert!(damage.what.contains(words), "{damage}");
}

#[test]
fn a_log_is_created_with_the_folders_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("a/b/c");
    let opened = open(&folder).unwrap();
    assert_eq!(opened.set("key", "value"), Ok(1));
    drop(opened);
    let opened = open(&folder).unwrap();
    assert_eq!((opened.get("key").as_deref(), opened.recovery.records), (Some("value"), 1));
}

#[test]
fn keys_and_values_at_their_limits_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (key, value) = ("k".repeat(1024), "v".repeat(1024 * 1024));
    let opened = open(folder.path()).unwrap();
    opened.write(vec![set(&key, &value), set("", ""), set("one", "more"), delete("one")]).unwrap();
    opened.log.compact().unwrap();
    opened.write(vec![set("and another", &value)]).unwrap();
    let table = opened.map.table();
    drop(opened);
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.map.table(), table);
    assert_eq!(opened.get(&key), Some(value));
    assert_eq!((opened.recovery.keys, opened.recovery.records, opened.recovery.last_sequence), (2, 1, 2));
}

#[test]
fn only_one_process_has_a_log_open() {
    let folder = three_segments();
    let opened = open(folder.path()).unwrap();
    for error in [open(folder.path()).err().unwrap(), txlog::verify(folder.path()).unwrap_err()] {
        assert!(matches!(&error, OpenError::Locked { folder: locked } if locked == folder.path()), "{error}");
    }
    drop(opened);
    txlog::verify(folder.path()).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_is_a_file_or_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = txlog::verify(&file).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }) && error.to_string().contains("file"), "{error}");
    assert!(matches!(open(&file), Err(OpenError::Io { .. })));
    assert!(matches!(txlog::verify(&folder.path().join("nothing")), Err(OpenError::Io { .. })));
}

#[test]
fn verify_and_dump_show_what_is_there_and_change_nothing() {
    let folder = three_segments();
    let opened = open(folder.path()).unwrap();
    opened.log.compact().unwrap();
    opened.write(vec![set("key 1", "new"), delete("key 2")]).unwrap();
    let expected = opened.map.table();
    opened.log.close().unwrap();
    let last = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let end = bytes.len() as u64;
    bytes.extend(b"torn");
    fs::write(&last, bytes).unwrap();

    let before = contents(folder.path());
    let (mut table, mut places) = (Table::new(), Vec::new());
    let dumped = txlog::dump(folder.path(), |location, entry| {
        places.push((location.file.to_owned(), location.offset, entry.sequence));
        apply_entry(&mut table, entry);
        Ok(())
    });
    let dumped = dumped.unwrap();
    assert_eq!((table, dumped.keys, dumped.records), (expected, 9, 1));
    let segment = last.file_name().unwrap().to_str().unwrap();
    assert_eq!(places[0], (segment.replace(".log", ".snapshot"), 48, 1));
    assert_eq!(places[9..], [(segment.to_owned(), 48, 10), (segment.to_owned(), 48, 10)]);
    let torn = dumped.torn.clone().unwrap();
    assert_eq!((torn.file.as_str(), torn.offset, torn.bytes), (segment, end, 4));
    assert_eq!(txlog::verify(folder.path()).unwrap(), dumped);
    assert_eq!(contents(folder.path()), before);

    let stopped = txlog::dump(folder.path(), |_, _| Err("nobody listens".into())).unwrap_err();
    assert!(stopped.to_string().ends_with("nobody listens"));

    // Opening does what was announced.
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, dumped);
    assert_eq!(fs::read(folder.path().join(torn.saved_as.unwrap())).unwrap(), b"torn");
    drop(opened);
    assert_eq!(fs::metadata(&last).unwrap().len(), end);
    assert_eq!(open(folder.path()).unwrap().recovery.torn, None);
}

#[test]
fn tails_torn_at_the_same_place_are_saved_side_by_side() {
    let folder = three_segments();
    let last = segments(folder.path()).pop().unwrap();
    let end = fs::metadata(&last).unwrap().len();
    for n in 0..3 {
        let mut bytes = fs::read(&last).unwrap();
        bytes.push(n);
        fs::write(&last, bytes).unwrap();
        let saved = open(folder.path()).unwrap().recovery.torn.unwrap().saved_as.unwrap();
        assert_eq!(fs::read(folder.path().join(&saved)).unwrap(), [n]);
        let suffix = if n == 0 { format!("-{end}") } else { format!("-{end}-{n}") };
        assert!(saved.ends_with(&suffix), "{saved}");
    }
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let folder = three_segments();
    let last = segments(folder.path()).pop().unwrap();
    let end = fs::metadata(&last).unwrap().len();
    fs::File::options().write(true).open(&last).unwrap().set_len(end + 5000).unwrap();
    let recovery = open(folder.path()).unwrap().recovery;
    assert_eq!((recovery.torn.unwrap().bytes, recovery.lost, recovery.last_sequence), (5000, 0, 9));
}

#[test]
fn a_foreign_file_is_left_alone_and_reported() {
    let folder = three_segments();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery.foreign, ["lost+found", "notes.txt"]);
    assert_eq!(fs::read(folder.path().join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn leftovers_are_deleted_and_reported() {
    let folder = three_segments();
    let opened = open(folder.path()).unwrap();
    let old =
        segments(folder.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect::<Vec<_>>();
    opened.log.compact().unwrap();
    let table = opened.map.table();
    opened.log.close().unwrap();
    // As if the compaction had been cut short before it removed them.
    for (path, bytes) in &old[1..] {
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("00000000000000000009.log.tmp"), "").unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery.leftovers.len(), old.len());
    assert_eq!(opened.map.table(), table);
    assert_eq!(segments(folder.path()).len(), 1);
}

#[test]
fn a_missing_segment_is_damage_wherever_it_was() {
    for n in 0..3 {
        let folder = three_segments();
        let missing = &segments(folder.path())[n];
        fs::remove_file(missing).unwrap();
        assert_damage(folder.path(), missing.file_name().unwrap().to_str().unwrap(), 0, "missing");
    }
    let folder = three_segments();
    for segment in segments(folder.path()) {
        fs::remove_file(segment).unwrap();
    }
    assert_damage(folder.path(), "00000000000000000003.log", 0, "missing");
}

#[test]
fn a_missing_snapshot_is_damage() {
    let folder = three_segments();
    let opened = open(folder.path()).unwrap();
    opened.log.compact().unwrap();
    opened.log.close().unwrap();
    fs::remove_file(segments(folder.path())[0].with_extension("snapshot")).unwrap();
    assert_damage(folder.path(), "00000000000000000001.log", 0, "missing");
}

#[test]
fn a_snapshot_that_is_not_whole_is_damage() {
    let folder = three_segments();
    let opened = open(folder.path()).unwrap();
    opened.log.compact().unwrap();
    opened.log.close().unwrap();
    let snapshot = segments(folder.path())[0].with_extension("snapshot");
    let name = snapshot.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(&snapshot).unwrap();
    let end = whole.len() as u64;
    // Its end is a frame of 52 bytes.
    fs::write(&snapshot, &whole[..whole.len() - 52]).unwrap();
    assert_damage(folder.path(), name, end - 52, "no end");
    fs::write(&snapshot, &whole[..whole.len() - 1]).unwrap();
    assert_damage(folder.path(), name, end - 52, "ends within a frame");
    fs::write(&snapshot, [&whole[..], b"x"].concat()).unwrap();
    assert_damage(folder.path(), name, end, "follows");
    fs::write(&snapshot, "something else of at least as many bytes as a header").unwrap();
    assert_damage(folder.path(), name, 0, "does not begin");
}

#[test]
fn a_log_that_ends_before_what_its_snapshot_has_seen_is_damage() {
    let folder = three_segments();
    let opened = Arc::new(open(folder.path()).unwrap());
    let writer = Arc::clone(&opened);
    *opened.map.on_visit.lock().unwrap() = Some(Box::new(move || {
        writer.set("key 1", "while it is copied").unwrap();
    }));
    opened.log.compact().unwrap();
    let table = opened.map.table();
    drop(opened);
    let opened = open(folder.path()).unwrap();
    assert_eq!((opened.map.table(), opened.recovery.records), (table, 1));
    drop(opened);
    let segment = segments(folder.path()).pop().unwrap();
    fs::remove_file(folder.path().join("watermark")).unwrap();
    fs::File::options().write(true).open(&segment).unwrap().set_len(48).unwrap();
    let snapshot = segment.with_extension("snapshot");
    assert_damage(folder.path(), snapshot.file_name().unwrap().to_str().unwrap(), 0, "changes up to 10");
}

#[test]
fn files_of_two_logs_do_not_mix() {
    let (folder, other) = (three_segments(), three_segments());
    let (mine, theirs) = (segments(folder.path()), segments(other.path()));
    fs::copy(&theirs[1], &mine[1]).unwrap();
    assert_damage(folder.path(), "00000000000000000002.log", 16, "another log");
    // Nor does a frame, though it has the right sequence and place.
    let folder = three_segments();
    fs::remove_file(folder.path().join("watermark")).unwrap();
    let last = segments(folder.path()).pop().unwrap();
    let (mut bytes, frames) = (fs::read(&last).unwrap(), fs::read(&theirs[2]).unwrap());
    bytes.splice(48.., frames[48..].iter().copied());
    fs::write(&last, bytes).unwrap();
    assert_eq!(open(folder.path()).unwrap().recovery.torn.unwrap().offset, 48);
}

#[test]
fn records_of_two_futures_of_one_log_do_not_mix() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(folder.path()).unwrap().set("key", "both").unwrap();
    for (path, bytes) in contents(folder.path()) {
        fs::write(other.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    let write = |folder: &Path, value| {
        let opened = open(folder).unwrap();
        opened.set("key", value).unwrap();
        opened.log.close().unwrap();
        let end = fs::metadata(segments(folder).pop().unwrap()).unwrap().len();
        open(folder).unwrap().set("key", value).unwrap();
        (fs::read(segments(folder).pop().unwrap()).unwrap(), usize::try_from(end).unwrap())
    };
    let ((mine, end), (theirs, _)) = (write(folder.path(), "mine"), write(other.path(), "else"));
    assert_eq!(mine.len(), theirs.len());
    // The sequence is right, and each frame is good by itself.
    let last = segments(folder.path()).pop().unwrap();
    fs::write(&last, [&mine[..end], &theirs[end..]].concat()).unwrap();
    assert_damage(folder.path(), last.file_name().unwrap().to_str().unwrap(), end as u64, "does not follow");
}

#[test]
fn a_file_of_ours_with_other_content_is_damage() {
    let folder = three_segments();
    let [_, second, _] = &segments(folder.path())[..] else { panic!() };
    let whole = fs::read(second).unwrap();
    fs::write(second, "short").unwrap();
    assert_damage(folder.path(), "00000000000000000002.log", 0, "shorter");
    fs::write(second, &whole[..whole.len() - 1]).unwrap();
    let error = refusal(folder.path()).to_string();
    assert!(error.contains("a later segment exists") && error.contains("restore"), "{error}");
    fs::copy(&segments(folder.path())[0], second).unwrap();
    assert_damage(folder.path(), "00000000000000000002.log", 24, "another file");
}

#[test]
fn a_newer_version_is_named_and_not_called_damage() {
    let folder = three_segments();
    let last = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&last, bytes).unwrap();
    let error = refusal(folder.path());
    assert!(!error.is_damage());
    let OpenError::NewerVersion { file, found, supported } = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), *found, *supported), ("00000000000000000003.log", 2, 1));
}

#[test]
fn a_limit_can_be_lowered() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path()).unwrap();
    opened.set("a long key", "a long value").unwrap();
    opened.log.close().unwrap();
    let limits = txlog::Limits { key: 1, value: 1 };
    let disk = Arc::new(Disk::open(folder.path()).unwrap());
    let opened = try_open(disk, Config { limits, ..config() }).unwrap();
    assert_eq!(opened.get("a long key").as_deref(), Some("a long value"));
    opened.log.compact().unwrap();
    assert_eq!(opened.map.table()[&(BUCKET.to_vec(), b"a long key".to_vec())].0, 1);
}
