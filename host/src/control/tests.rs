//! The internal address over real sockets.

use std::time::{Duration, Instant};

use registry::{Config, HealthPolicy, Name, Namespace};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::cli::RunArgs;
use crate::facts::Failures;
use crate::manifest::{self, Component, Environment};
use crate::swap::testing;
use crate::telemetry::LogLevel;

mod components;
mod status;

struct Running {
    url: String,
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    client: Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    _folder: TempDir,
}

fn namespace(text: &str) -> Namespace {
    text.parse().expect("a namespace")
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A routed component with the instance `storage-1`.
fn storage() -> Vec<Component> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("hostler.toml");
    let text = "[components.storage]\nsource = 'builtin:echo'\nroute = '/'\ninstances = ['storage-1']";
    std::fs::write(&path, text).expect("a writable folder");
    let args = RunArgs { manifest: Some(path), ..RunArgs::default() };
    manifest::load(&args, &Environment::default()).expect("it is right").components
}

async fn start(token: Option<&str>, config: Config) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let registry = Registry::new(config);
    let readiness = Readiness::new();
    let (swapper, folder) = testing::swapper(storage());
    let metrics = Metrics::of(&registry);
    let control = Control {
        registry: registry.clone(),
        kv: Kv::default(),
        readiness: readiness.clone(),
        token: token.map(|token| Token::new(token).expect("a token")),
        public: "127.0.0.1:8080".parse().expect("an address"),
        internal: address,
        components: Components::new(swapper),
        observer: Observer::new(metrics.clone(), readiness.clone(), Failures::default()),
        metrics,
        tracer: None,
        log_level: Level::new(LogLevel::Info).0,
        streams: Streams::new(),
    };
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve(listener, control, async {
        let _ = stopped.await;
        Duration::from_secs(30)
    }));
    let client = Client::builder().no_proxy().build().expect("a client");
    Running { url: format!("http://{address}"), address, registry, readiness, client, stop, served, _folder: folder }
}

impl Running {
    async fn post(&self, path: &str, body: Value) -> Response {
        let request = self.client.post(format!("{}{path}", self.url)).json(&body);
        request.send().await.expect("an answer")
    }

    async fn request(&self, method: Method, path: &str) -> Response {
        self.client.request(method, format!("{}{path}", self.url)).send().await.expect("an answer")
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        document(self.request(Method::GET, path).await).await
    }

    fn add_in_process(&self, instance: &str) {
        let policy = HealthPolicy { unhealthy_after: 1, healthy_after: 1 };
        let new = [(namespace("storage"), name(instance), policy)];
        let added = self.registry.replace_in_process(&[], &new, Instant::now(), || {});
        added.expect("there is room");
    }
}

async fn document(response: Response) -> (StatusCode, Value) {
    (response.status(), response.json().await.expect("JSON"))
}

/// Checks a problem document, and that its detail contains `said`.
async fn expect_problem(response: Response, code: &str, said: &str) {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let (status, document) = document(response).await;
    assert_eq!(document["code"], code, "{document}");
    assert_eq!(document["status"], status.as_u16());
    let detail = document["detail"].as_str().expect("a detail");
    assert!(detail.contains(said), "{said:?} is missing in {detail:?}");
}

#[tokio::test]
async fn services_register_live_and_leave() {
    let host = start(None, Config::default()).await;
    let body = json!({"name": "storage-1", "address": "http://127.0.0.1:7001"});
    let (status, answer) = document(host.post("/register", body.clone()).await).await;
    assert_eq!(status, StatusCode::CREATED);
    let expected = json!({"name": "storage-1", "namespace": "storage", "heartbeat_interval_ms": 5000, "ttl_ms": 15000});
    assert_eq!(answer, expected);
    assert_eq!(host.post("/register", body).await.status(), StatusCode::OK);
    assert_eq!(host.post("/heartbeat", json!({"name": "storage-1"})).await.status(), StatusCode::OK);

    // Back on another port: the newest address counts.
    let moved = json!({"name": "storage-1", "namespace": "storage", "address": "http://127.0.0.1:7002/"});
    assert_eq!(host.post("/register", moved).await.status(), StatusCode::OK);
    let (_, listed) = host.get("/instances").await;
    assert_eq!((&listed["available"], &listed["total"]), (&json!(1), &json!(1)));
    let instance = &listed["instances"][0];
    assert_eq!(instance["address"], "http://127.0.0.1:7002");
    assert_eq!(instance["state"], "available");
    assert!(instance["last_seen_ms"].is_u64());

    let path = "/register/storage/storage-1";
    assert_eq!(host.request(Method::DELETE, path).await.status(), StatusCode::NO_CONTENT);
    expect_problem(host.request(Method::DELETE, path).await, "unknown_instance", "storage-1").await;
    let gone = host.post("/heartbeat", json!({"name": "storage-1"})).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    expect_problem(gone, "unknown_instance", "register").await;
}

#[tokio::test]
async fn callers_register_by_port_and_look_each_other_up() {
    let host = start(None, Config::default()).await;
    let (status, answer) = document(host.post("/api/register", json!({"namespace": "s", "port": 7001})).await).await;
    assert_eq!((status, &answer["name"]), (StatusCode::CREATED, &json!("127.0.0.1-7001")));
    host.post("/api/register", json!({"namespace": "s", "port": 7002})).await;
    let mut found = Vec::new();
    for _ in 0..4 {
        let (status, answer) = document(host.post("/api/lookup", json!({"namespace": "s"})).await).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["host"], "127.0.0.1");
        assert_eq!(answer["address"], format!("http://127.0.0.1:{}", answer["port"]));
        found.push(answer["port"].as_u64().expect("a port"));
    }
    assert_eq!((found[0] + found[1], found[0], found[1]), (14003, found[2], found[3]));

    // One in this process is reached by the public address.
    host.add_in_process("storage-1");
    let (_, answer) = document(host.post("/api/lookup", json!({"namespace": "storage"})).await).await;
    let expected = json!({"name": "storage-1", "address": "http://127.0.0.1:8080", "host": "127.0.0.1", "port": 8080});
    assert_eq!(answer, expected);

    expect_problem(host.post("/api/lookup", json!({"namespace": "x"})).await, "unknown_namespace", "\"x\"").await;
    host.registry.declare(&namespace("empty"));
    let none = host.post("/api/lookup", json!({"namespace": "empty"})).await;
    assert_eq!(
        (none.status(), &none.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().expect("a value"))
    );
    expect_problem(none, "no_instance_available", "empty").await;
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let host = start(None, Config { max_instances: 2, ..Config::default() }).await;
    host.add_in_process("taken");
    let own = format!("http://{}", host.address);
    let valid = "http://127.0.0.1:7001";
    for (path, body, code, said) in [
        ("/register", json!([]), "invalid_request", "object"),
        ("/register", json!({"address": valid}), "invalid_request", "\"name\" is missing"),
        ("/register", json!({"name": 3, "address": valid}), "invalid_request", "\"name\" must be a string"),
        ("/register", json!({"name": "", "address": valid}), "invalid_request", "\"name\""),
        ("/register", json!({"name": "a/b", "address": valid}), "invalid_request", "\"name\""),
        ("/register", json!({"name": "a"}), "invalid_request", "\"address\" is missing"),
        ("/register", json!({"name": "a", "address": "nonsense"}), "invalid_request", "\"address\""),
        ("/register", json!({"name": "a", "address": "https://x"}), "invalid_request", "\"address\""),
        ("/register", json!({"name": "a", "address": valid, "namespace": "a b"}), "invalid_request", "\"namespace\""),
        ("/register", json!({"name": "a", "address": own}), "invalid_request", "this host's own address"),
        ("/register", json!({"name": "a", "address": "http://localhost:8080"}), "invalid_request", "own address"),
        ("/register", json!({"name": "taken", "address": valid}), "invalid_request", "taken"),
        ("/heartbeat", json!({}), "invalid_request", "\"name\" is missing"),
        ("/heartbeat", json!({"name": "taken"}), "unknown_instance", "taken"),
        ("/api/register", json!({"namespace": "s"}), "invalid_request", "\"port\" is missing"),
        ("/api/register", json!({"namespace": "s", "port": 0}), "invalid_request", "\"port\" must be a number"),
        ("/api/register", json!({"namespace": "s", "port": "1"}), "invalid_request", "\"port\" must be a number"),
        ("/api/register", json!({"namespace": "s", "port": 8080}), "invalid_request", "own address"),
        ("/api/lookup", json!({}), "invalid_request", "\"namespace\" is missing"),
    ] {
        expect_problem(host.post(path, body).await, code, said).await;
    }
    assert_eq!(host.post("/register", json!({"name": "a", "address": valid})).await.status(), StatusCode::CREATED);
    expect_problem(host.post("/register", json!({"name": "b", "address": valid})).await, "registry_full", "2").await;

    let raw = |body: String, content_type: &'static str| {
        host.client.post(format!("{}/register", host.url)).header("content-type", content_type).body(body).send()
    };
    expect_problem(raw("{".to_owned(), "application/json").await.expect("an answer"), "invalid_json", "EOF").await;
    expect_problem(raw("a=b".to_owned(), "text/plain").await.expect("an answer"), "unsupported_media_type", "json")
        .await;
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(body::LIMIT));
    expect_problem(raw(large, "application/json").await.expect("an answer"), "body_too_large", "65536").await;

    expect_problem(host.request(Method::GET, "/nowhere").await, "not_found", "").await;
    let wrong = host.request(Method::GET, "/register").await;
    assert_eq!(
        (wrong.status(), &wrong.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().expect("a value"))
    );
    expect_problem(wrong, "method_not_allowed", "GET").await;
    let path = "/register/storage/a%2Fb";
    expect_problem(host.request(Method::DELETE, path).await, "invalid_request", "name").await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_too() {
    let host = start(None, Config::default()).await;
    let mut stream = tokio::net::TcpStream::connect(host.address).await.expect("it listens");
    let head =
        "POST /register HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", body::LIMIT + 1, "x".repeat(body::LIMIT + 1));
    // The answer may come, and the connection end, before everything is sent.
    let _ = stream.write_all(format!("{head}{chunk}").as_bytes()).await;
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn the_token_guards_everything_but_the_probes() {
    let host = start(Some("s3cret"), Config::default()).await;
    for path in ["/instances", "/components", "/nowhere", "/register"] {
        let refused = host.request(Method::GET, path).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(refused.headers().contains_key("www-authenticate"));
        expect_problem(refused, "unauthorized", "Bearer").await;
    }
    let with =
        |token: &'static str| host.client.get(format!("{}/instances", host.url)).header("authorization", token).send();
    for wrong in ["Bearer wrong", "Bearer ", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
        assert_eq!(with(wrong).await.expect("an answer").status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
    for right in ["Bearer s3cret", "bearer s3cret"] {
        assert_eq!(with(right).await.expect("an answer").status(), StatusCode::OK, "{right}");
    }
    for open in ["/healthz", "/livez"] {
        assert_eq!(host.get(open).await, (StatusCode::OK, json!({"status": "ok"})), "{open}");
    }
    assert_eq!(host.request(Method::GET, "/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn ready_means_serving_with_an_instance_of_every_routed_component() {
    let host = start(None, Config::default()).await;
    let reason = |answer: (StatusCode, Value)| {
        assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE);
        answer.1["reason"].as_str().expect("a reason").to_owned()
    };
    assert_eq!(reason(host.get("/readyz").await), "starting");
    host.readiness.serving();
    assert!(reason(host.get("/readyz").await).contains("\"storage\""));
    host.add_in_process("storage-1");
    assert_eq!(host.get("/readyz").await, (StatusCode::OK, json!({"status": "ok"})));
    host.registry.record_check(&namespace("storage"), &name("storage-1"), false, Instant::now());
    assert!(reason(host.get("/readyz").await).contains("\"storage\""));
    host.readiness.draining();
    host.readiness.serving();
    assert_eq!(reason(host.get("/readyz").await), "draining");
}

#[tokio::test]
async fn listings_filter_and_are_never_an_error() {
    let host = start(None, Config::default()).await;
    host.add_in_process("storage-1");
    host.post("/register", json!({"name": "a", "namespace": "other", "address": "http://127.0.0.1:7001"})).await;
    for (path, total) in [
        ("/instances", 2),
        ("/instances?namespace=*", 2),
        ("/instances?namespace=storage", 1),
        ("/instances?namespace=nobody", 0),
    ] {
        let (status, listed) = host.get(path).await;
        assert_eq!((status, &listed["total"]), (StatusCode::OK, &json!(total)), "{path}");
    }
}

#[tokio::test]
async fn leases_lapse_by_themselves() {
    let config = Config {
        ttl: Duration::from_millis(40),
        heartbeat_interval: Duration::from_millis(10),
        removal_ttls: 2,
        ..Config::default()
    };
    let host = start(None, config).await;
    host.post("/register", json!({"name": "a", "address": "http://127.0.0.1:7001"})).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while host.get("/instances").await.1["total"] != 0 {
        assert!(Instant::now() < deadline, "the instance is still listed");
    }
}

#[tokio::test]
async fn it_stops_when_told_and_finishes_what_it_began() {
    let host = start(None, Config::default()).await;
    let mut stream = tokio::net::TcpStream::connect(host.address).await.expect("it listens");
    let body = r#"{"name":"a","address":"http://127.0.0.1:7001"}"#;
    let head = format!("POST /register HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.expect("it reads");
    // An answer on another connection proves that the first one was accepted before.
    assert_eq!(host.request(Method::GET, "/livez").await.status(), StatusCode::OK);
    host.stop.send(()).expect("it is running");
    stream.write_all(body.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    host.served.await.expect("it ends");
    assert!(tokio::net::TcpStream::connect(host.address).await.is_err());
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let host = start(Some("secret"), Config::default()).await;
    host.add_in_process("storage-1");
    let get = |accept| host.client.get(format!("{}/metrics", host.url)).header("accept", accept).send();
    for (accept, kind, end) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", "build_info{version=\"0.1.0\"} 1\n"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8", "# EOF\n"),
    ] {
        let answer = get(accept).await.expect("an answer");
        assert_eq!((answer.status(), answer.headers()["content-type"].as_bytes()), (StatusCode::OK, kind.as_bytes()));
        let text = answer.text().await.expect("text");
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains("instances{namespace=\"storage\",state=\"available\"} 1\n"), "{text}");
    }
}

#[tokio::test]
async fn too_many_namespaces_are_counted_together() {
    let host = start(None, Config::default()).await;
    host.add_in_process("storage-1");
    for number in 0..200 {
        let address = "http://127.0.0.1:7001".parse().expect("an address");
        let registered =
            host.registry.register(&namespace(&format!("n{number:03}")), &name("a"), address, Instant::now());
        registered.expect("there is room");
    }
    let text = host.request(Method::GET, "/metrics").await.text().await.expect("text");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("instances{")).collect();
    assert_eq!(lines.len(), 2 * 129, "{text}");
    for line in [
        "instances{namespace=\"storage\",state=\"available\"} 1",
        "instances{namespace=\"n126\",state=\"available\"} 1",
        "instances{namespace=\"other\",state=\"available\"} 73",
        "instances{namespace=\"other\",state=\"unavailable\"} 0",
    ] {
        assert!(lines.contains(&line), "no {line} in {text}");
    }
}

#[tokio::test]
async fn the_level_of_the_log_is_shown_and_set() {
    let host = start(None, Config::default()).await;
    assert_eq!(host.get("/log-level").await, (StatusCode::OK, json!({"level": "info"})));
    let put = |body: Value| host.client.put(format!("{}/log-level", host.url)).json(&body).send();
    let (status, answer) = document(put(json!({"level": "debug"})).await.expect("an answer")).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"level": "debug"})));
    assert_eq!(host.get("/log-level").await.1, json!({"level": "debug"}));
    expect_problem(put(json!({"level": "loud"})).await.expect("an answer"), "invalid_request", "off, error, warn")
        .await;
    expect_problem(put(json!({})).await.expect("an answer"), "invalid_request", "\"level\" is missing").await;
    assert_eq!(host.get("/log-level").await.1, json!({"level": "debug"}));
}
