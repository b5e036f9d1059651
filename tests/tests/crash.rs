//! `kill -9` in the middle of writing, again and again: no acknowledged write is lost, none comes back.
//!
//! The clients keep a ledger of what each key may hold. `CRASH_ROUNDS` sets how many rounds all tests of this file have
//! together, 100 if it is not set.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use e2e::{Client, Host, eventually_true};
use rustix::process::Signal;
use serde_json::json;

/// Clients that write at the same time.
const WRITERS: usize = 64;

/// Keys of each. Few, so that they are overwritten and deleted often.
const KEYS: usize = 3;

/// Only a storage: it starts faster.
const STORAGE: &str = "[components.storage]\nsource = \"builtin:storage\"\nroute = \"/\"\n";

/// What one client knows of one key, which nobody else writes.
struct Key {
    name: String,
    /// The numbers of the writes that it may hold; none for no value. More than one if it isn't known whether the last
    /// write happened.
    possible: Vec<Option<usize>>,
}

/// One client's writes: their order doesn't repeat from one client to the next, but does from one run to the next.
struct Writer {
    keys: Vec<Key>,
    writes: usize,
}

impl Writer {
    fn new(number: usize) -> Self {
        let key = |index| Key { name: format!("writer-{number}/{index}"), possible: vec![None] };
        Self { keys: (0..KEYS).map(key).collect(), writes: number }
    }

    /// Reads all keys. Each holds what it may hold, and from now on that is known.
    fn check(&mut self, client: &Client) {
        for key in &mut self.keys {
            let reply = client.get(&format!("/kv/get?key={}", key.name));
            let held = match reply.status {
                404 => None,
                _ => Some(reply.expect(200).json()["value"].as_str().expect("text").to_owned()),
            };
            let matching = key.possible.iter().find(|write| write.map(|number| value(&key.name, number)) == held);
            let matching = *matching.unwrap_or_else(|| panic!("{} may be {:?}, is {held:?}", key.name, key.possible));
            key.possible = vec![matching];
        }
    }

    /// Writes until there is no answer.
    fn write(&mut self, client: &Client, acknowledged: &AtomicUsize) {
        loop {
            self.writes += 1;
            let number = self.writes;
            let key = &mut self.keys[number % KEYS];
            // Steps of 7 meet each key with each kind of write.
            let write = (!number.is_multiple_of(7)).then_some(number);
            let request = match write {
                Some(number) => {
                    let value = value(&key.name, number);
                    client.request("POST", "/kv/set").json(&json!({ "key": key.name, "value": value }))
                }
                None => client.request("DELETE", &format!("/kv/delete?key={}", key.name)),
            };
            key.possible.push(write);
            let Ok(reply) = request.try_send() else { return };
            match reply.status {
                200 => key.possible = vec![write],
                404 if write.is_none() => key.possible = vec![None],
                // Shed before it came to the storage, because this machine is busy.
                503 if reply.code() == "overloaded" => drop(key.possible.pop()),
                _ => panic!("{}: {} {}", key.name, reply.status, reply.text()),
            }
            acknowledged.fetch_add(1, SeqCst);
        }
    }
}

/// What the write of this number writes: up to 2 KiB.
fn value(key: &str, number: usize) -> String {
    format!("{key}:{number}:{}", "x".repeat(number * 37 % 2048))
}

/// Kills a host under load, so often, and looks what is there afterwards.
fn survives(sync: &str, share: usize) {
    let all = std::env::var("CRASH_ROUNDS").map_or(100, |rounds| rounds.parse().expect("a number of rounds"));
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let start = || {
        let manifest = format!("[store]\nsync = \"{sync}\"\n{STORAGE}");
        Host::builder().manifest(&manifest).data(data.path()).start()
    };
    for round in 0..all * share / 100 {
        let host = start();
        let url = host.url();
        in_parallel(&mut writers, |writer| writer.check(&Client::new(url)), || {});
        let acknowledged = AtomicUsize::new(0);
        let enough_is_written = || {
            // Dropped when that is so, also if this thread panics: the writers only end with the host.
            let _kill = Kill(&host);
            // From hardly begun to well under way.
            let enough = round * 61 % 300;
            eventually_true("acknowledged writes", || acknowledged.load(SeqCst) >= enough);
        };
        in_parallel(&mut writers, |writer| writer.write(&Client::new(url), &acknowledged), enough_is_written);
        assert_eq!(host.wait().code, None, "it was killed");
        if round % 10 == 9 {
            compact(data.path());
        }
    }
    let host = start();
    in_parallel(&mut writers, |writer| writer.check(&host), || {});
    host.stop().expect(0, &[]);
    Host::cli(["log".as_ref(), "verify".as_ref(), data.path().as_os_str()]).expect(0, &[]);
}

/// Has each writer work on a thread of its own, and does something meanwhile.
fn in_parallel(writers: &mut [Writer], work: impl Fn(&mut Writer) + Sync, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        let work = &work;
        // All are joined: glibc may crash when it is to detach a thread that ends just then (its bug 19951).
        let working: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(move || work(writer))).collect();
        meanwhile();
        for writer in working {
            writer.join().expect("a writer's answers are as expected");
        }
    });
}

/// Kills a host when it is dropped.
struct Kill<'a>(&'a Host);

impl Drop for Kill<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}

fn compact(data: &Path) {
    Host::cli(["log".as_ref(), "compact".as_ref(), data.as_os_str()]).expect(0, &[]);
}

#[test]
fn nothing_is_lost_that_was_synced() {
    survives("always", 60);
}

/// The kernel has every write that was acknowledged, and a killed process doesn't take it along.
#[test]
fn nothing_is_lost_that_was_written() {
    survives("50ms", 20);
    survives("never", 20);
}
