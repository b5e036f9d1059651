//! What was swapped, after the process has ended: one whole revision serves, and the latest event decides which.
//!
//! `KILL_ROUNDS` sets how often a host is killed in the middle of a swap, 16 if it is not set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::revision::{digest, stamped};
use e2e::{Client, Host, rounds};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What outlives a host: its data, and the file its manifest names.
struct Home {
    directory: TempDir,
}

impl Home {
    /// With number 0 in the file.
    fn new() -> Self {
        let home = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        home.write(0);
        home
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("guest.wasm")
    }

    /// Where revisions are kept.
    fn revisions(&self) -> PathBuf {
        self.directory.path().join("data/revisions/guest")
    }

    fn state(&self) -> Value {
        let text = std::fs::read(self.revisions().join("state.json")).expect("there was a publication");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    /// Puts this number into the file, as a new file.
    fn write(&self, number: u32) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, stamped("stamped", number)).expect("it can be written");
        std::fs::rename(new, self.source()).expect("it can be renamed");
    }

    fn start(&self) -> Host {
        self.start_with("")
    }

    fn start_with(&self, lines: &str) -> Host {
        let source = self.source();
        let manifest = format!("[components.guest]\nsource = \"{}\"\nroute = \"/\"\n{lines}\n", source.display());
        Host::builder().manifest(&manifest).data(&self.directory.path().join("data")).start()
    }
}

/// The number of the revision that serves: the one that is named, everywhere.
#[track_caller]
fn serving(host: &Host) -> u32 {
    let numbers = (0..8).map(|_| Client::new(host.url()).get("/").expect(200).header("x-revision").to_owned());
    let mut numbers: Vec<_> = numbers.collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "one revision serves: {numbers:?}");
    let number = numbers[0].parse().expect("the guest is stamped");
    assert_eq!(host.component("guest")["digest"], digest(&stamped("stamped", number)));
    number
}

#[test]
fn what_was_swapped_survives() {
    let home = Home::new();
    let host = home.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.stop().expect(0, &[]);
    for end in [Signal::KILL, Signal::TERM] {
        let host = home.start();
        assert_eq!(serving(&host), 1);
        assert_eq!(host.component("guest")["differs_from_source"], true);
        host.signal(end);
        host.wait();
    }
    let host = home.start();
    host.swap("guest", stamped("stamped", 2)).expect(200);
    host.signal(Signal::KILL);
    host.wait();
    let host = home.start();
    assert_eq!(serving(&host), 2);
    let listed: Vec<_> = host.revisions("guest").iter().map(|revision| revision["digest"].clone()).collect();
    assert_eq!(listed, [2, 1, 0].map(|number| json!(digest(&stamped("stamped", number)))));
}

#[test]
fn a_rollback_survives_too() {
    let home = Home::new();
    let host = home.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.swap("guest", stamped("stamped", 2)).expect(200);
    host.internal().post("/components/guest/rollback", &json!({})).expect(200);
    host.signal(Signal::KILL);
    host.wait();
    let host = home.start();
    assert_eq!(serving(&host), 1);
    // Also what wasn't warm any more can be had back.
    host.internal().post("/components/guest/rollback", &json!({ "to": digest(&stamped("stamped", 2)) })).expect(200);
    assert_eq!(serving(&host), 2);
}

#[test]
fn a_newer_file_beats_a_swap() {
    let home = Home::new();
    let host = home.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.stop().expect(0, &[]);
    home.write(2);
    let host = home.start();
    assert_eq!(serving(&host), 2);
    let component = host.component("guest");
    assert_eq!((&component["published_by"], &component["differs_from_source"]), (&json!("start"), &json!(false)));
    // And a swap that file.
    host.swap("guest", stamped("stamped", 3)).expect(200);
    host.stop().expect(0, &[]);
    assert_eq!(serving(&home.start()), 3);
}

/// Who writes the file anew means it, also with the same contents.
#[test]
fn so_does_a_file_that_was_written_again() {
    let home = Home::new();
    let host = home.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.stop().expect(0, &[]);
    home.write(0);
    assert_eq!(serving(&home.start()), 0);
}

#[test]
fn the_configuration_is_always_the_manifests() {
    let home = Home::new();
    let greeting = |host: &Host| host.get("/").expect(200).json()["greeting"].clone();
    let host = home.start_with("environment = { GREETING = \"one\" }");
    host.swap("guest", stamped("stamped", 1)).expect(200);
    assert_eq!(greeting(&host), "one");
    host.stop().expect(0, &[]);
    let host = home.start_with("environment = { GREETING = \"two\" }");
    assert_eq!((serving(&host), greeting(&host)), (1, json!("two")));
}

#[test]
fn a_damaged_state_is_set_aside() {
    let home = Home::new();
    let host = home.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.stop().expect(0, &[]);
    assert_eq!(home.state()["active"], digest(&stamped("stamped", 1)));
    let state = home.revisions().join("state.json");
    std::fs::write(&state, "{\"version\":1,\"act").expect("it can be written");
    let host = home.start();
    assert_eq!(serving(&host), 0);
    assert_ne!(host.log().wait_for("state.json")["level"], "INFO");
    assert!(home.revisions().join("state.json.damaged").exists());
    // It is whole again.
    host.swap("guest", stamped("stamped", 2)).expect(200);
    host.stop().expect(0, &[]);
    assert_eq!(serving(&home.start()), 2);
}

#[test]
fn a_damaged_revision_is_not_run() {
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |file| std::fs::remove_file(file).expect("it is there"),
        |file| std::fs::write(file, "half").expect("it can be written"),
        // A whole component, but not the one it is named for.
        |file| std::fs::write(file, stamped("stamped", 9)).expect("it can be written"),
    ];
    for damage in damages {
        let home = Home::new();
        let host = home.start();
        host.swap("guest", stamped("stamped", 1)).expect(200);
        host.stop().expect(0, &[]);
        let digest = digest(&stamped("stamped", 1));
        damage(&home.revisions().join(format!("{digest}.wasm")));
        let host = home.start();
        assert_eq!(serving(&host), 0);
        let event = host.log().find(|event| event["level"] == "ERROR" && event.to_string().contains(&digest[..8]));
        assert!(event.is_some(), "{}", host.log().text());
    }
}

/// `kill -9` at every step of a swap. Every other one comes about when the last ones were just done, or just not; those
/// between them at any time before.
#[test]
fn whenever_it_is_killed_one_whole_revision_serves() {
    let home = Home::new();
    let mut current = 0;
    let mut just = Duration::from_millis(100);
    let (mut before, mut after) = (0, 0);
    for round in 0..rounds("KILL_ROUNDS", 16) {
        let next = 100 + round;
        let host = home.start();
        assert_eq!(serving(&host), current);
        let swap = host.internal().request("PUT", "/components/guest").body(stamped("stamped", next));
        let acknowledged = std::thread::scope(|scope| {
            let swap = scope.spawn(|| swap.try_send().is_ok_and(|reply| reply.status == 200));
            std::thread::sleep(if round % 2 == 0 { just } else { just * (round * 37 % 100) / 100 });
            host.signal(Signal::KILL);
            swap.join().expect("it has an answer or none")
        });
        host.wait();
        let host = home.start();
        let now = serving(&host);
        assert!(now == next || (now == current && !acknowledged), "round {round}: {now} after {current}, {next}");
        if now == next {
            after += 1;
            just = just * 2 / 3;
        } else {
            before += 1;
            just = if round % 2 == 0 { just * 3 / 2 } else { just };
        }
        let files = std::fs::read_dir(home.revisions()).expect("it is there");
        for file in files.map(|file| file.expect("readable").file_name()) {
            let name = file.to_str().expect("names are ASCII").to_owned();
            let expected = name == "state.json" || name.len() == "0".repeat(64).len() + ".wasm".len();
            assert!(expected, "no temporary file is left: {name}");
        }
        host.stop().expect(0, &[]);
        current = now;
    }
    eprintln!("killed before the swap was done: {before}, after: {after}");
}
