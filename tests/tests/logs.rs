//! The log: requests, guests that print, traps, its level, and what is never in it.

use e2e::revision::{stamped, unwell};
use e2e::{Host, Log, Remote, Reply, eventually_true};
use serde_json::{Value, json};

/// The lines of requests so far.
fn requests(log: &Log) -> Vec<Value> {
    log.events().into_iter().filter(|event| event["target"] == "access").collect()
}

#[test]
fn each_request_is_a_line() {
    let host = Host::start();
    let data = host.request("GET", "/data?token=in-the-query").header("x-request-id", "first").send().expect(200);
    host.request("GET", "/v1/values/a%22b").header("x-request-id", "second").send().expect(401);
    host.request("HEAD", "/health").header("x-request-id", "third").send().expect(200);
    eventually_true("three lines", || requests(host.log()).len() == 3);
    let mut lines = requests(host.log());
    for line in &mut lines {
        let line = line.as_object_mut().expect("an object");
        assert!(line.remove("timestamp").is_some_and(|time| time.as_str().is_some_and(|time| time.ends_with('Z'))));
        assert!(line.remove("duration").is_some_and(|seconds| seconds.as_f64().is_some_and(|seconds| seconds > 0.0)));
    }
    let unauthorized = lines[1]["bytes"].clone();
    assert!(unauthorized.as_u64().is_some_and(|bytes| bytes > 100), "{unauthorized}");
    let expected = [
        json!({
            "level": "INFO", "target": "access", "message": "GET /data", "request_id": "first", "component": "gateway",
            "instance": data.header("x-served-by"), "handler": "data", "status": 200, "bytes": data.body.len(),
        }),
        json!({
            "level": "INFO", "target": "access", "message": "GET /v1/values/a%22b", "request_id": "second",
            "component": "gateway", "instance": "gateway", "handler": "v1_value", "status": 401, "bytes": unauthorized,
        }),
        json!({
            "level": "INFO", "target": "access", "message": "HEAD /health", "request_id": "third", "component": "gateway",
            "instance": "gateway", "handler": "health", "status": 200, "bytes": 0,
        }),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_request_that_fails_says_why() {
    let lines = "max-guests = 1\nqueue-timeout = \"100ms\"\nmax-instance-concurrent-reuse-count = 1\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    host.get("/trap").problem(502, "component_failed");
    let mut busy = host.wire();
    busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    busy.head().expect("its answer begins");
    host.get("/ok").problem(503, "overloaded");
    eventually_true("two lines", || requests(host.log()).len() == 2);
    let reasons: Vec<_> = requests(host.log()).iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(reasons, ["component_failed", "overloaded"]);
}

#[test]
fn a_retry_is_a_line() {
    let host = Host::start();
    let bad = Remote::refusing();
    host.register("bad", &bad.url()).expect(201);
    // In turn with the three others, one of which answers instead.
    for number in 0..4 {
        host.request("GET", "/data").header("x-request-id", &format!("request-{number}")).send().expect(200);
    }
    let line = host.log().wait_for("a request is tried again");
    assert_eq!((&line["level"], &line["namespace"]), (&json!("INFO"), &json!("storage")), "{line}");
    assert!(
        line["message"].as_str().is_some_and(|message| message.contains("instance bad can't be reached")),
        "{line}"
    );
    assert!(line["request_id"].as_str().is_some_and(|id| id.starts_with("request-")), "{line}");
}

#[test]
fn an_answer_that_was_cut_short_says_so() {
    let host = Host::with_only("misbehaving-p3", "").start();
    let mut wire = host.wire();
    wire.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("the answer begins");
    wire.reset();
    let line = host.log().wait_for("GET /stream");
    assert_eq!((&line["status"], &line["complete"]), (&json!(200), &json!(false)), "{line}");
}

#[test]
fn the_log_of_requests_can_be_turned_off() {
    let host = Host::builder().manifest("[run]\naccess-log = false\n").start();
    host.get("/data").expect(200);
    let run = host.stop();
    assert!(run.stderr.contains("draining"), "{}", run.stderr);
    assert!(!run.stderr.contains("access"), "{}", run.stderr);
}

#[test]
fn text_is_for_people() {
    let host = Host::builder().flag("--log-format").flag("text").start();
    host.request("GET", "/data").header("x-request-id", "mine").send().expect(200);
    let stderr = host.stop().stderr;
    let line = stderr.lines().find(|line| line.contains("access: GET /data")).expect(&stderr);
    for part in [" INFO ", " status=200 ", " bytes=", " request_id=mine ", " component=gateway ", " handler=data"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[test]
fn no_secret_is_ever_logged() {
    let secrets = ["key-5ecret", "token-5ecret", "cookie-5ecret", "bearer-5ecret", "query-5ecret", "basic-5ecret"];
    let host = Host::builder()
        .env("HOSTLER_API_KEYS", "key-5ecret")
        .env("HOSTLER_INTERNAL_TOKEN", "token-5ecret")
        .flag("--log-level")
        .flag("trace")
        .start();
    let send = |method: &str, path: &str, status: u16| {
        let request = host.request(method, path).header("x-api-key", "key-5ecret").header("cookie", "id=cookie-5ecret");
        let request =
            request.header("authorization", "Bearer bearer-5ecret").header("proxy-authorization", "basic-5ecret");
        assert_eq!(request.send().status, status, "{method} {path}");
    };
    host.register("gone", "http://127.0.0.1:1").expect(401);
    let body = json!({"name": "gone", "address": "http://127.0.0.1:1"});
    let register = host.internal().request("POST", "/register").header("authorization", "Bearer token-5ecret");
    register.json(&body).send().expect(201);
    for _ in 0..4 {
        send("GET", "/data?token=query-5ecret", 200);
    }
    send("GET", "/v1/values/a?key=query-5ecret", 404);
    send("PATCH", "/api/set?query-5ecret", 405);
    send("GET", "/services/echo/?query-5ecret", 200);
    send("GET", "/services/nobody/?query-5ecret", 404);
    send("GET", "/nothing?query-5ecret", 404);
    host.wire().send("GET /data?query-5ecret HTTP/1.1\r\nauthorization: basic-5ecret\r\n\r\n").reply();
    host.wire().send("GET /data HTTP/1.1\r\nx-api-key: key-5ecret\r\nbroken").finish();
    let log = host.stop().stderr;
    assert!(log.contains("GET /data") && log.contains("draining"), "{log}");
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn no_secret_of_a_request_that_fails_is_logged() {
    for guest in ["misbehaving-p2", "misbehaving-p3"] {
        let host = Host::with_only(guest, "request-timeout = \"500ms\"\n").flag("--log-level").flag("trace").start();
        for path in ["/trap", "/exit", "/loop"] {
            let request = host.request("GET", &format!("{path}?token=5ecret")).header("authorization", "Bearer 5ecret");
            let reply = request.header("cookie", "5ecret").header("x-api-key", "5ecret").send();
            assert!(reply.status >= 500, "{guest} {path}: {}", reply.status);
        }
        // What the guest itself sends, to a host that it may not reach and to a namespace that doesn't exist.
        for host_name in ["example.test", "nobody.internal"] {
            let reply = host.get(&format!("/outbound?url=http://u:5ecret@{host_name}/5ecret?5ecret"));
            assert!(reply.status >= 400, "{guest} {host_name}: {}", reply.status);
        }
        let log = host.stop().stderr;
        assert!(log.contains("a guest failed") && !log.contains("5ecret"), "{log}");
        // WASI 0.3 takes no authority with a user in it.
        let denied = log.contains("a request to http://example.test was denied");
        assert_eq!(denied, guest == "misbehaving-p2", "{log}");
    }
}

#[test]
fn no_secret_of_a_rehearsed_request_is_logged() {
    let manifest = "[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\n";
    let builder = Host::builder().file("guest.wasm", stamped("understudy", 0)).manifest(manifest);
    let host = builder.flag("--log-level").flag("trace").start();
    let count = || {
        let request = host.request("POST", "/count?token=query-5ecret").header("authorization", "Bearer header-5ecret");
        request.body("body-5ecret").send().expect(200)
    };
    // Each answer from the second on holds the body of the request before.
    count();
    let swap_under_load = |query: &str, bytes: Vec<u8>| -> Reply {
        std::thread::scope(|scope| {
            let swap = host.internal().request("PUT", &format!("/components/guest{query}")).body(bytes);
            let swap = scope.spawn(|| swap.send());
            while !swap.is_finished() {
                count();
            }
            swap.join().expect("an answer")
        })
    };
    let other = || unwell("understudy", "other", 1);
    let refused = swap_under_load("?rehearse=5&promote=identical", other()).problem(422, "swap_failed");
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.contains("\"POST /count\"") && detail.contains("body-5ecret"), "for whoever asked: {detail}");
    let promoted = swap_under_load("?rehearse=5", other()).expect(200).text();
    assert!(promoted.contains("body-5ecret"), "for whoever asked: {promoted}");
    let status = host.internal().get("/status").expect(200).text();
    assert!(status.contains("refused: 5 of 5 rehearsed requests got another answer"), "{status}");
    let log = host.stop().stderr;
    assert_eq!(log.matches("rehearsed 5 of 5 requests: 0 identical, 0 worse").count(), 2, "{log}");
    for told in [detail, &promoted, &status, &log] {
        assert!(!told.contains("query-5ecret") && !told.contains("header-5ecret"), "{told}");
    }
    assert!(!status.contains("5ecret"), "{status}");
    assert!(!log.contains("5ecret"), "{log}");
}

#[test]
fn a_trap_shows_where_it_happened_once() {
    for (guest, function) in [("misbehaving-p2", "misbehaving::trap"), ("misbehaving-p3", "misbehaving::trap")] {
        let host = Host::with_only(guest, "").start();
        host.request("GET", "/trap").header("x-request-id", "the-trap").send().expect(502);
        let event = host.log().wait_for("wasm backtrace");
        let message = event["message"].as_str().expect("a message");
        assert!(message.contains(function) && message.contains("unreachable"), "{message}");
        assert_eq!((&event["level"], &event["request_id"]), (&json!("ERROR"), &json!("the-trap")));
        assert_eq!((&event["component"], &event["reason"]), (&json!("guest"), &json!("trap")));
        assert_eq!(host.stop().stderr.matches("wasm backtrace").count(), 1, "{guest}");
    }
}

#[test]
fn a_guest_that_floods_the_log_is_held_back_and_every_line_is_accounted_for() {
    let host = Host::with_only("misbehaving-p3", "idle-instance-timeout = \"100ms\"\n").start();
    let lines: u64 = 20_000;
    host.get(&format!("/flood?lines={lines}")).expect(200);
    let count = || {
        let events = host.log().events();
        let printed = events.iter().filter(|event| event["target"] == "guest").count() as u64;
        let dropped: u64 = events.iter().filter_map(|event| event["lines"].as_u64()).sum();
        (printed, dropped)
    };
    // The last of them are told when the guest ends.
    eventually_true("as many as were printed", || {
        let (printed, dropped) = count();
        printed + dropped == lines
    });
    let (printed, dropped) = count();
    assert!(printed >= 1000 && dropped > 0, "{printed} printed, {dropped} dropped");
}

#[test]
fn the_level_can_be_changed_while_it_runs() {
    let host = Host::start();
    let level = |level: &str| {
        let body = json!({ "level": level });
        let answer = host.internal().request("PUT", "/log-level").json(&body).send().expect(200);
        assert_eq!(answer.json(), body);
        assert_eq!(host.internal().get("/log-level").expect(200).json(), body);
    };
    let bad = Remote::refusing();
    host.register("bad", &bad.url()).expect(201);
    // Four instances in turn: one request each time is tried again, and that is told before it is answered.
    let round = || (0..4).for_each(|_| drop(host.get("/data").expect(200)));
    level("warn");
    round();
    level("info");
    round();
    host.log().wait_for("a request is tried again");
    assert_eq!(host.log().text().matches("a request is tried again").count(), 1);
    level("debug");
    host.wire().send("no HTTP\r\n\r\n");
    host.log().wait_for("a connection ended early");
    level("error");
    host.get("/health").expect(200);
    level("info");
    host.get("/status").expect(200);
    host.log().wait_for("GET /status");
    assert!(!host.log().text().contains("GET /health"), "{}", host.log().text());
    let loud = host.internal().request("PUT", "/log-level").json(&json!({"level": "loud"})).send();
    loud.problem(400, "invalid_request");
}
