//! Starting and stopping: the two lines, exit codes, signals, the drain.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use e2e::{Host, Wire, eventually_true};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn says_where_it_listens_and_nothing_else() {
    let host = Host::start();
    for client in [host.public(), host.internal()] {
        assert!(client.url().starts_with("http://127.0.0.1:"), "{}", client.url());
        assert!(!client.url().ends_with(":0"));
    }
    host.get("/health").expect(200);
    host.internal().get("/healthz").expect(200);
    let run = host.stop().expect(0, &[]);
    assert_eq!(run.stdout, "", "nothing comes after the two lines");
}

#[test]
fn both_signals_stop_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let host = Host::start();
        host.signal(signal);
        host.wait().expect(0, &[]);
    }
}

/// Makes a file of a folder one that keeps the host waiting while it reads it, starts the host, and sends it a signal then.
fn signalled_while_reading(file: &str, folder: &Path, command: &mut Command, signal: Signal) -> Output {
    let file = folder.canonicalize().expect("it is there").join(file);
    std::fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a folder can be made");
    assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo runs").success());
    // As long as somebody could write, there is no end to be read.
    let _writer = OpenOptions::new().read(true).write(true).open(&file).expect("both ends are opened");
    let command = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the host can be started");
    let opened = || std::fs::read_dir(format!("/proc/{}/fd", child.id())).expect("the host runs").flatten();
    let is_it = |opened: std::fs::DirEntry| std::fs::read_link(opened.path()).is_ok_and(|opened| opened == file);
    eventually_true("the host reads it", || opened().any(is_it));
    kill_process(Pid::from_child(&child), signal).expect("it runs");
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_signal_during_the_start_gives_it_up() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut host = Host::command();
        host.args(["run", "-f", "hostler.toml"]);
        let output = signalled_while_reading("hostler.toml", folder.path(), &mut host, signal);
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b""[..]), "{output:?}");
    }
}

#[test]
fn a_signal_between_the_store_and_the_components_gives_up_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut host = Host::command();
    host.args(["run", "--data-dir", "."]);
    let output = signalled_while_reading("revisions/echo/state.json", folder.path(), &mut host, Signal::TERM);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b""[..]), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("recovered") && log.contains("given up"), "{log}");
    Host::cli(["log".as_ref(), "verify".as_ref(), folder.path().as_os_str()]).expect(0, &[]);
}

#[test]
fn a_port_in_use_is_3() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let host = || Host::builder().own_addresses();
    let public = host().flag("--listen").flag(&address).flag("--internal-listen").flag("127.0.0.1:0").run();
    let run = public.expect(3, &[&address, "public", "--listen"]);
    assert_eq!(run.stdout, "", "nothing is announced that isn't served");
    let internal = host().flag("--listen").flag("127.0.0.1:0").flag("--internal-listen").flag(&address).run();
    internal.expect(3, &[&address, "internal", "--internal-listen"]);
}

#[test]
fn a_data_directory_that_can_not_be_written_is_5() {
    // Even root can't make a directory below a file.
    let run = Host::builder().own_data().file("taken", "").flag("--data-dir").flag("taken/data").run();
    run.expect(5, &["taken/data", "--data-dir"]);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&["run", "--no-such-flag"][..], &["run", "--workers", "0"], &["no-such-command"], &[]] {
        let run = Host::cli(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(!run.stderr.is_empty());
    }
}

#[test]
fn help_is_complete_and_succeeds() {
    for command in ["run", "check", "status", "join", "log", "completions"] {
        let run = Host::cli([command, "--help"]).expect(0, &[]);
        assert!(run.stdout.contains("Usage: host"), "{run:?}");
    }
    for command in ["verify", "dump", "compact"] {
        assert!(Host::cli(["log", command, "--help"]).expect(0, &[]).stdout.contains("data directory"), "{command}");
    }
    let run = Host::cli(["run", "--help"]);
    for part in [
        "--listen",
        "HOSTLER_LISTEN",
        "127.0.0.1:8080",
        "--internal-listen",
        "127.0.0.1:9090",
        "--data-dir",
        "./.hostler",
    ] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
    for part in ["--workers", "--log-format", "--log-level", "--env", "--drain-timeout"] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
    assert!(Host::cli(["--version"]).expect(0, &[]).stdout.starts_with("host "));
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let run = Host::cli(["completions", shell]).expect(0, &[]);
        assert!(run.stdout.contains("internal-listen"), "{shell}");
    }
}

#[test]
fn a_closed_stdout_is_no_reason_to_panic() {
    let mut help = Host::command();
    let mut child =
        help.args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panic"), "{output:?}");
}

#[test]
fn a_request_in_flight_is_finished_and_new_connections_are_refused() {
    let host = Host::with_guest("misbehaving-p3", "").start();
    let mut wire = host.wire();
    wire.send("GET /stream?chunks=2&delay_ms=1500 HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = wire.head().expect("an answer begins");
    assert_eq!(head.status, 200);
    host.signal(Signal::TERM);
    host.log().wait_for("drain");
    assert_eq!(host.internal().get("/readyz").expect(503).json()["reason"], "draining");
    eventually_true("the listener is closed", || std::net::TcpStream::connect(&host.url()["http://".len()..]).is_err());
    assert_eq!(wire.body(&head).expect("the whole body"), b"chunk 0\nchunk 1\n");
    assert!(wire.is_closed(), "the connection is not kept alive");
    host.wait().expect(0, &[]);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_drain() {
    let host = Host::start();
    let mut used = host.wire();
    used.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(used.reply().expect("an answer").status, 200);
    let _unused = host.wire();
    host.stop().expect(0, &[]);
}

#[test]
fn the_drain_is_bounded() {
    let host = Host::with_guest("misbehaving-p3", "").flag("--drain-timeout").flag("100ms").start();
    let mut wire = host.wire();
    wire.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("an answer begins");
    let run = host.stop().expect(0, &[]);
    assert!(run.stderr.contains("cut off"), "{}", run.stderr);
}

#[test]
fn the_drain_is_bounded_on_the_internal_address_too() {
    let host = Host::builder().flag("--drain-timeout").flag("0s").start();
    let mut wire = Wire::connect(host.internal().url());
    wire.send("PUT /kv/default/a HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(wire.head().expect("it is waited for the body").status, 100);
    wire.send("half");
    let run = host.stop().expect(0, &[]);
    let told = "connections to the internal address were still open after 100ms and are cut off";
    assert!(run.stderr.contains(told), "{}", run.stderr);
}

#[test]
fn a_second_signal_stops_it_at_once_with_130() {
    let host = Host::with_guest("misbehaving-p3", "").start();
    let mut wire = host.wire();
    wire.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
    wire.head().expect("an answer begins");
    host.signal(Signal::TERM);
    host.log().wait_for("drain");
    host.signal(Signal::TERM);
    host.wait().expect(130, &[]);
}

#[test]
fn an_address_in_use_before_is_free_after() {
    let host = Host::start();
    let (public, internal) = (host.url().to_owned(), host.internal().url().to_owned());
    // A client that is still connected keeps the port in a waiting state.
    let mut client = host.wire();
    client.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    client.reply().expect("an answer");
    host.stop();
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let again = Host::builder().own_addresses();
    let again = again.flag("--listen").flag(address(&public)).flag("--internal-listen").flag(address(&internal));
    again.start().get("/health").expect(200);
}

#[test]
fn settings_come_from_flag_before_variable_before_manifest() {
    let manifest = "[public]\nlisten = \"127.0.0.1:1\"\n[internal]\nlisten = \"127.0.0.1:0\"\n";
    // Port 1 of the manifest and nonsense of the variable would both be errors.
    let host = Host::builder().manifest(manifest).own_addresses();
    let host = host.env("HOSTLER_LISTEN", "127.0.0.1:2").flag("--listen").flag("127.0.0.1:0").start();
    assert!(!host.url().ends_with(":1") && !host.url().ends_with(":2"), "{}", host.url());
    let host = Host::builder().manifest(manifest).own_addresses().env("HOSTLER_LISTEN", "127.0.0.1:0").start();
    assert!(!host.url().ends_with(":1"), "{}", host.url());
    host.get("/health").expect(200);
}

#[test]
fn the_log_is_text_or_json_as_asked() {
    let text = Host::builder().flag("--log-format").flag("text").start().stop();
    assert!(text.stderr.lines().all(|line| !line.starts_with('{')), "{}", text.stderr);
    let json = Host::builder().flag("--log-format").flag("json").start().stop();
    assert!(json.stderr.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{}", json.stderr);
}

#[test]
fn environment_flags_reach_every_component() {
    let host = Host::with_guest("misbehaving-p2", "environment = { WHO = \"{instance}\", B = \"manifest\" }\n");
    let host = host.flag("-e").flag("A=1=2").flag("--env").flag("B=flag").start();
    let environment = host.get("/env").expect(200).json();
    assert_eq!((&environment["A"], &environment["B"]), (&"1=2".into(), &"flag".into()), "{environment}");
    assert!(["one", "two"].contains(&environment["WHO"].as_str().unwrap_or_default()), "{environment}");
    assert!(environment["PATH"].is_null(), "the host's own environment is not passed on: {environment}");
}

#[test]
fn a_component_from_stdin_or_a_pipe_is_no_reason_to_hang() {
    let mut command = Host::command();
    command.args(["check", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    child.stdin.take().expect("it is piped").write_all(b"not a component").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
}
