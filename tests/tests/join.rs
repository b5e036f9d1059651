//! Joining: a service that isn't ours by `host join`, and a whole host by `[join]`.

use std::process::{Child, Stdio};

use e2e::{Host, Log, Remote, eventually, eventually_true};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// `host join`, running. Killed when it is dropped.
struct Join {
    child: Child,
    log: Log,
}

impl Join {
    fn start(host: &Host, name: &str, url: &str, more: &[&str]) -> Self {
        let mut command = Host::command();
        command.args(["join", "--internal", host.internal().url(), "--name", name, "--url", url]).args(more);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let log = Log::read(child.stderr.take().expect("it is piped"));
        Self { child, log }
    }

    fn stop(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).expect("the process was not waited for");
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the end of host join", || child.try_wait().expect("a child can be waited for")).code()
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of host join\n{}\n---", self.log.text());
        }
    }
}

fn gateway_only() -> Host {
    Host::builder().manifest("[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n").start()
}

#[test]
fn a_foreign_service_is_registered_and_leaves_with_the_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let (host, service) = (gateway_only(), Remote::storage("foreign"));
        let mut join = Join::start(&host, "foreign", &service.url(), &[]);
        host.wait_for_state("storage", "foreign", "available");
        assert_eq!(host.get("/data").expect(200).json()["storage"], "foreign");
        assert_eq!(join.stop(signal), Some(0));
        assert_eq!(host.get("/status").json()["total"], 0, "it has deregistered");
    }
}

#[test]
fn the_namespace_and_the_health_path_can_be_chosen() {
    let host = gateway_only();
    let service = Remote::start(|exchange| match exchange.target.as_str() {
        "/am-i-well" => exchange.answer(204, &[], b""),
        "/data" => exchange.answer(200, &[], b"data"),
        _ => exchange.answer(404, &[], b""),
    });
    let more = ["--namespace", "others", "--health-path", "/am-i-well"];
    let _join = Join::start(&host, "a", &service.url(), &more);
    host.wait_for_state("others", "a", "available");
    assert_eq!(host.get("/services/others/data").expect(200).text(), "data");
}

#[test]
fn an_unhealthy_service_is_not_registered_until_it_is_well() {
    let host = gateway_only();
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = well.clone();
    let service = Remote::start(move |exchange| {
        let status = if asked.load(std::sync::atomic::Ordering::SeqCst) { 200 } else { 503 };
        exchange.answer(status, &[], b"");
    });
    let join = Join::start(&host, "a", &service.url(), &[]);
    eventually_true("its health is checked", || service.requests() >= 2);
    assert_eq!(host.instances("storage"), [json!(null); 0]);
    assert!(join.log.text().contains("not healthy"), "{}", join.log.text());
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    host.wait_for_state("storage", "a", "available");
}

#[test]
fn a_registration_that_was_lost_is_made_again() {
    let (host, service) = (gateway_only(), Remote::storage("a"));
    let _join = Join::start(&host, "a", &service.url(), &[]);
    host.wait_for_state("storage", "a", "available");
    host.internal().delete("/register/storage/a").expect(204);
    host.wait_for_state("storage", "a", "available");
}

#[test]
fn a_host_that_is_not_there_yet_is_waited_for() {
    let service = Remote::storage("a");
    let host = gateway_only();
    let internal = host.internal().url().trim_start_matches("http://").to_owned();
    host.stop();
    let manifest = "[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n";
    let mut command = Host::command();
    command
        .args(["join", "--name", "a", "--url", &service.url()])
        .env("HOSTLER_INTERNAL", format!("http://{internal}"));
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it can be started");
    let log = Log::read(child.stderr.take().expect("it is piped"));
    let mut join = Join { child, log };
    eventually_true("it has noticed", || join.log.text().contains(&internal));
    assert!(join.child.try_wait().expect("a child can be looked at").is_none(), "it goes on trying");
    let host = Host::builder().own_addresses().manifest(manifest);
    let host = host.flag("--listen").flag("127.0.0.1:0").flag("--internal-listen").flag(&internal).start();
    host.wait_for_state("storage", "a", "available");
    assert_eq!(join.stop(Signal::TERM), Some(0));
}

#[test]
fn a_refusal_is_final() {
    let (host, service) = (Host::start(), Remote::storage("a"));
    let mut join = Join::start(&host, "storage-1", &service.url(), &[]);
    assert_eq!(join.wait(), Some(1), "the name is taken by an instance in process");
    let token = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start();
    let mut join = Join::start(&token, "a", &service.url(), &[]);
    assert_eq!(join.wait(), Some(1), "the token is missing");
    eventually_true("the reason is said", || join.log.text().contains("401"));
}

#[test]
fn a_token_opens_the_internal_address() {
    let (host, service) = (Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start(), Remote::storage("a"));
    let file = host.directory().join("token");
    std::fs::write(&file, "s3cret\n").expect("a file can be written");
    let _join = Join::start(&host, "a", &service.url(), &["--token-file", file.to_str().expect("UTF-8")]);
    eventually_true("it is registered", || host.get("/status").json()["total"] == 4);
}

/// A host with one storage that joins `gateway`. `port` 0 would not do: what it advertises must be where it listens.
fn storage_of(gateway: &Host, name: &str, token: Option<&str>) -> Host {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let manifest = format!(
        "[join]\nurl = \"{}\"\nadvertise = \"http://{address}\"\n{}\
         [components.storage]\nsource = \"builtin:storage\"\nroute = \"/\"\ninstances = [\"{name}\"]\n\
         environment = {{ STORAGE_NAME = \"{{instance}}\" }}\n",
        gateway.internal().url(),
        if token.is_some() { "token-file = \"token\"\n" } else { "" },
    );
    let builder = Host::builder().own_addresses().manifest(&manifest).file("token", token.unwrap_or_default());
    builder.flag("--listen").flag(address.to_string()).flag("--internal-listen").flag("127.0.0.1:0").start()
}

#[test]
fn hosts_join_and_leave() {
    let gateway = Host::builder()
        .manifest("[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n")
        .env("HOSTLER_INTERNAL_TOKEN", "s3cret")
        .start();
    let available = |count: u32| {
        eventually_true(&format!("{count} available"), || gateway.get("/status").json()["available"] == count);
    };
    let storages = ["storage-1", "storage-2", "storage-3"].map(|name| storage_of(&gateway, name, Some("s3cret")));
    available(3);
    let mut names: Vec<String> =
        (0..3).map(|_| gateway.get("/data").expect(200).json()["storage"].to_string()).collect();
    names.sort();
    assert_eq!(names, ["\"storage-1\"", "\"storage-2\"", "\"storage-3\""]);
    let [first, second, third] = storages;
    // One leaves, one dies: neither costs a request.
    first.stop().expect(0, &[]);
    assert_eq!(gateway.get("/status").json()["total"], 2);
    drop(second);
    for _ in 0..8 {
        assert_eq!(gateway.get("/data").expect(200).json()["storage"], "storage-3");
    }
    available(1);
    let _again = storage_of(&gateway, "storage-2", Some("s3cret"));
    available(2);
    drop(third);
}

#[test]
fn a_wrong_token_is_complained_about_and_the_host_runs_on() {
    let gateway = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start();
    let storage = storage_of(&gateway, "far", Some("wrong"));
    eventually_true("it complains", || storage.log().text().contains("401"));
    storage.get("/data").expect(200);
    assert_eq!(gateway.get("/status").json()["total"], 3);
}
