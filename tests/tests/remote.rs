//! Remote instances that answer, stream, refuse, keep silent, talk nonsense, or die; and when a request is tried again.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use e2e::{Host, Remote, Wire, eventually_true};
use serde_json::json;

/// A host without storages of its own, and these remote ones.
fn with_storages(remotes: &[(&str, &Remote)]) -> Host {
    let host = Host::builder().manifest("[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n").start();
    for (name, remote) in remotes {
        host.register(name, &remote.url()).expect(201);
    }
    host
}

/// Answers a request's head, counts it, and hangs up without an answer.
fn hangs_up() -> Remote {
    Remote::start(|exchange| exchange.close())
}

/// Answers without end, and tells when nobody takes more of it.
fn endless() -> (Remote, mpsc::Receiver<()>) {
    let (gone, told) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let remote = Remote::start(move |exchange| {
        exchange.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while exchange.wire.try_send(&chunk).is_ok() {}
        let _ = gone.lock().expect("no panics").send(());
        exchange.close();
    });
    (remote, told)
}

#[test]
fn connections_are_kept() {
    let remote = Remote::storage("far");
    let host = with_storages(&[("far", &remote)]);
    for _ in 0..20 {
        assert_eq!(host.get("/data").expect(200).header("x-served-by"), "far");
    }
    assert_eq!(remote.requests(), 20);
    assert!(remote.connections() <= 4, "one each worker would do: {}", remote.connections());
}

#[test]
fn a_request_that_could_not_connect_goes_to_the_next_instance_whatever_its_method() {
    let (refusing, fine) = (Remote::refusing(), Remote::storage("fine"));
    let host = with_storages(&[("a-refusing", &refusing), ("b-fine", &fine)]);
    for _ in 0..2 {
        let reply = host.post("/api/set", &json!({ "key": "a", "value": "b" })).expect(200);
        assert_eq!(reply.header("x-served-by"), "b-fine");
    }
    assert_eq!(fine.requests(), 2, "each was done once");
}

#[test]
fn a_request_that_broke_is_tried_again_only_if_that_is_safe() {
    let (broken, fine) = (hangs_up(), Remote::storage("fine"));
    let host = with_storages(&[("a-broken", &broken), ("b-fine", &fine)]);
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let reply = host.post("/api/set", &json!({ "key": "a", "value": "b" }));
        if reply.status != 200 {
            reply.problem(502, "instance_unreachable");
        }
        statuses.push(reply.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "a POST that may have been done is not done twice");
    assert_eq!((broken.requests(), fine.requests()), (1, 1));

    let host = with_storages(&[("a-broken", &broken), ("b-fine", &fine)]);
    for method in ["GET", "HEAD"] {
        for _ in 0..2 {
            host.request(method, "/data").send().expect(200);
        }
    }
}

#[test]
fn an_idempotent_request_with_a_body_is_tried_again_if_nobody_read_the_body() {
    let (refusing, fine) = (
        Remote::refusing(),
        Remote::start(|exchange| {
            let body = exchange.body().expect("the whole body");
            exchange.answer(200, &[], &body);
        }),
    );
    let host = with_storages(&[("a", &refusing), ("b", &fine)]);
    let body = "x".repeat(300_000);
    for _ in 0..2 {
        let reply = host.request("PUT", "/services/storage/x").body(body.as_str()).send().expect(200);
        assert_eq!(reply.text(), body);
    }
}

#[test]
fn nobody_left_to_try_is_a_502() {
    let (first, second) = (Remote::refusing(), Remote::refusing());
    let host = with_storages(&[("a", &first), ("b", &second)]);
    host.get("/data").problem(502, "instance_unreachable");
    host.post("/api/set", &json!({ "key": "a", "value": "b" })).problem(502, "instance_unreachable");
}

#[test]
fn each_instance_is_tried_at_most_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let remotes: Vec<Remote> = (0..5)
        .map(|_| {
            let count = count.clone();
            Remote::start(move |exchange| {
                count.fetch_add(1, SeqCst);
                exchange.close();
            })
        })
        .collect();
    let named: Vec<(String, &Remote)> =
        remotes.iter().enumerate().map(|(index, remote)| (format!("r-{index}"), remote)).collect();
    let named: Vec<(&str, &Remote)> = named.iter().map(|(name, remote)| (name.as_str(), *remote)).collect();
    let host = with_storages(&named);
    host.get("/data").problem(502, "instance_unreachable");
    assert_eq!(count.load(SeqCst), 5);
    assert!(remotes.iter().all(|remote| remote.requests() == 1));
}

#[test]
fn three_failures_in_a_row_make_an_instance_unavailable_until_its_next_heartbeat() {
    let (broken, fine) = (Remote::refusing(), Remote::storage("fine"));
    let host = with_storages(&[("a-broken", &broken), ("b-fine", &fine)]);
    for _ in 0..8 {
        assert_eq!(host.get("/data").expect(200).header("x-served-by"), "b-fine");
    }
    host.wait_for_state("storage", "a-broken", "unavailable");
    let status = host.get("/status").json();
    assert_eq!((&status["total"], &status["available"]), (&2.into(), &1.into()), "it stays listed: {status}");
    host.internal().post("/heartbeat", &json!({ "name": "a-broken" })).expect(200);
    assert_eq!(host.get("/status").json()["available"], 2);
}

#[test]
fn all_unavailable_is_a_503_with_retry_after() {
    let broken = Remote::refusing();
    let host = with_storages(&[("only", &broken)]);
    for _ in 0..3 {
        host.get("/data").problem(502, "instance_unreachable");
    }
    let reply = host.get("/data");
    reply.problem(503, "no_instance_available");
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
}

#[test]
fn garbage_for_an_answer_is_a_502() {
    for garbage in [
        "hello\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "\0\0\0\0",
    ] {
        let remote = Remote::raw(move |mut wire: Wire| {
            while wire.line().is_some_and(|line| !line.is_empty()) {}
            wire.send(garbage);
        });
        let host = with_storages(&[("a", &remote)]);
        let reply = host.post("/api/set", &json!({ "key": "a", "value": "b" }));
        reply.problem(502, "instance_unreachable");
        host.get("/health").expect(200);
    }
}

#[test]
fn an_endless_head_is_a_502_and_not_the_end_of_the_memory() {
    let remote = Remote::raw(|mut wire: Wire| {
        while wire.line().is_some_and(|line| !line.is_empty()) {}
        wire.send("HTTP/1.1 200 OK\r\n");
        let line = format!("x: {}\r\n", "y".repeat(8000));
        while wire.try_send(&line).is_ok() {}
    });
    let host = with_storages(&[("a", &remote)]);
    host.post("/api/set", &json!({ "key": "a", "value": "b" })).problem(502, "instance_unreachable");
}

#[test]
fn one_that_accepts_and_never_answers_is_a_504_or_another_instance() {
    let (silent, fine) = (Remote::silent(), Remote::storage("fine"));
    let host = with_storages(&[("a-silent", &silent), ("b-fine", &fine)]);
    std::thread::scope(|scope| {
        // Safe to repeat: the other one answers. Not safe: the client hears of it.
        let gets: Vec<_> = (0..2).map(|_| scope.spawn(|| host.get("/data"))).collect();
        for get in gets {
            assert_eq!(get.join().expect("an answer").expect(200).header("x-served-by"), "b-fine");
        }
        let posts: Vec<_> =
            (0..2).map(|_| scope.spawn(|| host.post("/api/set", &json!({ "key": "a", "value": "b" })))).collect();
        let mut statuses: Vec<u16> = posts.into_iter().map(|post| post.join().expect("an answer").status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 504]);
        // Meanwhile everybody else is served.
        host.get("/health").expect(200);
    });
}

#[test]
fn one_that_dies_in_the_middle_of_a_body_breaks_the_clients_connection() {
    let remote = Remote::start(|exchange| {
        exchange.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it");
        exchange.close();
    });
    let host = with_storages(&[("dying", &remote)]);
    let mut wire = host.wire();
    wire.send("GET /data HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = wire.head().expect("the head was complete");
    assert_eq!(head.status, 200);
    assert_eq!(wire.body(&head).expect_err("the body is not"), b"half of it");
    host.get("/health").expect(200);
}

#[test]
fn one_that_dies_in_the_middle_of_chunks_breaks_the_clients_connection() {
    let remote = Remote::start(|exchange| {
        exchange.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        exchange.close();
    });
    let host = with_storages(&[("dying", &remote)]);
    let mut wire = host.wire();
    wire.send("GET /data HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = wire.head().expect("the head was complete");
    assert_eq!(wire.body(&head).expect_err("there is no last chunk"), b"half");
}

#[test]
fn deaths_in_the_middle_of_bodies_count_as_failures() {
    let remote = Remote::start(|exchange| {
        exchange.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it");
        exchange.close();
    });
    let fine = Remote::storage("fine");
    let host = with_storages(&[("a-dying", &remote), ("b-fine", &fine)]);
    eventually_true("a-dying is unavailable", || {
        let _ = host.request("GET", "/data").try_send();
        host.get("/status").json()["available"] == 1
    });
}

#[test]
fn answers_stream() {
    let (next, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let remote = Remote::start(move |exchange| {
        exchange.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for chunk in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
            exchange.wire.send(chunk);
            if wait.lock().expect("no panics").recv().is_err() {
                return;
            }
        }
    });
    let host = with_storages(&[("streaming", &remote)]);
    let mut wire = host.wire();
    wire.send("GET /services/storage/stream HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("a head");
    let mut read = |expected: Option<&str>| {
        let chunk = wire.chunk().expect("the body goes on");
        assert_eq!(chunk.as_deref(), expected.map(str::as_bytes));
    };
    // The second chunk is only sent when the first has arrived here.
    read(Some("first"));
    next.send(()).expect("the remote waits");
    read(Some("second"));
    next.send(()).expect("the remote waits");
    read(None);
    next.send(()).expect("the remote waits");
}

#[test]
fn requests_stream() {
    let (got, seen) = mpsc::channel();
    let got = std::sync::Mutex::new(got);
    let remote = Remote::start(move |exchange| {
        while let Some(chunk) = exchange.wire.chunk().expect("a body in chunks") {
            got.lock().expect("no panics").send(chunk).expect("the test listens");
        }
        exchange.answer(200, &[], b"done");
    });
    let host = with_storages(&[("streaming", &remote)]);
    let mut wire = host.wire();
    wire.send("POST /services/storage/stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in ["first", "second"] {
        wire.send(format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        // It arrives there before the next one is sent.
        assert_eq!(seen.recv_timeout(e2e::PATIENCE).expect("a chunk"), chunk.as_bytes());
    }
    wire.send("0\r\n\r\n");
    let reply = wire.reply().expect("an answer");
    assert_eq!((reply.status, reply.text().as_str()), (200, "done"));
}

/// Wasmtime ends the body of a guest that is gone as if it had been whole.
#[test]
fn a_request_that_its_guest_does_not_finish_breaks_off() {
    for guest in ["misbehaving-p2", "misbehaving-p3"] {
        let (got, seen) = mpsc::channel();
        let got = std::sync::Mutex::new(got);
        let remote = Remote::start(move |exchange| {
            let first = exchange.wire.chunk().expect("a body in chunks");
            exchange.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            got.lock().expect("no panics").send((first, exchange.body())).expect("the test listens");
            exchange.close();
        });
        let host = Host::with_guest(guest, &format!("allowed-outbound-hosts = [\"{}\"]\n", remote.url())).start();
        host.register("far", &remote.url()).expect(201);
        for url in [remote.url(), "http://storage.internal".to_owned()] {
            host.get(&format!("/upload-trap?url={url}/")).problem(502, "component_failed");
            let (first, rest) = seen.recv_timeout(e2e::PATIENCE).expect("the request ends");
            assert_eq!((first.as_deref(), rest), (Some(&b"chunk 0\n"[..]), None), "{guest}, {url}: no last chunk");
        }
    }
}

#[test]
fn an_answer_that_passes_through_a_guest_breaks_off_with_it() {
    let (remote, _told) = endless();
    let gateway = "[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n";
    let host = Host::builder().manifest(&format!("{gateway}drain-timeout = \"0s\"\nwatch-for = \"0s\"\n")).start();
    host.register("endless", &remote.url()).expect(201);
    let mut wire = host.wire();
    wire.send("GET /services/storage/x HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("an answer begins");
    wire.chunk().expect("so does its body");
    let bytes = std::fs::read(e2e::artifact::guest("gateway")).expect("it is built");
    host.swap("gateway", e2e::revision::numbered(bytes, 1)).expect(200);
    host.log().wait_for("requests were cut off");
    // More than sockets hold.
    let whole = (0..4000).take_while(|_| wire.chunk().is_ok_and(|chunk| chunk.is_some())).count();
    assert!(whole < 4000, "it goes on without the gateway");
}

#[test]
fn a_megabyte_each_way_arrives_as_it_was() {
    let remote = Remote::start(|exchange| {
        let body = exchange.body().expect("the whole body");
        exchange.answer(200, &[], &body);
    });
    let host = with_storages(&[("mirror", &remote)]);
    let body: Vec<u8> = (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let reply = host.request("POST", "/services/storage/x").body(body.clone()).send().expect(200);
    assert!(reply.body == body, "{} of {} bytes", reply.body.len(), body.len());
}

#[test]
fn a_client_that_goes_away_ends_the_request_to_the_remote() {
    let (remote, told) = endless();
    let host = with_storages(&[("endless", &remote)]);
    let mut wire = host.wire();
    wire.send("GET /services/storage/x HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("a head");
    wire.chunk().expect("the body begins");
    wire.reset();
    told.recv_timeout(e2e::PATIENCE).expect("the remote's connection is closed");
}

#[test]
fn an_address_that_can_not_be_reached_costs_only_the_time_to_connect() {
    let host = Host::builder().manifest("[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n").start();
    host.register("nowhere", "http://name.invalid:80").expect(201);
    let reply = host.get("/data");
    reply.problem(502, "instance_unreachable");
}

#[test]
fn retries_have_a_budget() {
    // Every other request meets the broken instance first; fewer than that may be tried again.
    let (broken, fine) = (hangs_up(), Remote::storage("fine"));
    let host = with_storages(&[("a-broken", &broken), ("b-fine", &fine)]);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = e2e::Client::new(host.url());
                for _ in 0..100 {
                    // A heartbeat keeps it from being taken out.
                    host.internal().post("/heartbeat", &json!({ "name": "a-broken" })).expect(200);
                    if client.get("/data").status != 200 {
                        failed.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    assert!(failed.load(SeqCst) > 0, "every failure was tried again: {} met the broken one", broken.requests());
}
