//! Revisions that can't serve: none is published, whoever sent it hears why, and nobody else notices.
//!
//! `BAD_ROUNDS` sets how many of each kind there are, 2 if it is not set.

use std::time::Duration;

use e2e::load::{Load, Stamper};
use e2e::revision::{bad, digest, stamped};
use e2e::{Builder, Host, eventually, eventually_true, rounds};

/// What memory may be left behind by all of them together, if there are [`MANY`].
const LEFT: u64 = 5 << 20;

/// So many of each kind.
const MANY: u32 = 50;

fn host(change: impl FnOnce(Builder) -> Builder) -> Host {
    let health = "health-check = { path = \"/healthz\", interval = \"1s\", timeout = \"300ms\" }";
    let manifest =
        format!("[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\nmemory-limit = \"32MiB\"\n{health}\n");
    change(Host::builder().file("guest.wasm", stamped("stamped", 0)).manifest(&manifest)).start()
}

/// Sends one of each kind. Each is refused with its reason.
#[track_caller]
fn send_all(host: &Host, number: u32) {
    let before = host.component("guest");
    for revision in bad(number) {
        let problem = host.swap("guest", revision.bytes.clone()).problem(422, "swap_failed");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(revision.reason), "{}: {detail}", revision.kind);
        let after = host.component("guest");
        assert_eq!(after["digest"], before["digest"], "{}", revision.kind);
        let unpublished = digest(&revision.bytes);
        assert!(host.revisions("guest").iter().all(|listed| listed["digest"] != *unpublished), "{}", revision.kind);
    }
}

/// Memory is compared while nobody sends anything, after some load and after some of them: the first ones make the process
/// load its compiler, and the allocator keep what that needs. It has a cache of its own, so that all of them are compiled.
/// Only many of them tell what they leave behind from noise.
#[test]
fn none_is_published_and_none_costs_a_request() {
    let host = host(|host| host.own_data().flag("--data-dir").flag("data"));
    let rounds = rounds("BAD_ROUNDS", 2);
    let warming = if rounds < MANY { 1 } else { 5 };
    let send = |numbers: std::ops::Range<u32>| {
        let load = Load::on_guest(&host, 16, Duration::from_millis(5));
        for number in numbers {
            send_all(&host, number);
            load.wait_for_answers(100);
        }
        load.stop().expect_flawless();
        host.usage()
    };
    let before = send(0..warming);
    let after = send(warming..warming + rounds);
    eprintln!("{before} before, {after} after {rounds} of each kind");
    eventually(&format!("the memory of before, {before}"), || {
        let now = host.usage();
        let grown = rounds >= MANY && now.resident > before.resident + LEFT;
        (!grown && now.threads <= before.threads && now.files <= before.files).then_some(())
    });
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000000");
}

/// What is checked before a revision is published is checked again while it serves; a bad one doesn't change that.
#[test]
fn a_good_one_is_still_taken_afterwards() {
    let host = host(|host| host);
    send_all(&host, 0);
    let load = Load::on_guest(&host, 4, Duration::from_millis(5));
    host.swap("guest", stamped("stamped", 1)).expect(200);
    load.acknowledge(Stamper::Guest, 1);
    load.wait_for_stamp(Stamper::Guest, 1);
    load.stop().expect_flawless();
}

/// In the assembly: a bad gateway, storage or echo is as harmless.
#[test]
fn any_component_is_protected() {
    let host = Load::assembly().start();
    let load = Load::on_assembly(&host, 16, Duration::from_millis(20));
    for stamper in Stamper::ASSEMBLY {
        for revision in bad(0).into_iter().take(6) {
            host.swap(stamper.name(), revision.bytes).problem(422, "swap_failed");
        }
        load.wait_for_answers(32);
    }
    load.stop().expect_flawless();
}

#[test]
fn a_refused_one_leaves_no_file() {
    let host = host(|host| host);
    let files = || {
        let folder = std::fs::read_dir(host.data().join("revisions/guest"));
        let mut names: Vec<_> = folder.into_iter().flatten().map(|file| file.expect("readable").file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    send_all(&host, 0);
    eventually_true("the files of before", || files() == before);
}
