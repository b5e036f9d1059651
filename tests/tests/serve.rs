//! Our components alone, under stock `wasmtime serve`, as `just serve NAME` runs them.

use std::process::{Child, Command, Stdio};

use e2e::{Client, Log, Remote, artifact, eventually, need};
use serde_json::json;

/// `components/serve.sh`, running. Killed when it is dropped.
struct Serve {
    child: Child,
    client: Client,
    log: Log,
}

/// Something if `wasmtime` is installed.
fn wasmtime() -> Option<()> {
    Command::new("wasmtime").arg("--version").stdout(Stdio::null()).status().ok().map(drop)
}

impl Serve {
    fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        artifact::prepare_serve();
        let mut command = Command::new(artifact::root().join("components/serve.sh"));
        command.args([name, "--addr", "127.0.0.1:0"]).env("CARGO_TARGET_DIR", artifact::guests());
        for variable in ["STORAGE_NAME", "STORAGE_SERVICES", "HOSTLER_API_KEYS"] {
            command.env_remove(variable);
        }
        command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let log = Log::read(child.stderr.take().expect("it is piped"));
        let url = eventually(&format!("serve.sh {name} says where it listens"), || {
            let text = log.text();
            let at = text.find("http://127.0.0.1:")?;
            Some(text[at..].split('/').take(3).collect::<Vec<_>>().join("/"))
        });
        Self { child, client: Client::new(url), log }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of serve.sh\n{}\n---", self.log.text());
        }
    }
}

#[test]
fn storage() {
    need!(wasmtime(), "wasmtime");
    let storage = Serve::start("storage", &[("STORAGE_NAME", "alone")]);
    let client = &storage.client;
    assert_eq!(client.get("/data").expect(200).json()["storage"], "alone");
    for path in ["/healthz", "/health", "/health_check"] {
        assert_eq!(client.get(path).expect(200).json(), json!({ "status": "available", "name": "alone" }));
    }
    let entry = json!({ "key": "a", "value": "b" });
    assert_eq!(client.post("/kv/set", &entry).expect(200).json(), json!({ "key": "a", "status": "stored" }));
    // wasmtime's store begins anew with every guest, so nothing that was stored is sure to be found.
    let found = client.get("/kv/get?key=a");
    assert!([200, 404].contains(&found.status), "{}", found.text());
    client.get("/kv/get?key=never").problem(404, "key_not_found");
    client.delete("/kv/delete?key=never").problem(404, "key_not_found");
    client.get("/nothing").problem(404, "not_found");
    client.post("/kv/set", &json!({ "key": "", "value": "b" })).problem(400, "invalid_key");
    let unnamed = Serve::start("storage", &[]);
    assert_eq!(unnamed.client.get("/data").expect(200).json()["storage"], "storage");
}

#[test]
fn echo() {
    need!(wasmtime(), "wasmtime");
    let echo = Serve::start("echo", &[]);
    let body = "x".repeat(1_000_000);
    for method in ["POST", "PUT", "PATCH"] {
        let request = echo.client.request(method, "/any/path?query").header("content-type", "text/x-mine");
        let reply = request.body(body.as_str()).send().expect(200);
        assert!(reply.text() == body, "{method}: {} bytes", reply.body.len());
        assert_eq!(reply.header("content-type"), "text/x-mine");
    }
    assert_eq!(echo.client.get("/").expect(200).text(), "");
}

#[test]
fn gateway() {
    need!(wasmtime(), "wasmtime");
    let first = Serve::start("storage", &[("STORAGE_NAME", "first")]);
    let second = Serve::start("storage", &[("STORAGE_NAME", "second")]);
    let services = format!("{},{}", first.client.url(), second.client.url());
    let gateway = Serve::start("gateway", &[("STORAGE_SERVICES", &services), ("HOSTLER_API_KEYS", "secret")]);
    let client = &gateway.client;

    assert_eq!(client.get("/health").expect(200).json(), json!({ "status": "ok" }));
    let mut names: Vec<String> =
        (0..20).map(|_| client.get("/data").expect(200).json()["storage"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, ["\"first\"", "\"second\""]);
    let status = client.get("/status").expect(200).json();
    assert_eq!((&status["total"], &status["available"]), (&2.into(), &2.into()), "{status}");
    let addresses: Vec<_> =
        status["instances"].as_array().expect("a list").iter().map(|it| it["address"].clone()).collect();
    assert!(addresses.contains(&json!(first.client.url())), "{status}");
    client.post("/api/set", &json!({ "key": "a", "value": "b" })).expect(200);
    client.get("/api/get?key=never").problem(404, "key_not_found");
    client.get("/v1/values/a").problem(401, "invalid_api_key");
    let read = client.request("GET", "/v1/values/never").header("x-api-key", "secret").send();
    read.problem(404, "key_not_found");
    client.get("/nothing").problem(404, "not_found");
    client.get("/services/nobody/x").problem(404, "unknown_namespace");

    // One goes: requests go to the other one, and the status says so.
    drop(first);
    for _ in 0..10 {
        assert_eq!(client.get("/data").expect(200).json()["storage"], "second");
    }
    let status = client.get("/status").expect(200).json();
    assert_eq!((&status["total"], &status["available"]), (&2.into(), &1.into()), "{status}");
    drop(second);
    let reply = client.get("/data");
    assert!([502, 503].contains(&reply.status), "{}", reply.text());
}

#[test]
fn a_gateway_without_services() {
    need!(wasmtime(), "wasmtime");
    let gateway = Serve::start("gateway", &[]);
    gateway.client.get("/data").problem(503, "no_instance_available");
    assert_eq!(
        gateway.client.get("/status").expect(200).json(),
        json!({ "available": 0, "total": 0, "instances": [] })
    );
    let silent = Remote::refusing();
    let gateway = Serve::start("gateway", &[("STORAGE_SERVICES", &silent.url())]);
    let reply = gateway.client.get("/data");
    assert!([502, 503].contains(&reply.status), "{}", reply.text());
}

#[test]
fn an_unknown_name_is_told_with_the_known_ones() {
    let mut command = Command::new(artifact::root().join("components/serve.sh"));
    e2e::Run::of(command.arg("nothing")).expect(2, &["storage|echo|gateway"]);
}
