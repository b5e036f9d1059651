//! The data directory: what is written survives, and what is wrong with it is said.

use std::path::{Path, PathBuf};

use e2e::{Host, Run, eventually_true, need};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn start(data: &Path) -> Host {
    Host::builder().data(data).start()
}

fn refused(data: &Path, code: i32, said: &[&str]) {
    let run = Host::builder().data(data).run().expect(code, said);
    assert_eq!(run.stdout, "", "it doesn't listen");
}

#[track_caller]
fn set(host: &Host, key: &str, value: &str) {
    host.post("/api/set", &json!({ "key": key, "value": value })).expect(200);
}

#[track_caller]
fn get(host: &Host, key: &str) -> String {
    host.get(&format!("/api/get?key={key}")).expect(200).json()["value"].as_str().expect("text").to_owned()
}

/// `host log COMMAND DIRECTORY`
fn log(command: &str, directory: &Path) -> Run {
    Host::cli(["log".as_ref(), command.as_ref(), directory.as_os_str()])
}

/// The log's files with this ending, in order.
fn files(data: &Path, ending: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("store")).expect("the store's folder");
    let mut files: Vec<_> = files.map(|file| file.expect("the folder can be read").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == ending));
    files.sort();
    files
}

/// A data directory with three values, left behind by a host that was stopped.
fn written() -> TempDir {
    let data = directory();
    let host = start(data.path());
    for key in ["a", "b", "c"] {
        set(&host, key, &format!("value of {key}"));
    }
    host.stop().expect(0, &[]);
    data
}

/// Changes one byte in the middle of the value of `b`.
fn damage(data: &Path) -> PathBuf {
    let file = files(data, "log").pop().expect("a segment");
    let mut bytes = std::fs::read(&file).expect("it can be read");
    let value = b"value of b";
    let at = bytes.windows(value.len()).position(|window| window == value).expect("it was written");
    bytes[at + 2] ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    file
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("names are ASCII")
}

#[test]
fn what_is_written_survives_the_process() {
    let data = directory();
    let host = start(data.path());
    set(&host, "kept", "one");
    set(&host, "changed", "one");
    set(&host, "deleted", "one");
    set(&host, "changed", "two");
    host.delete("/api/delete?key=deleted").expect(200);
    host.stop().expect(0, &[]);
    for end in [Signal::KILL, Signal::INT, Signal::KILL] {
        let host = start(data.path());
        assert_eq!((get(&host, "kept").as_str(), get(&host, "changed").as_str()), ("one", "two"));
        host.get("/api/get?key=deleted").problem(404, "key_not_found");
        host.signal(end);
        host.wait();
    }
}

#[test]
fn a_host_that_forgets_can_be_had() {
    let data = directory();
    let host = || Host::builder().manifest("[store]\nbackend = \"memory\"\n").data(data.path()).start();
    let first = host();
    set(&first, "k", "v");
    first.stop().expect(0, &[]);
    host().get("/api/get?key=k").problem(404, "key_not_found");
    assert!(!data.path().join("store").exists());
}

#[test]
fn says_what_it_has_found() {
    let data = written();
    let host = start(data.path());
    let event = host.log().wait_for("recovered");
    assert_eq!(event["level"], "INFO", "{event}");
    assert_eq!(event["keys"], 3, "{event}");
}

#[test]
fn a_torn_tail_is_saved_aside_and_reported() {
    let data = written();
    let file = files(data.path(), "log").pop().expect("a segment");
    let mut bytes = std::fs::read(&file).expect("it can be read");
    bytes.extend(b"half a record");
    std::fs::write(&file, &bytes).expect("it can be written");
    let host = start(data.path());
    assert_eq!(get(&host, "c"), "value of c");
    let event = host.log().wait_for("torn");
    assert_eq!(event["level"], "WARN", "{event}");
    host.stop().expect(0, &[]);
    let torn = std::fs::read_dir(data.path().join("store")).expect("the folder").filter_map(|file| {
        let path = file.expect("the folder can be read").path();
        name(&path).starts_with("torn-").then_some(path)
    });
    let saved: Vec<_> = torn.map(|path| std::fs::read(path).expect("it can be read")).collect();
    assert_eq!(saved, [b"half a record"]);
    let again = start(data.path());
    assert_eq!(get(&again, "a"), "value of a");
}

#[test]
fn damage_is_4_and_verify_says_the_same() {
    let data = written();
    log("verify", data.path()).expect(0, &[]);
    let file = damage(data.path());
    let run = log("verify", data.path()).expect(4, &[name(&file), "offset"]);
    // The host says the same in the same words, and listens nowhere.
    refused(data.path(), 4, &[run.stderr.trim()]);
    log("compact", data.path()).expect(4, &[name(&file), "offset"]);
    assert!(log("dump", data.path()).expect(4, &[name(&file), "offset"]).stdout.contains("value of a"));
}

#[test]
fn a_missing_segment_is_4() {
    let data = written();
    log("compact", data.path()).expect(0, &[]);
    let segment = files(data.path(), "log").pop().expect("a segment");
    std::fs::remove_file(&segment).expect("it is there");
    refused(data.path(), 4, &[name(&segment)]);
}

/// CRC-32C, to make headers of other versions.
fn crc(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[test]
fn what_a_newer_version_has_written_is_1() {
    let data = written();
    let file = files(data.path(), "log").pop().expect("a segment");
    let mut bytes = std::fs::read(&file).expect("it can be read");
    assert_eq!(bytes[12..16], crc(&bytes[..12]).to_le_bytes(), "the header is as FORMAT.md says");
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let crc = crc(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&crc);
    std::fs::write(&file, bytes).expect("it can be written");
    refused(data.path(), 1, &[name(&file), "version 99", "newer"]);
    log("verify", data.path()).expect(1, &[name(&file), "version 99", "newer"]);
}

#[test]
fn a_second_host_is_refused_and_so_are_the_tools() {
    let data = directory();
    let host = start(data.path());
    set(&host, "k", "v");
    refused(data.path(), 1, &["another host uses the data directory", &data.path().display().to_string()]);
    for command in ["verify", "dump", "compact"] {
        log(command, data.path()).expect(1, &["another host uses"]);
    }
    assert_eq!(get(&host, "k"), "v", "the first one didn't notice");
}

#[test]
fn a_foreign_file_is_left_alone() {
    let data = written();
    let foreign = data.path().join("store/notes.txt");
    std::fs::write(&foreign, "mine").expect("a writable folder");
    let host = start(data.path());
    assert_eq!(host.log().wait_for("notes.txt")["level"], "WARN");
    host.stop().expect(0, &[]);
    log("compact", data.path()).expect(0, &[]);
    assert_eq!(std::fs::read(&foreign).expect("it is still there"), b"mine");
}

#[test]
fn a_store_that_is_a_file_is_5() {
    let data = directory();
    std::fs::write(data.path().join("store"), "").expect("a writable folder");
    refused(data.path(), 5, &["store", "--data-dir"]);
}

#[test]
fn a_read_only_data_directory_is_5() {
    let data = written();
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"";
    let path = data.path().to_str().expect("a temporary path is UTF-8");
    let enter =
        |then: &str| ["unshare", "-rm", "sh", "-c", &format!("{mount} && {then}"), path].map(str::to_owned).to_vec();
    let mut possible = std::process::Command::new("unshare");
    let possible = possible.args(&enter("true")[1..]).stderr(std::process::Stdio::null()).status();
    need!(possible.is_ok_and(|status| status.success()).then_some(()), "unshare, and the right to mount");
    let run = Host::builder().data(data.path()).under(enter("exec \"$@\"")).run();
    run.expect(5, &[path, "--data-dir"]);
}

#[test]
fn dump_prints_every_record_as_json() {
    let data = directory();
    let host = start(data.path());
    set(&host, "a", "line\n\u{0}\u{1f682}");
    set(&host, "b", "2");
    host.delete("/api/delete?key=a").expect(200);
    host.stop().expect(0, &[]);
    let run = log("dump", data.path()).expect(0, &[]);
    let records: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = [
        json!({ "sequence": 1, "operation": "set", "bucket": "default", "key": "a", "value": "line\n\u{0}\u{1f682}" }),
        json!({ "sequence": 2, "operation": "set", "bucket": "default", "key": "b", "value": "2" }),
        json!({ "sequence": 3, "operation": "delete", "bucket": "default", "key": "a" }),
    ];
    assert_eq!(records, expected);
    // The store's own folder is as good as the data directory.
    assert_eq!(log("dump", &data.path().join("store")).expect(0, &[]).stdout, run.stdout);
}

#[test]
fn compact_drops_what_was_overwritten() {
    let data = directory();
    let host = start(data.path());
    for round in 0..100 {
        set(&host, "k", &format!("{round}{}", "x".repeat(1000)));
    }
    set(&host, "deleted", "v");
    host.delete("/api/delete?key=deleted").expect(200);
    host.stop().expect(0, &[]);
    let run = log("compact", data.path()).expect(0, &[]);
    let bytes = || -> u64 {
        let files = [files(data.path(), "log"), files(data.path(), "snapshot")].concat();
        files.iter().map(|file| file.metadata().expect("it is there").len()).sum()
    };
    assert!(bytes() < 10_000, "{} bytes are left: {}", bytes(), run.stdout);
    assert!(run.stdout.contains(" bytes"), "{}", run.stdout);
    log("compact", data.path()).expect(0, &[]);
    let host = start(data.path());
    assert!(get(&host, "k").starts_with("99x"));
    host.get("/api/get?key=deleted").problem(404, "key_not_found");
}

#[test]
fn a_directory_without_a_store_is_said_to_be_one() {
    let empty = directory();
    for command in ["verify", "dump", "compact"] {
        log(command, empty.path()).expect(1, &["no store", empty.path().to_str().expect("UTF-8")]);
        log(command, &empty.path().join("nowhere")).expect(1, &["nowhere"]);
    }
    assert_eq!(std::fs::read_dir(empty.path()).expect("it is still there").count(), 0, "nothing was made");
}

#[test]
fn a_write_that_is_answered_before_the_end_of_the_drain_is_kept() {
    for sync in ["always", "1h", "never"] {
        let data = directory();
        let manifest = format!("[store]\nsync = \"{sync}\"\n");
        let host = Host::builder().manifest(&manifest).data(data.path()).start();
        let client = host.public().clone();
        let writer = std::thread::spawn(move || {
            let set = |number: &u32| {
                let body = json!({ "key": "n", "value": number.to_string() });
                let sent = client.request("POST", "/api/set").json(&body).try_send();
                sent.is_ok_and(|reply| reply.status == 200)
            };
            (1..).take_while(set).last().unwrap_or(0)
        });
        eventually_true("a first write", || host.get("/api/get?key=n").status == 200);
        host.signal(Signal::TERM);
        host.wait().expect(0, &[]);
        let acknowledged = writer.join().expect("it ends with the host");
        let held: u32 = get(&start(data.path()), "n").parse().expect("a number");
        assert!(
            held == acknowledged || held == acknowledged + 1,
            "{sync}: {acknowledged} was acknowledged, {held} held"
        );
    }
}
