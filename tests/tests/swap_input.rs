//! What whoever swaps can get wrong. Nothing of it changes what serves.

use std::time::Duration;

use e2e::load::Load;
use e2e::revision::{stamped, unwell};
use e2e::{Disk, Host, Wire, eventually, need};
use rustix::process::Signal;

const LIMIT: usize = 64 << 20;

fn put(path: &str, headers: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n")
}

#[track_caller]
fn untouched(host: &Host) {
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000000");
    let component = host.component("guest");
    assert_eq!(component["published_by"], "start", "{component}");
}

#[test]
fn an_empty_body() {
    let host = Host::with_stamped("").start();
    let problem = host.swap("guest", "").problem(422, "swap_failed");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("empty")), "{problem}");
    host.internal().request("PUT", "/components/guest").send().problem(422, "swap_failed");
    untouched(&host);
}

/// It is refused before it is read: none of it is ever sent here.
#[test]
fn a_body_over_the_limit() {
    let host = Host::with_stamped("").start();
    for length in [100 << 20, LIMIT + 1, usize::MAX >> 1] {
        let mut wire = Wire::connect(host.internal().url());
        wire.send(put("/components/guest", &format!("content-length: {length}")));
        wire.reply().expect("an answer").problem(413, "body_too_large");
    }
    untouched(&host);
}

/// Without a length, it is refused when there is too much of it.
#[test]
fn a_body_over_the_limit_in_chunks() {
    let host = Host::with_stamped("").start();
    let mut wire = Wire::connect(host.internal().url());
    wire.send(put("/components/guest", "transfer-encoding: chunked"));
    let chunk = vec![0; 1 << 20];
    for _ in 0..=LIMIT / chunk.len() {
        wire.send(format!("{:x}\r\n", chunk.len())).send(&chunk).send("\r\n");
    }
    wire.reply().expect("an answer").problem(413, "body_too_large");
    untouched(&host);
}

#[test]
fn a_body_that_is_cut_off() {
    let host = Host::with_stamped("").start();
    let bytes = stamped("stamped", 1);
    let head = put("/components/guest", &format!("content-length: {}", bytes.len()));
    for sent in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        let mut wire = Wire::connect(host.internal().url());
        wire.send(&head).send(&bytes[..sent]).finish();
        if let Some(reply) = wire.reply() {
            reply.problem(400, "invalid_request");
        }
        let mut wire = Wire::connect(host.internal().url());
        wire.send(&head).send(&bytes[..sent]);
        wire.reset();
    }
    // A whole one is taken afterwards; had one of the others been queued, it would have been before it.
    untouched(&host);
    let swapped = host.swap("guest", bytes).expect(200).json();
    assert_eq!(swapped["changed"], true, "{swapped}");
}

#[test]
fn a_name_that_there_is_not() {
    let host = Host::start();
    for name in ["nobody", "Storage", "storage%20", "%F0%9F%A6%80"] {
        let reply = host.internal().request("PUT", &format!("/components/{name}")).body(stamped("stamped", 1)).send();
        let problem = reply.problem(404, "unknown_component");
        let detail = problem["detail"].as_str().expect("text");
        assert!(["gateway", "storage", "echo"].iter().all(|there| detail.contains(there)), "{detail}");
    }
    host.internal().get("/components/nobody/revisions").problem(404, "unknown_component");
}

/// Whoever sends a component to the wrong place, or without the token, hears so, and not that the connection broke.
#[test]
fn a_whole_component_to_the_wrong_place() {
    let bytes = || vec![0; 8 << 20];
    let host = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "let-me-in").start();
    host.internal().request("PUT", "/components/storage").body(bytes()).send().problem(401, "unauthorized");
    let host = Host::start();
    host.internal().request("PUT", "/component/storage").body(bytes()).send().problem(404, "not_found");
    host.internal().request("POST", "/components/storage").body(bytes()).send().problem(405, "method_not_allowed");
    host.internal().request("PUT", "/components/nobody").body(bytes()).send().problem(404, "unknown_component");
}

#[test]
fn a_query_that_means_nothing() {
    let host = Host::with_stamped("").start();
    for query in ["promote=sometimes", "rehearse=many", "rehearse=-1", "rehears=1"] {
        let reply = host.internal().request("PUT", &format!("/components/guest?{query}")).body(stamped("stamped", 1));
        let problem = reply.send().problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&query[..6])), "{problem}");
    }
    untouched(&host);
}

#[test]
fn another_method() {
    let host = Host::with_stamped("").start();
    assert_eq!(host.internal().delete("/components/guest").status, 405);
    assert_eq!(host.internal().get("/components/guest/rollback").status, 405);
    assert_eq!(host.internal().request("PUT", "/components").body("x").send().status, 405);
}

#[test]
fn while_the_host_is_draining() {
    let host = Host::with_guest("misbehaving-p3", "").start();
    let mut held = host.wire();
    held.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    held.head().expect("an answer begins");
    host.signal(Signal::TERM);
    host.log().wait_for("drain");
    host.swap("guest", stamped("stamped", 1)).problem(503, "draining");
    host.ask(&["rollback", "guest"]).expect(1, &["stopping"]);
    held.reset();
    host.wait().expect(0, &[]);
}

/// More than eight wait for their turn only if somebody sends them all at once.
#[test]
fn more_at_once_than_anybody_needs() {
    let health = "health-check = { path = \"/healthz\", timeout = \"500ms\" }";
    let manifest = format!("[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\n{health}\n");
    let host = Host::builder().file("guest.wasm", stamped("stamped", 0)).manifest(&manifest).start();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let host = &host;
        let swaps: Vec<_> =
            (0..14).map(|number| scope.spawn(move || host.swap("guest", unwell("stamped", "hangs", number)))).collect();
        swaps.into_iter().map(|swap| swap.join().expect("an answer")).collect()
    });
    let (shed, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 503);
    assert!(!shed.is_empty(), "some are shed");
    assert!(refused.len() >= 8, "some wait: {}", refused.len());
    for reply in shed {
        reply.problem(503, "overloaded");
    }
    for reply in refused {
        reply.problem(422, "swap_failed");
    }
    untouched(&host);
}

#[test]
fn a_full_data_directory() {
    let disk = need!(Disk::of_size(1 << 20), "unshare, and the right to mount");
    let manifest = format!(
        "[store]\nbackend = \"memory\"\n[components.guest]\nsource = \"{}\"\nroute = \"/\"\n",
        e2e::artifact::guest("stamped").display()
    );
    let host = disk.keeps_data_of(Host::builder().manifest(&manifest)).start();
    let ballast = disk.root().join("ballast");
    let filled = std::fs::write(&ballast, vec![0; 2 << 20]).expect_err("the disk is smaller");
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let load = Load::on_guest(&host, 4, Duration::from_millis(2));
    load.wait_for_answers(20);
    host.swap("guest", stamped("stamped", 1)).problem(507, "store_full");
    load.wait_for_answers(20);
    load.stop().expect_flawless();
    untouched(&host);

    std::fs::remove_file(&ballast).expect("it is there");
    eventually("room again", || (host.swap("guest", stamped("stamped", 1)).status == 200).then_some(()));
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000001");
}
