//! What was swapped, after the process has ended: one whole revision serves, and the latest event decides which.
//!
//! `KILL_ROUNDS` sets how often a host is killed at some time in the middle of a swap, 16 if it is not set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::revision::{digest, enlarged, stamped, unwell};
use e2e::strace::{self, Executioner};
use e2e::{Builder, Client, Host, Load, eventually, eventually_true, need, rounds};
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
        self.host(lines).start()
    }

    fn host(&self, lines: &str) -> Builder {
        let source = self.source();
        let manifest = format!(
            "[components.guest]\nsource = \"{}\"\nroute = \"/\"\ninstances = [\"one\", \"two\"]\n{lines}\n",
            source.display()
        );
        Host::builder().manifest(&manifest).data(&self.directory.path().join("data"))
    }

    /// What is listed is what is recorded, each revision with its bytes, and there is nothing else in the folder.
    #[track_caller]
    fn expect_in_order(&self, host: &Host) {
        let of = |list: &[Value]| -> Vec<_> { list.iter().map(|revision| revision["digest"].clone()).collect() };
        let state = self.state();
        let recorded = of(state["publications"].as_array().expect("a list"));
        assert_eq!(of(&host.revisions("guest")), recorded);
        assert_eq!(state["active"], host.component("guest")["digest"]);
        let bytes = recorded.iter().map(|digest| format!("{}.wasm", digest.as_str().expect("a text")));
        let expected: BTreeSet<_> = bytes.chain(["state.json".to_owned()]).collect();
        let files = std::fs::read_dir(self.revisions()).expect("it is there");
        let name = |file: std::io::Result<std::fs::DirEntry>| file.expect("readable").file_name().into_string();
        let files: BTreeSet<_> = files.map(|file| name(file).expect("names are ASCII")).collect();
        assert_eq!(files, expected);
    }
}

/// The number of the revision that serves: the one that is named, on each instance.
#[track_caller]
fn serving(host: &Host) -> u32 {
    let replies: Vec<_> = (0..8).map(|_| Client::new(host.url()).get("/").expect(200)).collect();
    let all = |header| replies.iter().map(|reply| reply.header(header)).collect::<BTreeSet<_>>();
    assert_eq!(all("x-served-by"), ["one", "two"].into());
    let numbers = all("x-revision");
    assert_eq!(numbers.len(), 1, "one revision serves: {numbers:?}");
    let number = numbers.first().expect("there is one").parse().expect("the guest is stamped");
    let component = stamped("stamped", number);
    let digests = [digest(&component), digest(&enlarged(component))];
    let shown = host.component("guest")["digest"].clone();
    assert!(digests.iter().any(|digest| shown == **digest), "{shown} is not of number {number}: {digests:?}");
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
fn so_does_one_that_it_made_by_itself() {
    let home = Home::new();
    taken_back_before_a_restart(&home, home.host(""));
}

/// Such a rollback is served before it is on disk. Whoever stops the host then finds it there all the same.
#[test]
fn so_does_one_whose_record_the_disk_was_slow_with() {
    let home = Home::new();
    let renames = "?rename,?renameat,?renameat2";
    let slowly = strace::around([
        format!("--trace={renames}"),
        format!("--inject={renames}:delay_enter=500ms"),
        format!("--trace-path={}", home.revisions().join("state.json.tmp").display()),
    ]);
    let slowly = need!(slowly, "strace, and the right to trace");
    taken_back_before_a_restart(&home, home.host("").under(slowly));
}

/// Number 1 and then a failing one are swapped in; as soon as number 1 serves again, the host is asked to stop.
#[track_caller]
fn taken_back_before_a_restart(home: &Home, host: Builder) {
    let host = host.start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    let load = Load::on_guest(&host, 4, Duration::from_millis(2));
    load.wait_for_answers(100);
    host.swap("guest", unwell("stamped", "errs", 2)).expect(200);
    eventually_true("a rollback", || host.component("guest")["published_by"] == "automatic-rollback");
    drop(load);
    host.stop().expect(0, &[]);
    let host = home.start();
    assert_eq!(serving(&host), 1);
    home.expect_in_order(&host);
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
        eventually(&format!("an error about it in\n{}", host.log().text()), || {
            host.log().find(|event| event["level"] == "ERROR" && event.to_string().contains(&digest[..8]))
        });
    }
}

/// Sends a swap that may not come to its end. Whether it was acknowledged.
fn try_to_swap(host: &Host, bytes: Vec<u8>) -> bool {
    let swap = host.internal().request("PUT", "/components/guest").body(bytes);
    swap.try_send().is_ok_and(|reply| reply.expect(200).status == 200)
}

/// `kill -9` at every step of a swap that leaves its mark on the disk: before each call that opens, writes, syncs, renames or
/// deletes a file of the component. The test ends with the call that there is not.
#[test]
fn killed_at_any_call_it_serves_the_old_or_the_new() {
    let home = Home::new();
    let (mut host, mut current) = (home.start(), 0);
    // So that every swap from now on has something to delete.
    while current < 5 {
        current += 1;
        host.swap("guest", stamped("stamped", current)).expect(200);
    }
    for call in ["openat", "write", "fdatasync", "fsync", "?rename,?renameat,?renameat2", "?unlink,unlinkat"] {
        let (mut before, mut after) = (0, 0);
        for nth in 1.. {
            let new = enlarged(stamped("stamped", current + 1));
            let file = |name: String| [home.revisions().join(format!("{name}.tmp")), home.revisions().join(name)];
            let kept =
                host.revisions("guest").into_iter().map(|kept| kept["digest"].as_str().expect("a text").to_owned());
            let names =
                kept.chain([digest(&new)]).map(|digest| format!("{digest}.wasm")).chain(["state.json".to_owned()]);
            let paths = names.flat_map(file).chain([home.revisions()]);
            let executioner =
                need!(Executioner::at(host.pid(), call, nth, paths), "strace, and the right to trace other processes");
            let acknowledged = try_to_swap(&host, new);
            if acknowledged && host.internal().request("GET", "/health").try_send().is_ok() {
                assert!(nth > 1, "a swap makes no call {call}");
                current += 1;
                break;
            }
            drop(executioner);
            host.wait().expect_killed();

            host = home.start();
            let now = serving(&host);
            assert!(now == current + 1 || (now == current && !acknowledged), "{call} {nth}: {now} after {current}");
            home.expect_in_order(&host);
            if now == current {
                before += 1
            } else {
                after += 1
            }
            current += 2;
            host.swap("guest", stamped("stamped", current)).expect(200);
            assert_eq!(serving(&host), current);
            home.expect_in_order(&host);
        }
        eprintln!("killed at each call {call}: the old one serves after {before} of them, the new one after {after}");
    }
}

/// Nothing is on the disk while it is compiled and tried.
#[test]
fn killed_before_it_is_ready_it_serves_the_old() {
    let home = Home::new();
    let check = "health-check = { path = \"/healthz\", interval = \"1h\", timeout = \"10m\" }";
    let mut current = 0;
    for (number, kind, begun) in [(1, "", "it is compiled"), (2, "spins", "it is tried")] {
        let host = home.start_with(check);
        let busy = || host.metrics().sum("guests", &[("component", "guest"), ("state", "busy")]) > 0.0;
        eventually_true("idle guests", || !busy());
        let new = unwell("stamped", kind, number);
        let acknowledged = std::thread::scope(|scope| {
            let swap = scope.spawn(|| try_to_swap(&host, new));
            match kind {
                "" => drop(host.log().wait_for("a swap begins")),
                _ => eventually_true(begun, busy),
            }
            host.signal(Signal::KILL);
            swap.join().expect("it has an answer or none")
        });
        host.wait().expect_killed();
        let host = home.start();
        let now = serving(&host);
        // One that doesn't spin may be published before the signal arrives.
        let was_faster = kind.is_empty() && now == number;
        assert!(was_faster || (now == current && !acknowledged), "{begun}: {now} after {current}, {acknowledged}");
        current = now;
        home.expect_in_order(&host);
        host.stop().expect(0, &[]);
    }
}

/// At any other time. Every other one comes about when the last ones were just done, or just not; those between them at any
/// time before.
#[test]
fn whenever_it_is_killed_one_whole_revision_serves() {
    let home = Home::new();
    let mut current = 0;
    let mut just = Duration::from_millis(300);
    let (mut before, mut after) = (0, 0);
    for round in 0..rounds("KILL_ROUNDS", 16) {
        let next = 100 + round;
        let host = home.start();
        assert_eq!(serving(&host), current);
        let acknowledged = std::thread::scope(|scope| {
            let swap = scope.spawn(|| try_to_swap(&host, stamped("stamped", next)));
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
        home.expect_in_order(&host);
        host.stop().expect(0, &[]);
        current = now;
    }
    eprintln!("killed before the swap was done: {before}, after: {after}");
}
