//! Traces: contexts in and out, what is recorded of a request, and what becomes of it if nobody takes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::revision::{digest, stamped, unwell};
use e2e::{Collector, Host, Remote, Span, eventually_true};
use rustix::process::Signal;
use serde_json::json;

/// The span of the client that sends all requests of these tests.
const CLIENT: &str = "00f067aa0ba902b7";

/// The id of a trace of its own for each number.
fn trace(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce9{number:011x}")
}

/// The header of a client that records its traces, and wants others to.
fn sampled(number: usize) -> String {
    format!("00-{}-{CLIENT}-01", trace(number))
}

const DATA: &str = "\
GET data
  wait for gateway
  call gateway
    GET storage.internal
      wait for storage
      call storage
";

const SET: &str = "\
POST api_set
  wait for gateway
  call gateway
    POST storage.internal
      wait for storage
      call storage
        store set
";

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
}

#[test]
fn each_step_of_a_request_is_a_span() {
    let collector = Collector::start();
    // In one batch, so that one reading of the clocks makes all times.
    let host = collector.collects_from(Host::builder()).env("OTEL_BSP_SCHEDULE_DELAY", "600000").start();
    let answer = host.request("GET", "/data").header("traceparent", &sampled(1)).send().expect(200);
    let set = host.request("POST", "/api/set").header("traceparent", &sampled(2));
    set.json(&json!({"key": "a", "value": "b"})).send().expect(200);
    host.get("/health").expect(200);
    host.get("/metrics").expect(200);
    host.stop();

    assert_eq!(collector.tree(&trace(1)), DATA);
    assert_eq!(collector.tree(&trace(2)), SET);
    // And the one that has no parent, but neither health checks nor scrapes.
    assert_eq!(collector.traces().len(), 3);
    let root = collector.spans().into_iter().find(|span| span.parent.is_empty()).expect("a trace that begins here");
    assert_eq!((root.name.as_str(), root.kind.as_str()), ("GET health", "Server"));
    assert!(!collector.spans().iter().any(|span| span.failed));

    let spans = collector.trace(&trace(1));
    let edge = named(&spans, "GET data");
    assert_eq!((edge.parent.as_str(), edge.kind.as_str()), (CLIENT, "Server"));
    let attributes = [
        ("hostler.component", "gateway"),
        ("hostler.handler", "data"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
    ];
    assert!(edge.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(attributes), "{edge:?}");
    let sent = named(&spans, "GET storage.internal");
    assert_eq!((sent.kind.as_str(), sent.get("server.address")), ("Client", "storage.internal"));
    assert_eq!(sent.get("http.response.status_code"), "200");
    let call = named(&spans, "call storage");
    assert_eq!((call.kind.as_str(), call.get("hostler.component")), ("Internal", "storage"));
    assert_eq!(call.get("hostler.instance"), answer.header("x-served-by"));
    for span in &spans {
        assert!(span.begun <= span.ended, "{span:?}");
        assert!((edge.begun..=edge.ended).contains(&span.begun), "{span:?} in {edge:?}");
    }
    assert_eq!(named(&spans, "wait for storage").ended, call.begun);
    assert_eq!(named(&collector.trace(&trace(2)), "store set").get("db.operation.name"), "set");
}

#[test]
fn who_sends_them_and_how_is_said_by_the_standard_variables() {
    let collector = Collector::start();
    let host = Host::builder()
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", collector.url()))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=one%20two")
        .env("OTEL_SERVICE_NAME", "shop")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start();
    host.get("/data").expect(200);
    // Not only at its end.
    eventually_true("six spans are exported", || host.metrics().sum("trace_spans_exported_total", &[]) == 6.0);
    assert_eq!(host.metrics().sum("trace_spans_dropped_total", &[]), 0.0);
    assert_eq!(collector.spans().len(), 6);
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "shop");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(collector.headers().iter().all(|headers| headers["x-tenant"] == "one two"));
}

#[test]
fn a_variable_that_is_wrong_ends_the_start() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
    ] {
        let host = Host::builder().env("OTEL_TRACES_EXPORTER", "otlp").env(name, value);
        let run = host.run().expect(2, &[name]);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn requests_at_the_same_time_keep_their_traces_apart() {
    let collector = Collector::start();
    // One worker, so that the gateway's only guests serve many at once.
    let host = collector.collects_from(Host::builder()).flag("--workers").flag("1").start();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let host = &host;
            scope.spawn(move || {
                for number in client * 20..(client + 1) * 20 {
                    let set = host.request("POST", "/api/set").header("traceparent", &sampled(number));
                    set.json(&json!({"key": format!("k{number}"), "value": "b"})).send().expect(200);
                }
            });
        }
    });
    host.stop();
    for number in 0..160 {
        assert_eq!(collector.tree(&trace(number)), SET);
    }
    assert_eq!(collector.spans().len(), 160 * 7);
}

#[test]
fn samplers_decide_what_is_recorded() {
    for (sampler, argument, alone, with_parent, without) in [
        ("always_on", "", 6, 6, 6),
        ("always_off", "", 0, 0, 0),
        ("traceidratio", "0", 0, 0, 0),
        ("traceidratio", "1", 6, 6, 6),
        ("parentbased_always_on", "", 6, 6, 0),
        ("parentbased_always_off", "", 0, 6, 0),
        ("parentbased_traceidratio", "0", 0, 6, 0),
    ] {
        let collector = Collector::start();
        let host = collector.collects_from(Host::builder());
        let host = host.env("OTEL_TRACES_SAMPLER", sampler).env("OTEL_TRACES_SAMPLER_ARG", argument).start();
        host.get("/data").expect(200);
        host.request("GET", "/data").header("traceparent", &sampled(1)).send().expect(200);
        let unsampled = format!("00-{}-{CLIENT}-00", trace(2));
        host.request("GET", "/data").header("traceparent", &unsampled).send().expect(200);
        host.stop();
        let (first, second) = (collector.trace(&trace(1)).len(), collector.trace(&trace(2)).len());
        let rest = collector.spans().len() - first - second;
        assert_eq!((rest, first, second), (alone, with_parent, without), "{sampler} {argument}");
    }
}

/// A remote storage that keeps the `traceparent` and `tracestate` of the last request.
fn remembering() -> (Remote, Arc<Mutex<(String, String)>>) {
    let seen = Arc::<Mutex<(String, String)>>::default();
    let seeing = seen.clone();
    let remote = Remote::start(move |exchange| {
        let header = |name: &str| exchange.headers.get(name).cloned().unwrap_or_default();
        *seeing.lock().expect("nobody panics with it") = (header("traceparent"), header("tracestate"));
        exchange.answer(200, &[("content-type", "application/json")], br#"{"storage":"far","data":[1,2,3]}"#);
    });
    (remote, seen)
}

/// A host whose only storage is elsewhere.
fn with_storage_at(host: e2e::Builder, remote: &Remote) -> Host {
    let host = host.manifest("[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n").start();
    host.register("far", &remote.url()).expect(201);
    host
}

#[test]
fn a_remote_instance_gets_the_context() {
    let (remote, seen) = remembering();
    let collector = Collector::start();
    let host = with_storage_at(collector.collects_from(Host::builder()), &remote);
    let request = host.request("GET", "/data").header("traceparent", &sampled(1)).header("tracestate", "a=b,c=d");
    request.send().expect(200);
    host.stop();
    let expected = "\
GET data
  wait for gateway
  call gateway
    GET storage.internal
      GET far
";
    assert_eq!(collector.tree(&trace(1)), expected);
    let spans = collector.trace(&trace(1));
    let sent = named(&spans, "GET far");
    assert_eq!(format!("http://{}:{}", sent.get("server.address"), sent.get("server.port")), remote.url());
    let (parent, state) = seen.lock().expect("nobody panics with it").clone();
    assert_eq!(parent, format!("00-{}-{}-01", trace(1), sent.id));
    assert_eq!(state, "a=b,c=d");
}

#[test]
fn what_was_added_to_no_trace_does_not_travel_with_another() {
    let (remote, seen) = remembering();
    let collector = Collector::start();
    let host = with_storage_at(collector.collects_from(Host::builder()), &remote);
    for parent in [None, Some("00-1-2-01")] {
        let request = host.request("GET", "/data").header("tracestate", "a=b");
        let request = parent.into_iter().fold(request, |request, parent| request.header("traceparent", parent));
        request.send().expect(200);
        let (parent, state) = seen.lock().expect("nobody panics with it").clone();
        assert!(parent.ends_with("-01"), "{parent}");
        assert_eq!(state, "");
    }
}

#[test]
fn without_a_collector_contexts_go_through_as_they_are() {
    let (remote, seen) = remembering();
    let host = with_storage_at(Host::builder(), &remote);
    let send = |headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(host.request("GET", "/data"), |request, (name, value)| request.header(name, value));
        request.send().expect(200);
        seen.lock().expect("nobody panics with it").clone()
    };
    let (parent, state) = (sampled(7), "a=b".to_owned());
    assert_eq!(send(&[("traceparent", &parent), ("tracestate", &state)]), (parent, state));
    // What isn't one is not passed on.
    for wrong in ["00-1-2-01", &sampled(7).to_uppercase(), "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
        assert_eq!(send(&[("traceparent", wrong), ("tracestate", "a=b")]), Default::default(), "{wrong}");
    }
    assert_eq!(send(&[]), Default::default());
    let logged = || host.log().events().into_iter().filter(|event| event["target"] == "access").collect::<Vec<_>>();
    eventually_true("five lines", || logged().len() == 5);
    let logged = logged();
    assert_eq!(logged[0]["trace_id"], trace(7));
    assert!(logged[1..].iter().all(|event| event["trace_id"].is_null()), "{logged:?}");
    assert_eq!(host.metrics().sum("trace_spans_dropped_total", &[]), 0.0);
}

#[test]
fn each_attempt_is_a_span() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::builder()).start();
    host.register("bad", &Remote::refusing().url()).expect(201);
    for number in 0..4 {
        host.request("GET", "/data").header("traceparent", &sampled(number)).send().expect(200);
    }
    host.stop();
    let retried: Vec<_> = (0..4).filter(|number| collector.tree(&trace(*number)) != DATA).collect();
    let [number] = retried[..] else { panic!("{retried:?}") };
    let expected = "\
GET data
  wait for gateway
  call gateway
    GET storage.internal
      GET bad
      wait for storage
      call storage
";
    assert_eq!(collector.tree(&trace(number)), expected);
    let spans = collector.trace(&trace(number));
    let bad = named(&spans, "GET bad");
    assert_eq!((bad.failed, bad.get("http.request.resend_count")), (true, ""));
    let call = named(&spans, "call storage");
    assert_eq!((call.failed, call.get("http.request.resend_count")), (false, "1"));
}

#[test]
fn failures_are_marked() {
    let collector = Collector::start();
    let host = Host::with_only("misbehaving-p3", "request-timeout = \"500ms\"\n");
    let host = collector.collects_from(host).start();
    for (number, path, status) in [(1, "/trap", 502), (2, "/loop", 504), (3, "/ok", 200)] {
        host.request("GET", path).header("traceparent", &sampled(number)).send().expect(status);
    }
    host.stop();
    for (number, status, reason) in [(1, "502", "trap"), (2, "504", "deadline"), (3, "200", "")] {
        let spans = collector.trace(&trace(number));
        let (edge, call) = (named(&spans, "GET guest"), named(&spans, "call guest"));
        assert_eq!((edge.get("http.response.status_code"), edge.failed), (status, status != "200"), "{edge:?}");
        assert_eq!((call.get("error.type"), call.failed), (reason, !reason.is_empty()), "{call:?}");
    }
}

#[test]
fn a_shed_request_is_marked() {
    for (lines, reason) in [("queue = 0\n", "queue_full"), ("queue = 1\nqueue-timeout = \"100ms\"\n", "timeout")] {
        let collector = Collector::start();
        let lines = format!("max-guests = 1\nmax-instance-concurrent-reuse-count = 1\n{lines}");
        let host = collector.collects_from(Host::with_only("misbehaving-p3", &lines)).start();
        // Its only health check is over.
        let idle = [("component", "guest"), ("state", "idle")];
        eventually_true("an idle guest", || host.metrics().sum("guests", &idle) == 1.0);
        let mut busy = host.wire();
        busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
        busy.head().expect("its answer begins");
        host.request("GET", "/ok").header("traceparent", &sampled(1)).send().problem(503, "overloaded");
        busy.reset();
        host.stop();
        assert_eq!(collector.tree(&trace(1)), "GET guest\n  wait for guest\n");
        let spans = collector.trace(&trace(1));
        let (edge, waited) = (named(&spans, "GET guest"), named(&spans, "wait for guest"));
        assert_eq!((edge.get("http.response.status_code"), edge.failed), ("503", true), "{edge:?}");
        assert_eq!((waited.get("error.type"), waited.failed), (reason, true), "{waited:?}");
    }
}

#[test]
fn each_swap_is_a_trace_of_its_own() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::with_stamped("")).start();
    let (first, second, errs) = (stamped("stamped", 0), stamped("stamped", 1), unwell("stamped", "errs", 2));
    host.swap("guest", second.clone()).expect(200);
    // It changes nothing.
    host.swap("guest", second.clone()).expect(200);
    host.swap("guest", "not a component").expect(422);
    let back = host.internal().request("POST", "/components/guest/rollback");
    back.header("content-type", "application/json").body("").send().expect(200);
    host.swap("guest", errs.clone()).expect(200);
    for _ in 0..3 {
        host.get("/").expect(500);
    }
    host.log().wait_for("a revision was rolled back: ");
    host.stop();

    // They come in the order in which they ended.
    let swaps: Vec<_> = collector.spans().into_iter().filter(|span| span.name == "swap guest").collect();
    let told: Vec<_> = swaps
        .iter()
        .map(|span| (span.get("hostler.swap.by"), span.get("hostler.revision").to_owned(), span.get("error.type")))
        .collect();
    let expected = [
        ("swap", digest(&second), ""),
        ("swap", digest(b"not a component"), "rejected"),
        ("rollback", digest(&first), ""),
        ("swap", digest(&errs), ""),
        ("automatic-rollback", digest(&first), ""),
    ];
    assert_eq!(told, expected);
    for swap in &swaps {
        assert_eq!((swap.parent.as_str(), swap.kind.as_str()), ("", "Internal"), "{swap:?}");
        assert_eq!((swap.get("hostler.component"), swap.failed), ("guest", swap.get("error.type") == "rejected"));
        assert_eq!(collector.trace(&swap.trace).len(), 1);
    }
}

#[test]
fn a_heartbeat_that_lapses_is_a_trace_of_its_own() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::builder()).start();
    let silent = Remote::storage("silent");
    host.register("silent", &silent.url()).expect(201);
    host.log().wait_for("an instance is unavailable");
    host.stop();
    let spans = collector.spans();
    let lost = named(&spans, "instance unavailable");
    assert_eq!((lost.get("hostler.namespace"), lost.get("hostler.instance")), ("storage", "silent"));
    assert_eq!((lost.parent.as_str(), lost.kind.as_str(), lost.failed), ("", "Internal", true));
}

#[test]
fn log_lines_name_the_trace() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::with_only("misbehaving-p3", "")).start();
    host.request("GET", "/log").header("traceparent", &sampled(1)).send().expect(200);
    assert_eq!(host.log().wait_for("a line on stdout")["trace_id"], trace(1));
    assert_eq!(host.log().wait_for("GET /log")["trace_id"], trace(1));
    // A request that came without one has got one.
    host.request("GET", "/ok").send().expect(200);
    let line = host.log().wait_for("GET /ok")["trace_id"].as_str().expect("a trace").to_owned();
    host.request("GET", "/trap").header("traceparent", &sampled(2)).send().expect(502);
    assert_eq!(host.log().wait_for("a guest failed")["trace_id"], trace(2));
    let denied = host.request("GET", "/outbound?url=http://192.0.2.1/").header("traceparent", &sampled(3));
    denied.send().expect(502);
    assert_eq!(host.log().wait_for("was denied")["trace_id"], trace(3));
    host.stop();
    assert_eq!(collector.trace(&line).len(), 3);
}

#[test]
fn no_key_and_no_secret_is_ever_in_a_trace() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::builder().env("HOSTLER_API_KEYS", "api-5ecret")).start();
    let value = json!({"key": "key-5ecret", "value": "value-5ecret"});
    for (method, path, status) in [
        ("PUT", "/v1/values", 200),
        ("GET", "/v1/values/key-5ecret", 200),
        ("GET", "/api/get?key=key-5ecret", 200),
        ("DELETE", "/v1/values/key-5ecret", 200),
        ("GET", "/nowhere/path-5ecret", 404),
    ] {
        let mut request = host.request(method, path).header("x-api-key", "api-5ecret");
        request = request.header("authorization", "Bearer token-5ecret").header("cookie", "cookie-5ecret");
        if method == "PUT" {
            request = request.json(&value);
        }
        request.send().expect(status);
    }
    host.stop();
    assert!(collector.saw("GET v1_value") && collector.saw("store delete"), "{:?}", collector.spans());
    assert!(!collector.saw("5ecret"));
}

#[test]
fn a_rehearsal_leaves_no_trace() {
    let collector = Collector::start();
    let host = collector.collects_from(Host::with_stamped("")).start();
    let bytes = stamped("stamped", 1);
    let sent = std::thread::scope(|scope| {
        let swap = scope
            .spawn(|| host.internal().request("PUT", "/components/guest?rehearse=10&promote=never").body(bytes).send());
        let mut sent = 0;
        while !swap.is_finished() {
            host.request("GET", "/").header("traceparent", &sampled(sent)).send();
            sent += 1;
            // It takes the revision a while to be ready, and the spans of all of this have to fit into the queue.
            std::thread::sleep(Duration::from_millis(5));
        }
        let refused = swap.join().expect("it doesn't panic");
        assert!(refused.text().contains("rehearsed 10 of 10"), "{}", refused.text());
        sent
    });
    host.stop();
    // Each was run once, as far as its trace says.
    for number in 0..sent {
        let spans = collector.trace(&trace(number));
        for name in ["GET guest", "call guest"] {
            assert_eq!(spans.iter().filter(|span| span.name == name).count(), 1, "{number} of {sent}: {spans:?}");
        }
    }
    // And the swap's own.
    assert_eq!(collector.traces().len(), sent + 1);
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let away = Remote::refusing();
    let host =
        Host::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", &away.url()).env("OTEL_BSP_SCHEDULE_DELAY", "20").start();
    for _ in 0..5 {
        host.get("/data").expect(200);
    }
    eventually_true("30 spans are dropped", || host.metrics().sum("trace_spans_dropped_total", &[]) == 30.0);
    assert_eq!(host.metrics().sum("trace_spans_exported_total", &[]), 0.0);
    host.log().wait_for("spans are dropped");
}

#[test]
fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    let hanging = Remote::silent();
    let host = Host::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &hanging.url())
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")
        .env("OTEL_BSP_EXPORT_TIMEOUT", "600000")
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "6")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "12")
        .start();
    host.get("/data").expect(200);
    // The first six are on their way, and will be.
    eventually_true("the collector is asked", || hanging.connections() == 1);
    for _ in 0..5 {
        host.get("/data").expect(200);
    }
    // Twelve wait, and nobody waits for the others.
    eventually_true("18 spans are dropped", || host.metrics().sum("trace_spans_dropped_total", &[]) == 18.0);
    let stderr = host.stop().stderr;
    // Those on their way, and those that wait.
    assert!(stderr.contains("18 spans are lost"), "{stderr}");
}

#[test]
fn a_second_signal_does_not_wait_for_the_collector() {
    let hanging = Remote::silent();
    let host = Host::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &hanging.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .start();
    host.get("/data").expect(200);
    host.signal(Signal::TERM);
    // The requests have ended, and the last spans are on their way.
    eventually_true("the collector is asked", || hanging.connections() == 1);
    host.signal(Signal::TERM);
    host.wait().expect(130, &["stopped at once"]);
}
