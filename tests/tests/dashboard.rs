//! What operators see and do: the dashboard in a real browser, `host status`, rotation, and what has failed.
//!
//! The browser is Debian's chromium, driven by the scripts in `tests/browser`, whose one dependency `npm ci` installs.

use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use e2e::revision::stamped;
use e2e::{Host, Remote, Reply, Run, artifact, eventually, eventually_true, missing, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const TOKEN: &str = "s3cret-of-the-test";

/// A browser and what drives it.
struct Browser {
    chromium: PathBuf,
    node: PathBuf,
    folder: PathBuf,
}

impl Browser {
    /// None if something is missing, which was said then.
    fn find() -> Option<Self> {
        let Some(chromium) = program("chromium") else {
            missing("chromium, which is in Debian's package of that name");
            return None;
        };
        let (Some(node), Some(npm)) = (program("node"), program("npm")) else {
            missing("node and npm, which are in Debian's packages nodejs and npm");
            return None;
        };
        let folder = artifact::root().join("tests/browser");
        let npm = |arguments: &[&str]| Run::of(Command::new(&npm).args(arguments).current_dir(&folder));
        // The first says whether what the lock names is there already.
        if npm(&["ls"]).code != Some(0) {
            let installed = npm(&["ci", "--no-audit", "--no-fund"]);
            if installed.code != Some(0) {
                missing(&format!("what `npm ci` installs in tests/browser: {}", installed.stderr));
                return None;
            }
        }
        Some(Self { chromium, node, folder })
    }

    /// Runs a script on a host to its end.
    fn run(&self, script: &str, host: &Host, variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new(&self.node);
        command.arg(script).current_dir(&self.folder).env("CHROMIUM", &self.chromium);
        command.env("PUBLIC", host.url()).env("INTERNAL", host.internal().url()).env("TOKEN", TOKEN);
        command.envs(variables.iter().copied());
        Run::of(&mut command)
    }
}

#[test]
fn the_dashboard_in_a_browser() {
    let Some(browser) = Browser::find() else { return };
    let manifest = "[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\n\
                    [components.proxy]\nsource = \"builtin:gateway\"\nroute = \"/services\"\n";
    let builder = Host::builder().file("guest.wasm", stamped("stamped", 0)).manifest(manifest);
    let host = builder.env("HOSTLER_INTERNAL_TOKEN", TOKEN).start();
    let bearer = format!("Bearer {TOKEN}");
    let swap = host.internal().request("PUT", "/components/guest").header("authorization", &bearer);
    swap.body(stamped("stamped", 1)).send().expect(200);
    let refusing = Remote::refusing();
    let evil = Remote::start(|exchange| {
        let headers = [("content-type", "application/problem+json"), ("x-served-by", "<script>pwned()</script>")];
        let document = json!({"code": "<img src=x onerror=pwned()>", "status": 500});
        exchange.answer(500, &headers, document.to_string().as_bytes());
    });
    let run = browser.run("dashboard.mjs", &host, &[("REMOTE", &refusing.url()), ("EVIL", &evil.url())]);
    assert!(run.code == Some(0) && run.stdout.ends_with("done\n"), "{}\n{}", run.stdout, run.stderr);
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000000", "it was rolled back");
}

/// Makes the pictures of the README anew. `just screenshots` runs it.
#[test]
#[ignore = "writes into docs"]
fn screenshots() {
    let browser = Browser::find().expect("there is a browser");
    let host = Host::start();
    host.post("/api/set", &json!({"key": "greeting", "value": "hello"})).expect(200);
    host.swap("storage", stamped("stamped-storage", 1)).expect(200);
    host.swap("echo", "no component").expect(422);
    let storage = Remote::refusing();
    host.register("storage-4", &storage.url()).expect(201);
    let rotate = host.internal().request("PUT", "/instances/echo/echo-3");
    rotate.json(&json!({"rotation": "out"})).send().expect(200);
    let pictures = artifact::root().join("docs");
    std::fs::create_dir_all(&pictures).expect("the folder can be written");
    let run = browser.run("screenshots.mjs", &host, &[("PICTURES", pictures.to_str().expect("UTF-8"))]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
}

fn status(host: &Host) -> Value {
    host.internal().get("/status").expect(200).json()
}

fn rotate(host: &Host, namespace: &str, name: &str, rotation: &str) -> Value {
    let request = host.internal().request("PUT", &format!("/instances/{namespace}/{name}"));
    request.json(&json!({ "rotation": rotation })).send().expect(200).json()
}

fn served_by(host: &Host, count: usize) -> Vec<String> {
    (0..count).map(|_| host.get("/data").expect(200).header("x-served-by").to_owned()).collect()
}

#[test]
fn who_is_out_of_rotation_is_not_picked_and_comes_back() {
    let host = Host::start();
    let remote = Remote::storage("storage-4");
    host.register("storage-4", &remote.url()).expect(201);
    for name in ["storage-2", "storage-4"] {
        let instance = rotate(&host, "storage", name, "out");
        assert_eq!((&instance["rotation"], &instance["state"]), (&"out".into(), &"unavailable".into()), "{instance}");
    }
    let (first, second) = ("storage-1".to_owned(), "storage-3".to_owned());
    let turns = served_by(&host, 20);
    assert_eq!(turns.iter().filter(|name| **name == first).count(), 10, "{turns:?}");
    assert_eq!(turns.iter().filter(|name| **name == second).count(), 10, "{turns:?}");
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "in turn: {turns:?}");
    assert_eq!(remote.requests(), 0);

    // Neither a swap nor a heartbeat, nor checks that pass, bring them back.
    host.swap("storage", stamped("stamped-storage", 1)).expect(200);
    host.internal().post("/heartbeat", &json!({"name": "storage-4"})).expect(200);
    let turns = served_by(&host, 20);
    assert!(turns.iter().all(|name| name.starts_with("storage-1") || name.starts_with("storage-3")), "{turns:?}");
    assert!(status(&host)["failures"].as_array().is_some_and(Vec::is_empty), "what is done on purpose is no failure");

    for name in ["storage-2", "storage-4"] {
        assert_eq!(rotate(&host, "storage", name, "in")["state"], "available");
    }
    let turns = served_by(&host, 20);
    for name in ["storage-1", "storage-2", "storage-3", "storage-4"] {
        assert_eq!(turns.iter().filter(|turn| turn.starts_with(name)).count(), 5, "{turns:?}");
    }

    for name in ["storage-1", "storage-2", "storage-3", "storage-4"] {
        rotate(&host, "storage", name, "out");
    }
    host.get("/data").problem(503, "no_instance_available");
}

#[test]
fn a_request_of_an_instance_that_is_taken_out_is_finished() {
    let host = Host::with_only("misbehaving-p3", "").start();
    let mut reading = host.wire();
    reading.send("GET /stream?chunks=2&delay_ms=500 HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = reading.head().expect("the answer begins");
    rotate(&host, "guest", "guest", "out");
    assert!(reading.body(&head).is_ok(), "it has its end");
    host.get("/ok").problem(503, "no_instance_available");
}

/// How many failures of this kind, status and reason are listed.
fn failures(document: &Value, kind: &str, status: Option<u16>, reason: &str) -> u64 {
    let listed = document["failures"].as_array().expect("a list").iter();
    let same = |failure: &&Value| {
        failure["kind"] == kind
            && failure["status"].as_u64() == status.map(u64::from)
            && failure["reason"].as_str().is_some_and(|told| told.starts_with(reason))
    };
    listed.filter(same).map(times).sum()
}

/// How often this one was seen.
fn times(failure: &Value) -> u64 {
    failure.get("times").map_or(1, |times| times.as_u64().expect("a number"))
}

#[test]
fn failures_are_counted_with_their_reasons() {
    let lines = "request-timeout = \"5s\"\nhandlers = { bad = \"/trap\" }\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    for (method, path, count, status) in
        [("GET", "/exit", 2, 502), ("HEAD", "/exit", 1, 502), ("GET", "/loop", 1, 504), ("GET", "/ok", 3, 200)]
    {
        for _ in 0..count {
            host.request(method, path).send().expect(status);
        }
    }
    host.get("/nothing").expect(404);
    let traps: Vec<Reply> = (0..3).map(|_| host.get("/trap").expect(502)).collect();
    host.swap("guest", "no component").expect(422);
    let gone = Remote::storage("gone");
    host.register("gone", &gone.url()).expect(201);
    host.wait_for_state("storage", "gone", "unavailable");
    let document = eventually("the instance's failure", || {
        let document = status(&host);
        (failures(&document, "instance", None, "unavailable") == 1).then_some(document)
    });
    assert_eq!(failures(&document, "request", Some(502), "component_failed"), 6, "{document}");
    assert_eq!(failures(&document, "request", Some(504), "deadline_exceeded"), 1, "{document}");
    assert_eq!(failures(&document, "swap", None, "refused: "), 1, "{document}");
    let listed = document["failures"].as_array().expect("a list");
    assert_eq!(listed.iter().map(times).sum::<u64>(), 9, "{document}");
    // Those in a row that are alike are one entry, which names the last of them.
    let trapped = listed.iter().find(|failure| failure["handler"] == "bad").expect("an entry");
    assert_eq!((&trapped["component"], &trapped["instance"]), (&"guest".into(), &"guest".into()), "{trapped}");
    assert_eq!(times(trapped), 3, "{trapped}");
    assert_eq!(trapped["request_id"], traps[2].header("x-request-id"), "{trapped}");
    assert_eq!(listed.len(), 5, "{document}");
    let guests = &document["components"][0]["guests"];
    assert_eq!(guests["failures"], json!({"trap": 3, "exit": 3, "deadline": 1}), "{guests}");
    // More of the same push nothing out; others do.
    for _ in 0..60 {
        host.get("/trap").expect(502);
    }
    assert_eq!(failures(&status(&host), "swap", None, "refused: "), 1);
    for _ in 0..30 {
        host.get("/trap").expect(502);
        host.get("/exit").expect(502);
    }
    let document = status(&host);
    assert_eq!(document["failures"].as_array().map(Vec::len), Some(50), "{document}");
    assert_eq!(failures(&document, "swap", None, "refused: "), 0, "{document}");
}

#[test]
fn a_client_that_leaves_is_no_failure() {
    let host = Host::with_only("misbehaving-p3", "").start();
    let mut reading = host.wire();
    reading.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    reading.head().expect("the answer begins");
    reading.reset();
    eventually_true("it is noticed", || host.metrics().sum("http_requests_in_flight", &[]) == 0.0);
    assert_eq!(status(&host)["failures"], json!([]));
}

#[test]
fn an_answer_that_stands_still_is_a_failure() {
    let host = Host::with_only("misbehaving-p3", "[public]\nbody-idle-timeout = \"500ms\"\n").start();
    let mut waiting = host.wire();
    waiting.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = waiting.head().expect("the answer begins");
    assert!(waiting.body(&head).is_err(), "it was cut off while the client waited");
    let document = eventually("the failure", || {
        let document = status(&host);
        (document["failures"] != json!([])).then_some(document)
    });
    assert_eq!(failures(&document, "request", Some(200), "the answer broke off"), 1, "{document}");
    assert_eq!(document["failures"].as_array().map(Vec::len), Some(1), "{document}");
}

#[test]
fn requests_show_in_the_history() {
    let host = Host::start();
    for _ in 0..20 {
        host.get("/data").expect(200);
    }
    host.post("/api/set", &json!({"key": "a", "value": "b"})).expect(200);
    let history = eventually("a sample with some of them", || {
        let history = status(&host)["history"].take();
        let numbers = |column: &str| -> Vec<f64> {
            history[column].as_array().expect("a column").iter().filter_map(Value::as_f64).collect()
        };
        let all = numbers("per_second").iter().sum::<f64>();
        (all > 0.0 && !numbers("p99_ms").is_empty() && !numbers("sync_p99_ms").is_empty()).then(|| history.clone())
    });
    let length = |column: &str| history[column].as_array().map(Vec::len);
    for column in ["errors_per_second", "p50_ms", "p99_ms", "sync_p99_ms"] {
        assert_eq!(length(column), length("per_second"), "{history}");
    }
}

#[test]
fn requests_that_are_shed_are_failures() {
    let lines = "max-guests = 1\nqueue = 1\nqueue-timeout = \"100ms\"\nmax-instance-concurrent-reuse-count = 1\n";
    let host = Host::with_only("misbehaving-p3", lines).start();
    // Its only health check is over, so that the guest is free.
    eventually_true("an idle guest", || status(&host)["components"][0]["guests"]["idle"] == 1);
    let mut busy = host.wire();
    busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    busy.head().expect("its answer begins");
    for _ in 0..3 {
        host.get("/ok").problem(503, "overloaded");
    }
    let document = status(&host);
    assert_eq!(failures(&document, "request", Some(503), "overloaded"), 3, "{document}");
}

#[test]
fn retries_are_counted() {
    let host = Host::start();
    assert_eq!(status(&host)["retries"], 0);
    let bad = Remote::refusing();
    host.register("bad", &bad.url()).expect(201);
    // In turn with the three others, one of which answers instead.
    for _ in 0..4 {
        host.get("/data").expect(200);
    }
    assert_eq!(status(&host)["retries"], 1);
    let text = host.ask(&["status"]).expect(0, &[]).stdout;
    assert!(text.contains("; 1 retried since the start\n"), "{text}");
}

#[test]
fn status_prints_what_the_page_shows() {
    let host = Host::start();
    rotate(&host, "storage", "storage-2", "out");
    let json = host.ask(&["status", "-o", "json"]).expect(0, &[]);
    let document: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let keys = |document: &Value| document.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), keys(&status(&host)));
    assert_eq!((&document["available"], &document["total"]), (&6.into(), &7.into()), "{document}");
    let text = host.ask(&["status"]).expect(0, &[]).stdout;
    assert!(text.starts_with("6 of 7 instances are available\nrequests: "), "{text}");
    let line = text.lines().find(|line| line.contains("storage-2")).expect("a line");
    assert!(line.contains("unavailable (out)"), "{line}");
    assert!(text.contains("\nCOMPONENT"), "{text}");
}

/// `host status --watch`. Killed when it is dropped.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(internal: &str) -> Self {
        let mut child = Host::command()
            .args(["status", "--watch", "-o", "json", "--internal", internal])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("there is more").expect("it can be read");
        serde_json::from_str(&line).expect("each line is a document")
    }

    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Nothing to do if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_status_goes_on_until_it_is_interrupted_also_when_the_host_restarts() {
    let data = tempfile::tempdir().expect("a temporary directory");
    // A loopback address of this process alone, whose port nobody takes while no host listens.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = format!("127.{}.{middle}.{low}", 64 | high);
    let start = |port: &str| {
        let builder = Host::builder().data(data.path()).own_addresses().flag("--listen").flag("127.0.0.1:0");
        builder.flag("--internal-listen").flag(format!("{own}:{port}")).start()
    };
    let host = start("0");
    let internal = host.internal().url().to_owned();
    let (_, port) = internal.rsplit_once(':').expect("it has a port");
    let mut watching = Watching::start(&internal);
    assert_eq!(watching.next()["total"], 7);
    let again = watching.next();
    assert_eq!(again["available"], 7, "{again}");
    assert_eq!(host.stop().code, Some(0), "a stream doesn't hold up the end");
    let restarted = start(port);
    rotate(&restarted, "echo", "echo-1", "out");
    while watching.next()["available"] != 6 {}
    assert_eq!(watching.interrupt(), Some(0));

    let nobody = Remote::refusing();
    let away = Host::cli(["status", "--watch", "--internal", &nobody.url()]);
    away.expect(1, &["asking the host at"]);
}
