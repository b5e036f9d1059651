//! The edge: limits, odd and broken requests, connections, and the headers it adds.

use std::io::ErrorKind;

use e2e::{Host, Reply, Wire, eventually};

/// A host with short limits: head 500 ms and 8 KiB and 20 headers, body idle 500 ms and 64 KiB; the gateway with an echo
/// and a storage behind it.
fn strict() -> Host {
    let manifest = "[public]\nheader-timeout = \"500ms\"\nmax-header-bytes = \"8KiB\"\nmax-headers = 20\n\
                    body-idle-timeout = \"500ms\"\nmax-body = \"64KiB\"\n";
    Host::builder().manifest(manifest).start()
}

fn ask(host: &Host, request: impl AsRef<[u8]>) -> Option<Reply> {
    host.wire().send(request).reply()
}

#[test]
fn a_head_that_is_too_large_is_a_431() {
    let host = strict();
    let head = |bytes: usize| format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    ask(&host, head(8000)).expect("an answer").expect(200);
    ask(&host, head(10_000)).expect("an answer").problem(431, "headers_too_large");
    let target = format!("GET /health?{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(10_000));
    ask(&host, target).expect("an answer").problem(431, "headers_too_large");
    // Far too large to be read to its end: a bare status is enough, and the memory isn't filled.
    assert_eq!(ask(&host, head(1_000_000)).map_or(431, |reply| reply.status), 431);
    host.get("/health").expect(200);
}

#[test]
fn too_many_headers_are_a_431() {
    let host = strict();
    let request = |count: usize| {
        let headers: String = (1..count).map(|index| format!("x-{index}: y\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nhost: a\r\n{headers}\r\n")
    };
    ask(&host, request(20)).expect("an answer").expect(200);
    ask(&host, request(21)).expect("an answer").problem(431, "headers_too_large");
}

#[test]
fn default_limits_take_what_browsers_send() {
    let host = Host::start();
    let headers: String = (1..100).map(|index| format!("x-{index}: {}\r\n", "y".repeat(200))).collect();
    assert_eq!(ask(&host, format!("GET /health HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).expect("an answer").status, 200);
}

#[test]
fn half_a_request_and_then_silence_is_hung_up_on() {
    let host = strict();
    for half in ["", "G", "GET /health HTTP/1.1\r\n", "GET /health HTTP/1.1\r\nhost: a\r\nx: "] {
        let mut wire = host.wire();
        wire.send(half);
        // With or without a 408: the connection ends.
        if let Some(reply) = wire.reply() {
            assert_eq!(reply.status, 408, "{half:?}");
        }
        assert!(wire.is_closed(), "{half:?}");
    }
    host.get("/health").expect(200);
}

#[test]
fn half_a_body_and_then_silence_is_a_408() {
    let host = strict();
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        for path in ["/api/set", "/services/echo/x"] {
            let mut wire = host.wire();
            wire.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{head}\r\n\r\n"));
            wire.send(if head.starts_with('c') { "{\"key\":" } else { "7\r\n{\"key\":\r\n" });
            match wire.head() {
                // An echo has begun its answer before the body stopped coming; all it can do is break off.
                Some(head) if head.status == 200 && path.ends_with("/x") => {
                    wire.body(&head).expect_err("the answer is cut off");
                }
                Some(head) => {
                    assert_eq!(head.status, 408, "{path}");
                    wire.body(&head).expect("the whole answer");
                }
                None => {}
            }
            assert!(wire.is_closed(), "{path}");
        }
    }
    host.get("/health").expect(200);
}

#[test]
fn a_body_that_is_too_large_is_a_413() {
    let host = strict();
    let large = "x".repeat((64 << 10) + 1);
    // Announced: refused before any of it is read.
    let announced =
        ask(&host, format!("POST /services/echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 1 << 30));
    announced.expect("an answer").problem(413, "body_too_large");
    let announced = host.request("POST", "/api/set").header("content-type", "application/json").body(large.as_str());
    announced.send().problem(413, "body_too_large");
    // Not announced: refused when it gets too large.
    let mut wire = host.wire();
    wire.send(
        "POST /api/set HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    wire.send(format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len()));
    wire.reply().expect("an answer").problem(413, "body_too_large");
    let fitting = "x".repeat(64 << 10);
    assert_eq!(host.request("POST", "/services/echo/x").body(fitting.as_str()).send().expect(200).text(), fitting);
}

#[test]
fn ten_mebibytes_are_the_default_for_a_body() {
    let host = Host::start();
    // It gets to the gateway, which has no use for it. (An echo would fill the buffers of both directions: this client
    // doesn't read before it has written everything.)
    let fitting = "x".repeat(10 << 20);
    host.request("POST", "/health").body(fitting.as_str()).send().problem(405, "method_not_allowed");
    let announced = ask(&host, "POST /services/echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10485761\r\n\r\n");
    announced.expect("an answer").problem(413, "body_too_large");
}

#[test]
fn requests_that_are_none() {
    let host = Host::start();
    for (request, status) in [
        ("hello\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("GET /health\r\n\r\n", 400),
        ("GET /health HTTP/3.0\r\nhost: a\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost a\r\n\r\n", 400),
        ("G@T /health HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /hea lth HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        ("POST /api/set HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        ("CONNECT example.org:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\u{2}", 400),
        (&format!("GET /health HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(250)), 431),
        (&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(66 << 10)), 414),
    ] {
        let reply = ask(&host, request).unwrap_or_else(|| panic!("no answer to {request:?}"));
        let code = match status {
            400 => "invalid_request",
            414 => "uri_too_long",
            _ => "headers_too_large",
        };
        assert_eq!(reply.status, status, "{request:?}");
        let id = reply.header("x-request-id").to_owned();
        assert!(!id.is_empty() && !reply.header("date").is_empty(), "{request:?}");
        assert_eq!(reply.problem(status, code)["status"], status, "{request:?}");
        let line = eventually("its line in the log", || host.log().find(|event| event["request_id"] == *id));
        assert_eq!(line["status"], status, "{request:?}: {line}");
    }
    host.get("/health").expect(200);
    let unread = |status| {
        let labels = [("handler", "unrouted"), ("method", "other"), ("status", status)];
        host.metrics().sum("http_requests_total", &labels)
    };
    assert_eq!((unread("400"), unread("414"), unread("431")), (11.0, 1.0, 1.0));
}

#[test]
fn what_can_not_be_read_after_a_request_is_refused_too() {
    let host = Host::start();
    let mut wire = host.wire();
    wire.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n").reply().expect("an answer").expect(200);
    let refused = wire.send("GET /health HTTP/9.9\r\n\r\n").reply().expect("an answer");
    assert_eq!(refused.header("connection"), "close");
    refused.problem(400, "invalid_request");
    assert!(wire.is_closed());
}

#[test]
fn a_request_can_not_be_smuggled() {
    let host = Host::start();
    let smuggled = "GET /data HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = format!(
        "POST /services/echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    let mut wire = host.wire();
    wire.send(both).finish();
    let replies: Vec<Reply> = std::iter::from_fn(|| wire.reply()).collect();
    // Refused, or read by its chunks alone and then closed: what follows is never the second request of a smuggler.
    assert!(replies.len() <= 1 || replies[0].status == 200, "{replies:?}");
    assert!(
        replies
            .iter()
            .all(|reply| reply.status == 400 || reply.header("x-served-by").starts_with("echo") || replies.len() == 2)
    );
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let host = Host::start();
    let mut wire = host.wire();
    let request = |id: usize| {
        format!("GET /services/echo/x HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\ncontent-length: 1\r\n\r\n{id}")
    };
    wire.send((0..10).map(request).collect::<String>());
    for id in 0..10 {
        let reply = wire.reply().expect("an answer");
        assert_eq!((reply.status, reply.text()), (200, id.to_string()));
        assert_eq!(reply.header("x-request-id"), id.to_string());
    }
}

#[test]
fn connections_are_kept_or_closed_as_asked() {
    let host = Host::start();
    let mut kept = host.wire();
    for _ in 0..3 {
        kept.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(kept.reply().expect("an answer").status, 200);
    }
    for request in ["GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "GET /health HTTP/1.0\r\n\r\n"] {
        let mut closed = host.wire();
        closed.send(request);
        assert_eq!(closed.reply().expect("an answer").status, 200);
        assert!(closed.is_closed());
    }
    let mut old = host.wire();
    for _ in 0..2 {
        old.send("GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(old.reply().expect("an answer").status, 200);
    }
}

#[test]
fn a_client_may_wait_to_be_told_to_go_on() {
    let host = Host::start();
    let mut wire = host.wire();
    let body = r#"{"key":"a","value":"b"}"#;
    let length = body.len();
    wire.send(format!(
        "POST /api/set HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(wire.head().expect("a head").status, 100);
    wire.send(body);
    wire.reply().expect("an answer").expect(200);
    // What is refused by its head need not be sent.
    let mut refused = host.wire();
    refused.send("POST /api/set HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(refused.head().expect("a head").status, 413);
}

#[test]
fn chunked_uploads() {
    let host = Host::start();
    let mut wire = host.wire();
    wire.send("PUT /services/echo/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    wire.send("3\r\none\r\n").send("3;extension=1\r\ntwo\r\n").send("0\r\nx-trailer: yes\r\n\r\n");
    let head = wire.head().expect("a head");
    assert_eq!(head.status, 200);
    assert_eq!(wire.body(&head).expect("the whole body"), b"onetwo");
    // The connection can be used again.
    wire.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(wire.reply().expect("an answer").status, 200);
}

#[test]
fn an_echo_streams() {
    let host = Host::start();
    let mut wire = host.wire();
    wire.send("POST /services/echo/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    wire.send("5\r\nfirst\r\n");
    assert_eq!(wire.head().expect("an answer before the end of the request").status, 200);
    assert_eq!(wire.chunk().expect("it goes on").expect("a chunk"), b"first");
    wire.send("6\r\nsecond\r\n0\r\n\r\n");
    assert_eq!(wire.chunk().expect("it goes on").expect("a chunk"), b"second");
    assert_eq!(wire.chunk().expect("it ends"), None);
}

#[test]
fn clients_that_disconnect_in_the_middle_cost_nothing() {
    let host = Host::start();
    for _ in 0..50 {
        let mut upload = host.wire();
        upload.send("POST /services/echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nbeginning");
        upload.reset();
        let mut upload = host.wire();
        upload.send(
            "POST /api/set HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        );
        drop(upload);
        let body = "x".repeat(1_000_000);
        let mut download = host.wire();
        download.send("POST /services/echo/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
        download.send(&body[..200_000]);
        download.head().expect("the answer begins");
        download.reset();
    }
    for _ in 0..6 {
        host.get("/data").expect(200);
        assert_eq!(host.request("POST", "/services/echo/x").body("still").send().expect(200).text(), "still");
    }
    assert_eq!(host.get("/status?namespace=*").json()["available"], 7);
}

#[test]
fn components_see_where_a_request_came_from() {
    let remote = e2e::Remote::start(|exchange| {
        let seen = serde_json::json!(exchange.headers).to_string();
        exchange.answer(200, &[], seen.as_bytes());
    });
    let start = |manifest: &str| {
        let host = Host::builder().manifest(manifest).start();
        host.register("far", &remote.url()).expect(201);
        let request = host.request("GET", "/services/storage/x").header("x-forwarded-for", "1.1.1.1");
        let request = request.header("x-forwarded-proto", "https").header("x-forwarded-host", "shop.example");
        let seen = request.send().expect(200).json();
        let own = host.url().trim_start_matches("http://").to_owned();
        (seen, own)
    };
    let gateway = "[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n";
    let (seen, own) = start(gateway);
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1", "a stranger is not believed: {seen}");
    assert_eq!(seen["x-forwarded-proto"], "http", "{seen}");
    assert_eq!(seen["x-forwarded-host"], own, "{seen}");
    let (seen, _) = start(&format!("[public]\ntrusted-proxies = [\"127.0.0.0/8\"]\n{gateway}"));
    assert_eq!(seen["x-forwarded-for"], "1.1.1.1, 127.0.0.1", "{seen}");
    assert_eq!(seen["x-forwarded-proto"], "https", "{seen}");
    assert_eq!(seen["x-forwarded-host"], "shop.example", "{seen}");
}

#[test]
fn more_connections_than_allowed_wait() {
    let host = Host::builder().manifest("[public]\nmax-connections = 2\n").start();
    let mut first = host.wire();
    first.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    first.reply().expect("an answer");
    let mut second = host.wire();
    second.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    second.reply().expect("an answer");
    let mut third = host.wire();
    third.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    drop(first);
    assert_eq!(third.reply().expect("an answer, when there is room").status, 200);
}

#[test]
fn a_client_that_reads_nothing_is_hung_up_on() {
    let lines = "max-guests = 1\nmax-instance-concurrent-reuse-count = 1\nqueue-timeout = \"30s\"\n\
                 [public]\nbody-idle-timeout = \"500ms\"\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    let mut idle = host.wire();
    idle.send("GET /stream?chunks=1000000000 HTTP/1.1\r\nhost: a\r\n\r\n");
    idle.head().expect("the answer begins");
    // The only guest is free again when the host has given up on that client.
    host.get("/ok").expect(200);
}

#[test]
fn a_thousand_connections_at_once() {
    let host = Host::start();
    let mut wires: Vec<Wire> = Vec::new();
    for _ in 0..1000 {
        let mut wire = host.wire();
        wire.send("GET /data HTTP/1.1\r\nhost: a\r\n\r\n");
        wires.push(wire);
    }
    for wire in &mut wires {
        assert_eq!(wire.reply().expect("an answer").status, 200);
    }
}

#[test]
fn a_closed_port_is_an_error_of_the_client() {
    let host = Host::start();
    let address = host.url().trim_start_matches("http://").to_owned();
    host.stop();
    let error = std::net::TcpStream::connect(address).expect_err("nobody listens any more");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
