//! The internal address: registering, heartbeats, look-ups, listings, the token, garbage. What happens when leases lapse
//! is tested beside the code, on a clock that doesn't have to be waited for.

use e2e::{Client, Host, Remote, Reply};
use serde_json::{Value, json};

fn register(host: &Host, body: &Value) -> Reply {
    host.internal().post("/register", body)
}

#[test]
fn a_registered_instance_is_available_at_once_and_gone_when_it_says_so() {
    let host = Host::start();
    let remote = Remote::storage("far");
    let reply = host.register("far", &remote.url()).expect(201);
    let expected = json!({ "name": "far", "namespace": "storage", "heartbeat_interval_ms": 5000, "ttl_ms": 15000 });
    assert_eq!(reply.json(), expected);
    assert_eq!(reply.header("content-type"), "application/json");
    let status = host.get("/status").json();
    assert_eq!((&status["total"], &status["available"]), (&4.into(), &4.into()), "{status}");
    assert_eq!(status["instances"][0]["name"], "far", "in order of name: {status}");
    assert_eq!(status["instances"][0]["address"], remote.url(), "{status}");
    let mut names: Vec<String> =
        (0..4).map(|_| host.get("/data").expect(200).header("x-served-by").to_owned()).collect();
    names.sort();
    assert_eq!(names, ["far", "storage-1", "storage-2", "storage-3"]);

    host.internal().delete("/register/storage/far").expect(204);
    assert_eq!(host.get("/status").json()["total"], 3);
    host.internal().delete("/register/storage/far").problem(404, "unknown_instance");
}

#[test]
fn heartbeats() {
    let host = Host::start();
    let beat = |body: &Value| host.internal().post("/heartbeat", body);
    beat(&json!({ "name": "far" })).problem(404, "unknown_instance");
    let remote = Remote::storage("far");
    host.register("far", &remote.url()).expect(201);
    beat(&json!({ "name": "far" })).expect(200);
    beat(&json!({ "name": "far", "namespace": "storage" })).expect(200);
    beat(&json!({ "name": "far", "namespace": "other" })).problem(404, "unknown_instance");
    // Instances of this process have no leases to renew.
    beat(&json!({ "name": "storage-1" })).problem(404, "unknown_instance");
    host.internal().delete("/register/storage/storage-1").problem(404, "unknown_instance");
    assert_eq!(host.get("/status").json()["available"], 4);
}

#[test]
fn a_name_twice_with_another_address_is_the_newest() {
    let host = Host::start();
    let (old, new) = (Remote::storage("old"), Remote::storage("new"));
    let namespaced = |url: String| json!({ "name": "moving", "namespace": "movers", "address": url });
    register(&host, &namespaced(old.url())).expect(201);
    assert_eq!(host.get("/services/movers/data").json()["storage"], "old");
    register(&host, &namespaced(new.url())).expect(200);
    for _ in 0..3 {
        assert_eq!(host.get("/services/movers/data").json()["storage"], "new");
    }
    assert_eq!(host.instances("movers").len(), 1);
    register(&host, &namespaced(new.url())).expect(200);
}

#[test]
fn a_name_of_an_instance_in_process_is_taken() {
    let host = Host::start();
    let remote = Remote::storage("far");
    host.register("storage-1", &remote.url()).problem(400, "invalid_request");
    assert_eq!(host.instances("storage").len(), 3);
}

#[test]
fn namespaces_come_and_go_with_their_instances() {
    let host = Host::start();
    let remote = Remote::storage("a");
    host.get("/services/fresh/data").problem(404, "unknown_namespace");
    register(&host, &json!({ "name": "a", "namespace": "fresh", "address": remote.url() })).expect(201);
    assert_eq!(host.get("/services/fresh/data").expect(200).header("x-served-by"), "a");
    assert_eq!(host.get("/status?namespace=fresh").json()["total"], 1);
    host.internal().delete("/register/fresh/a").expect(204);
    host.get("/services/fresh/data").problem(404, "unknown_namespace");
}

#[test]
fn registering_by_port() {
    let host = Host::start();
    let remote = Remote::storage("by-port");
    let port: u16 = remote.url().rsplit(':').next().expect("a port").parse().expect("a number");
    let request = json!({ "namespace": "ported", "port": port });
    let first = host.internal().post("/api/register", &request).expect(201).json();
    assert_eq!((&first["namespace"], &first["ttl_ms"]), (&"ported".into(), &15000.into()));
    let again = host.internal().post("/api/register", &request).expect(200).json();
    assert_eq!(first, again, "the same caller has the same name");
    assert_eq!(host.instances("ported")[0]["address"], remote.url());
    assert_eq!(host.get("/services/ported/data").expect(200).json()["storage"], "by-port");
    for port in [json!(0), json!(65536), json!(-1), json!("80"), json!(1.5), Value::Null] {
        let reply = host.internal().post("/api/register", &json!({ "namespace": "ported", "port": port }));
        let problem = reply.problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("port")), "{problem}");
    }
}

#[test]
fn look_ups() {
    let host = Host::start();
    let look_up = |namespace: &str| host.internal().post("/api/lookup", &json!({ "namespace": namespace }));
    look_up("nobody").problem(404, "unknown_namespace");
    let remote = Remote::storage("far");
    register(&host, &json!({ "name": "far", "namespace": "remote", "address": remote.url() })).expect(201);
    let found = look_up("remote").expect(200).json();
    let port: u16 = remote.url().rsplit(':').next().expect("a port").parse().expect("a number");
    assert_eq!(found, json!({ "name": "far", "address": remote.url(), "host": "127.0.0.1", "port": port }));
    let local = look_up("storage").expect(200).json();
    assert_eq!(local["address"], host.url(), "an instance in process is reached by the public address: {local}");
    host.internal().post("/api/lookup", &json!({})).problem(400, "invalid_request");
}

#[test]
fn garbage_is_refused_with_the_field_to_blame() {
    let host = Host::start();
    let fine = "http://127.0.0.1:1";
    for (name, address, blamed) in [
        (json!(""), json!(fine), "name"),
        (json!("a b"), json!(fine), "name"),
        (json!("-a"), json!(fine), "name"),
        (json!("a/b"), json!(fine), "name"),
        (json!("n".repeat(129)), json!(fine), "name"),
        (json!(1), json!(fine), "name"),
        (Value::Null, json!(fine), "name"),
        (json!("a"), Value::Null, "address"),
        (json!("a"), json!(1), "address"),
        (json!("a"), json!(""), "address"),
        (json!("a"), json!("127.0.0.1:80"), "address"),
        (json!("a"), json!("https://a"), "address"),
        (json!("a"), json!("ftp://a"), "address"),
        (json!("a"), json!("http://"), "address"),
        (json!("a"), json!("http://a:0"), "address"),
        (json!("a"), json!("http://a:65536"), "address"),
        (json!("a"), json!("http://a/path"), "address"),
        (json!("a"), json!("http://a?query"), "address"),
        (json!("a"), json!("http://user@a"), "address"),
        (json!("a"), json!("http://a b"), "address"),
        (json!("a"), json!("http://[::1"), "address"),
        (json!("a"), json!(format!("http://{}", "h".repeat(300))), "address"),
    ] {
        let body = json!({ "name": name, "address": address });
        let problem = register(&host, &body).problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(blamed)), "{body}: {problem}");
    }
    for namespace in [json!(""), json!("a.b"), json!("n".repeat(64)), json!(1)] {
        let body = json!({ "name": "a", "address": fine, "namespace": namespace });
        let problem = register(&host, &body).problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("namespace")), "{body}: {problem}");
    }
    let raw = |kind: &str, body: &str| {
        host.internal().request("POST", "/register").header("content-type", kind).body(body).send()
    };
    raw("application/json", "not json").problem(400, "invalid_json");
    raw("application/json", "[]").problem(400, "invalid_request");
    raw("text/plain", "{}").problem(415, "unsupported_media_type");
    let request = host.internal().request("GET", "/register").send();
    request.problem(405, "method_not_allowed");
    assert_eq!(request.header("allow"), "POST");
    host.internal().get("/nothing").problem(404, "not_found");
    assert_eq!(host.instances("*").len(), 7, "nothing of this was registered");
}

#[test]
fn a_body_of_ten_megabytes_is_refused() {
    let host = Host::start();
    let body = format!("{{\"name\":\"{}\"}}", "n".repeat(10 << 20));
    let request = host.internal().request("POST", "/register").header("content-type", "application/json").body(body);
    // The host may hang up while the rest is still being sent; an answer that does come says why.
    if let Ok(reply) = request.try_send() {
        reply.problem(413, "body_too_large");
    }
    host.internal().get("/healthz").expect(200);
}

#[test]
fn our_own_addresses_are_refused() {
    let host = Host::start();
    let port = |client: &Client| client.url().rsplit(':').next().expect("a port").to_owned();
    for client in [host.public(), host.internal()] {
        for name in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{name}:{}", port(client));
            let problem = host.register("ourselves", &url).problem(400, "invalid_request");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("own")), "{url}: {problem}");
        }
    }
    assert_eq!(host.instances("storage").len(), 3);
}

#[test]
fn ten_thousand_registrations() {
    let host = Host::start();
    std::thread::scope(|scope| {
        for part in 0..8 {
            let host = &host;
            scope.spawn(move || {
                let client = Client::new(host.internal().url());
                for index in 0..1250 {
                    let name = format!("crowd-{part}-{index}");
                    let body = json!({ "name": name, "namespace": "crowd", "address": "http://192.0.2.1:80" });
                    client.post("/register", &body).expect(201);
                }
            });
        }
    });
    let status = host.get("/status?namespace=crowd").expect(200).json();
    assert_eq!((&status["total"], &status["available"]), (&10_000.into(), &10_000.into()));
    assert_eq!(status["instances"].as_array().map(Vec::len), Some(10_000));
    // The others don't suffer.
    assert_eq!(host.get("/status").json()["total"], 3);
    host.get("/data").expect(200);
}

#[test]
fn health_of_the_process() {
    let host = Host::start();
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(host.internal().get(path).expect(200).json()["status"], "ok", "{path}");
    }
}

#[test]
fn a_host_whose_routed_component_is_unhealthy_is_not_ready() {
    let check = "health-check = { path = \"/trap\", interval = \"20ms\", unhealthy-after = 2 }";
    let host = Host::with_guest("misbehaving-p2", check).start();
    host.wait_for_state("guest", "one", "unavailable");
    host.wait_for_state("guest", "two", "unavailable");
    let reason = host.internal().get("/readyz").expect(503).json();
    assert!(reason["reason"].as_str().is_some_and(|reason| reason.contains("guest")), "{reason}");
    host.internal().get("/healthz").expect(200);
    host.get("/ok").problem(503, "no_instance_available");
}

#[test]
fn an_instance_that_recovers_returns() {
    // A file that is there or not decides about its health.
    let lines = "health-check = { path = \"/fs?path=/health/ok\", interval = \"20ms\", unhealthy-after = 2, healthy-after = 2 }\n\
                 directories = { \"/health\" = \"./health\" }";
    let builder = Host::with_guest("misbehaving-p2", lines);
    std::fs::create_dir(builder.directory().join("health")).expect("a directory can be made");
    let host = builder.start();
    host.wait_for_state("guest", "one", "unavailable");
    std::fs::write(host.directory().join("health/ok"), "yes").expect("a file can be written");
    host.wait_for_state("guest", "one", "available");
    host.wait_for_state("guest", "two", "available");
    host.get("/ok").expect(200);
}

#[test]
fn the_token_is_needed_for_everything_but_health() {
    let host = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start();
    for path in ["/healthz", "/livez", "/readyz"] {
        host.internal().get(path).expect(200);
    }
    for (method, path) in [
        ("POST", "/register"),
        ("POST", "/heartbeat"),
        ("POST", "/api/register"),
        ("POST", "/api/lookup"),
        ("DELETE", "/register/storage/a"),
        ("GET", "/instances"),
        ("GET", "/components"),
        ("GET", "/nothing"),
    ] {
        for token in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic s3cret"), Some("s3cret")] {
            let mut request = host.internal().request(method, path);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            let reply = request.send();
            reply.problem(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        }
    }
    for scheme in ["Bearer", "bearer"] {
        let request = host.internal().request("GET", "/instances").header("authorization", &format!("{scheme} s3cret"));
        request.send().expect(200);
    }
}

#[test]
fn listings() {
    let host = Host::start();
    for all in ["/instances", "/instances?namespace=*"] {
        assert_eq!(host.internal().get(all).expect(200).json()["total"], 7, "{all}");
    }
    assert_eq!(host.internal().get("/instances?namespace=echo").expect(200).json()["total"], 3);
    let components = host.internal().get("/components").expect(200).json();
    let components = components["components"].as_array().expect("a list").clone();
    let names: Vec<_> = components.iter().map(|component| component["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["echo", "gateway", "storage"]);
    assert_eq!(components[1]["route"], "/");
    assert_eq!(components[2]["instances"], json!(["storage-1", "storage-2", "storage-3"]));
    assert!(components.iter().all(|component| component["digest"].as_str().is_some_and(|digest| digest.len() == 64)));
}

#[test]
fn the_command_status() {
    let host = Host::start();
    let text = host.ask(&["status"]).expect(0, &[]).stdout;
    for part in ["7 of 7 instances are available", "storage-2", "in-process", "gateway"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let document: Value =
        serde_json::from_str(&host.ask(&["status", "-o", "json"]).expect(0, &[]).stdout).expect("JSON");
    assert_eq!(document["total"], 7);
    let nobody = Remote::refusing();
    Host::cli(["status", "--internal", &nobody.url()]).expect(1, &[&nobody.url()]);
}

#[test]
fn the_command_status_with_a_token() {
    let host = Host::builder().manifest("[internal]\ntoken-file = \"token\"\n").file("token", "s3cret\n").start();
    host.ask(&["status"]).expect(1, &["--token-file", "HOSTLER_INTERNAL_TOKEN"]);
    let file = host.directory().join("token");
    let file = file.to_str().expect("the path is UTF-8");
    host.ask(&["status", "--token-file", file]).expect(0, &[]);
    let mut command = Host::command();
    command.args(["status", "--internal", host.internal().url()]).env("HOSTLER_INTERNAL_TOKEN", "s3cret");
    e2e::Run::of(&mut command).expect(0, &[]);
}
