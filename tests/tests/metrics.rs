//! Metrics: what is counted, exactly, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use e2e::revision::stamped;
use e2e::{Host, Metrics, Remote, Run, artifact, eventually_true, need, program};
use serde_json::json;

/// What has been counted of requests so far, by handler, method and status.
fn requests(metrics: &Metrics) -> BTreeMap<(String, String, String), f64> {
    let by = metrics.by("http_requests_total", &["handler", "method", "status"]);
    let triple = |labels: Vec<String>| <[String; 3]>::try_from(labels).expect("three labels").into();
    by.into_iter().map(|(labels, count)| (triple(labels), count)).collect()
}

/// Every histogram has as many values as its counter has counted, and nothing is in flight.
#[track_caller]
fn is_consistent(metrics: &Metrics) {
    let labels = ["handler", "method"];
    let counted = metrics.by("http_requests_total", &labels);
    assert_eq!(metrics.by("http_request_duration_seconds_count", &labels), counted);
    let name = "http_request_duration_seconds_bucket";
    for (values, count) in counted {
        let labels = [("handler", values[0].as_str()), ("method", values[1].as_str()), ("le", "+Inf")];
        assert_eq!(metrics.sum(name, &labels), count, "{values:?}");
    }
    assert_eq!(metrics.sum("http_requests_in_flight", &[]), 0.0);
}

#[test]
fn every_request_is_counted_once() {
    let host = Host::builder().env("HOSTLER_API_KEYS", "a-key").start();
    let mut expected = BTreeMap::new();
    let mut send = |times: usize, handler: &str, method: &str, path: &str, body: Option<&str>, status: u16| {
        for _ in 0..times {
            let mut request = host.request(method, path).header("x-api-key", "a-key");
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body);
            }
            request.send().expect(status);
        }
        *expected.entry((handler.to_owned(), method.to_owned(), status.to_string())).or_default() += times as f64;
    };
    let stored = Some(r#"{"key":"a","value":"b"}"#);
    send(5, "data", "GET", "/data?x=1", None, 200);
    send(2, "data", "HEAD", "/data", None, 200);
    send(1, "data", "POST", "/data", Some("{}"), 405);
    send(4, "api_set", "POST", "/api/set", stored, 200);
    send(2, "api_set", "POST", "/api/set", Some("no JSON"), 400);
    send(3, "api_get", "GET", "/api/get?key=a", None, 200);
    send(1, "api_get", "GET", "/api/get?key=b", None, 404);
    send(1, "api_delete", "DELETE", "/api/delete?key=a", None, 200);
    send(2, "v1_values", "PUT", "/v1/values", stored, 200);
    send(2, "v1_value", "GET", "/v1/values/a", None, 200);
    send(1, "v1_value", "DELETE", "/v1/values/a", None, 200);
    send(1, "status", "GET", "/status", None, 200);
    send(1, "health", "GET", "/health", None, 200);
    send(2, "services", "POST", "/services/echo/anything/here", Some("body"), 200);
    send(1, "services", "GET", "/services/nobody/", None, 404);
    send(3, "gateway", "GET", "/nothing/here", None, 404);
    send(2, "metrics", "GET", "/metrics", None, 200);
    send(1, "metrics", "DELETE", "/metrics", None, 405);
    // Methods that nobody knows are one.
    host.request("BREW", "/data").send().expect(405);
    host.request("PROPFIND", "/data").send().expect(405);
    *expected.entry(("data".to_owned(), "other".to_owned(), "405".to_owned())).or_default() += 2.0;

    let metrics = host.metrics();
    assert_eq!(requests(&metrics), expected);
    is_consistent(&metrics);

    assert_eq!(metrics.sum("store_keys", &[]), 0.0);
    assert!(metrics.sum("store_log_bytes", &[]) > 0.0);
    // Each of these writes had a commit of its own: they came one after the other.
    assert_eq!(metrics.sum("store_commit_batch_size_count", &[]), 8.0);
    assert_eq!(metrics.sum("store_commit_batch_size_sum", &[]), 8.0);
    assert!(metrics.sum("store_sync_duration_seconds_count", &[]) >= 8.0);
}

#[test]
fn requests_without_a_route_are_counted_too() {
    let host = Host::builder().manifest("[components.echo]\nsource = 'builtin:echo'\nroute = '/echo'\n").start();
    host.get("/elsewhere").expect(404);
    host.wire().send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").reply().expect("an answer").expect(400);
    host.get("/echo/x").expect(200);
    let counted: Vec<_> = requests(&host.metrics()).into_keys().collect();
    let line = |handler: &str, method: &str, status: &str| (handler.to_owned(), method.to_owned(), status.to_owned());
    let expected = [line("echo", "GET", "200"), line("unrouted", "CONNECT", "400"), line("unrouted", "GET", "404")];
    assert_eq!(counted, expected);
}

#[test]
fn a_manifest_names_handlers() {
    let lines = "handlers = { things = \"/things/*\", count = \"/count\" }\n";
    let host = Host::with_guest("misbehaving-p3", lines).start();
    host.get("/things/a/b").expect(404);
    host.get("/count").expect(200);
    host.get("/ok").expect(200);
    let metrics = host.metrics();
    for (handler, status) in [("things", "404"), ("count", "200"), ("guest", "200")] {
        assert_eq!(metrics.sum("http_requests_total", &[("handler", handler), ("status", status)]), 1.0, "{handler}");
    }
    for (handlers, said) in [("{ A = \"/a\" }", "\"A\""), ("{ a = \"a\" }", "/items/*")] {
        let manifest = format!("[components.echo]\nsource = 'builtin:echo'\nhandlers = {handlers}\n");
        Host::builder().manifest(&manifest).run().expect(2, &["hostler.toml:3", said]);
    }
}

#[test]
fn a_client_that_goes_away_is_a_499_and_nothing_stays_in_flight() {
    let host = Host::with_only("misbehaving-p3", "").start();
    let in_flight = |count: f64| {
        eventually_true(&format!("{count} in flight"), || host.metrics().sum("http_requests_in_flight", &[]) == count);
    };
    let mut waiting = host.wire();
    waiting.send("GET /slow?ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    in_flight(1.0);
    let mut reading = host.wire();
    reading.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    reading.head().expect("the answer begins");
    in_flight(2.0);
    waiting.reset();
    reading.reset();
    in_flight(0.0);
    let metrics = host.metrics();
    // The second one had its answer, if not all of it.
    for status in ["499", "200"] {
        assert_eq!(metrics.sum("http_requests_total", &[("status", status)]), 1.0, "{status}");
    }
    is_consistent(&metrics);
}

#[test]
fn failures_of_guests_are_counted_by_reason() {
    let host = Host::with_only("misbehaving-p3", "request-timeout = \"500ms\"\n").start();
    for (path, times, status) in [("/trap", 3, 502), ("/exit", 2, 502), ("/loop", 1, 504)] {
        for _ in 0..times {
            host.get(path).expect(status);
        }
    }
    host.get("/ok").expect(200);
    let metrics = host.metrics();
    let failures = metrics.by("guest_failures_total", &["component", "reason"]);
    let count = |reason: &str| failures[&vec!["guest".to_owned(), reason.to_owned()]];
    assert_eq!((count("trap"), count("exit"), count("deadline"), count("start")), (3.0, 2.0, 1.0, 0.0));
    // One for each that failed, and the one that serves now.
    assert_eq!(metrics.sum("guest_starts_total", &[]), 7.0);
    for (status, times) in [("502", 5.0), ("504", 1.0), ("200", 1.0)] {
        assert_eq!(metrics.sum("http_requests_total", &[("status", status)]), times, "{status}");
    }
    eventually_true("one guest, and it is idle", || {
        let metrics = host.metrics();
        let guests = |state| metrics.sum("guests", &[("component", "guest"), ("state", state)]);
        (guests("idle"), guests("busy")) == (1.0, 0.0)
    });
}

#[test]
fn requests_that_are_shed_are_counted() {
    let lines = "max-guests = 1\nqueue = 1\nqueue-timeout = \"100ms\"\nmax-instance-concurrent-reuse-count = 1\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    let guests = |state| host.metrics().sum("guests", &[("component", "guest"), ("state", state)]);
    // Its only health check is over, so that nothing else waits.
    eventually_true("an idle guest", || guests("idle") == 1.0);
    let mut busy = host.wire();
    busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    busy.head().expect("its answer begins");
    assert_eq!((guests("busy"), guests("idle")), (1.0, 0.0));
    for _ in 0..3 {
        host.get("/ok").problem(503, "overloaded");
    }
    let metrics = host.metrics();
    assert_eq!(metrics.sum("requests_shed_total", &[("component", "guest"), ("reason", "timeout")]), 3.0);
    assert_eq!(metrics.sum("requests_shed_total", &[]), 3.0);
    assert_eq!(metrics.sum("requests_waiting", &[]), 0.0);
    assert_eq!(metrics.sum("http_requests_total", &[("status", "503")]), 3.0);
}

/// Who comes when as many are waiting as may doesn't wait.
#[test]
fn requests_that_find_the_queue_full_are_counted() {
    let lines = "max-guests = 1\nqueue = 1\nqueue-timeout = \"30s\"\nmax-instance-concurrent-reuse-count = 1\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    let sum = |name: &str, labels: &[(&str, &str)]| host.metrics().sum(name, labels);
    eventually_true("an idle guest", || sum("guests", &[("component", "guest"), ("state", "idle")]) == 1.0);
    let mut busy = host.wire();
    busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    busy.head().expect("its answer begins");
    let mut waiting = host.wire();
    waiting.send("GET /ok HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually_true("a request that waits", || sum("requests_waiting", &[("component", "guest")]) == 1.0);
    for shed in 1..=3 {
        host.get("/ok").problem(503, "overloaded");
        assert_eq!(sum("requests_shed_total", &[("reason", "queue_full")]), f64::from(shed));
    }
    // The one that waits has lost nothing.
    busy.reset();
    waiting.reply().expect("an answer").expect(200);
    assert_eq!((sum("requests_waiting", &[]), sum("requests_shed_total", &[])), (0.0, 3.0));
}

#[test]
fn retries_and_instances_are_counted() {
    let host = Host::start();
    let bad = Remote::refusing();
    host.register("bad", &bad.url()).expect(201);
    let instances = |state| host.metrics().sum("instances", &[("namespace", "storage"), ("state", state)]);
    assert_eq!((instances("available"), instances("unavailable")), (4.0, 0.0));
    // Twelve first attempts, in turn: three of them go there, and then it isn't asked any more.
    for _ in 0..12 {
        host.get("/data").expect(200);
    }
    assert_eq!(host.metrics().sum("retries_total", &[("namespace", "storage")]), 3.0);
    assert_eq!(host.metrics().sum("retries_total", &[]), 3.0);
    assert_eq!((instances("available"), instances("unavailable")), (3.0, 1.0));
    assert_eq!(host.log().wait_for("an instance is unavailable")["instance"], "bad");
    host.internal().post("/heartbeat", &json!({"name": "bad"})).expect(200);
    assert_eq!((instances("available"), instances("unavailable")), (4.0, 0.0));
    assert_eq!(host.log().wait_for("an instance is available again")["instance"], "bad");
    host.internal().delete("/register/storage/bad").expect(204);
    assert_eq!((instances("available"), instances("unavailable")), (3.0, 0.0));
    assert_eq!(host.log().wait_for("not registered any more")["instance"], "bad");
}

#[test]
fn swaps_are_counted_by_what_became_of_them() {
    let host = Host::with_stamped("").start();
    let swaps = || host.metrics().by("swaps_total", &["result"]);
    let of = |counts: [f64; 5]| {
        let results = ["failed", "published", "rejected", "rolled_back", "rolled_back_automatically"];
        results.into_iter().map(|result| vec![result.to_owned()]).zip(counts).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(swaps(), of([0.0; 5]));
    host.swap("guest", stamped("stamped", 1)).expect(200);
    host.swap("guest", "no component").expect(422);
    host.internal().post("/components/guest/rollback", &json!({})).expect(200);
    assert_eq!(swaps(), of([0.0, 1.0, 1.0, 1.0, 0.0]));
    // What is counted of a component goes on with its next revision.
    let starts = host.metrics().sum("guest_starts_total", &[]);
    host.swap("guest", stamped("stamped", 2)).expect(200);
    assert!(host.metrics().sum("guest_starts_total", &[]) > starts);
    assert_eq!(host.log().wait_for("a revision was rejected")["component"], "guest");
    host.log().wait_for("a revision is published");
}

#[test]
fn a_heartbeat_that_lapses_shows() {
    let host = Host::start();
    let silent = Remote::storage("silent");
    host.register("silent", &silent.url()).expect(201);
    host.wait_for_state("storage", "silent", "unavailable");
    let labels = [("namespace", "storage"), ("state", "unavailable")];
    assert_eq!(host.metrics().sum("instances", &labels), 1.0);
    assert_eq!(host.log().wait_for("an instance is unavailable")["instance"], "silent");
}

#[test]
fn both_addresses_show_metrics_and_the_public_one_can_be_told_not_to() {
    let host = Host::start();
    for client in [host.public(), host.internal()] {
        let plain = client.get("/metrics").expect(200);
        assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        let open = client.request("GET", "/metrics").header("accept", accept).send().expect(200);
        assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(open.text().ends_with("# EOF\n"), "{}", open.text());
        let head = client.request("HEAD", "/metrics").send().expect(200);
        assert!(head.body.is_empty());
    }
    assert_ne!(host.get("/metrics").header("x-request-id"), "");
    let host = Host::builder().manifest("[public]\nmetrics = false\n").start();
    host.get("/metrics").problem(404, "not_found");
    host.internal().get("/metrics").expect(200);
    assert_eq!(host.metrics().sum("http_requests_total", &[("handler", "gateway"), ("status", "404")]), 1.0);
}

#[test]
fn the_process_is_measured() {
    let metrics = Host::start().metrics();
    for name in [
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_cpu_seconds_total",
        "process_threads",
    ] {
        assert!(metrics.sum(name, &[]) > 0.0, "{name}: {metrics:?}");
    }
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
    let start = metrics.sum("process_start_time_seconds", &[]);
    assert!(start > now - 3600.0 && start < now + 3600.0, "{start}, {now}");
    assert_eq!(metrics.sum("build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}

#[test]
fn promtool_finds_nothing() {
    let promtool = need!(program("promtool"), "promtool, which is in Debian's package prometheus");
    let host = Host::start();
    host.get("/data").expect(200);
    host.post("/api/set", &json!({"key": "a", "value": "b"})).expect(200);
    host.register("far", "http://127.0.0.1:1").expect(201);
    let text = host.get("/metrics").expect(200).body;
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checking = command.spawn().expect("it is a program");
    checking.stdin.take().expect("it is piped").write_all(&text).expect("it reads");
    let output = checking.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn what_is_deployed_with_it_is_right() {
    let promtool = need!(program("promtool"), "promtool, which is in Debian's package prometheus");
    let folder = artifact::root().join("deploy/prometheus");
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "hostler.rules.yml"],
        ["test", "rules", "hostler.tests.yml"],
    ] {
        let run = Run::of(Command::new(&promtool).args(arguments).current_dir(&folder));
        assert_eq!(run.code, Some(0), "{arguments:?}: {}{}", run.stdout, run.stderr);
    }
    // What the rules and the dashboard ask for is there.
    let dashboard = std::fs::read_to_string(artifact::root().join("deploy/grafana/hostler.json")).expect("it is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let rules = std::fs::read_to_string(folder.join("hostler.rules.yml")).expect("it is there");
    let shown = Host::start().internal().get("/metrics").expect(200).text();
    let known: BTreeSet<&str> =
        shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).map(|(name, _)| name).collect();
    let asked = names(&rules).chain(names(&dashboard.to_string())).collect::<BTreeSet<_>>();
    assert!(asked.len() > 15, "{asked:?}");
    let missing: Vec<_> = asked.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {known:?}");
}

/// The names of our metrics in a text, without what a histogram adds to its own.
fn names(text: &str) -> impl Iterator<Item = String> {
    let prefixes =
        ["http_", "guests", "guest_", "instances", "requests_", "retries_", "swaps_", "store_", "process_", "log_"];
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
    let ours = words.filter(move |word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
    ours.map(|name| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        base.unwrap_or(name).to_owned()
    })
}
