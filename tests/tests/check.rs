//! `host check`: what a component needs, and what to do if it isn't provided.

use e2e::{Host, Run, artifact};

/// Checks a file with these contents.
fn check(bytes: &[u8]) -> Run {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("component.wasm");
    std::fs::write(&file, bytes).expect("a file can be written");
    Host::cli(["check".as_ref(), file.as_os_str()])
}

fn check_text(text: &str) -> Run {
    check(&wat::parse_str(text).expect("a test's component"))
}

/// A component with these imports that exports a handler of WASI 0.2, without anything in it.
#[track_caller]
fn refused(import: &str, parts: &[&str]) {
    let run = check_text(&format!("(component {import})"));
    let name = import.split('"').nth(1).expect("a test's import has a name");
    assert!(run.stdout.lines().any(|line| line.contains("MISSING") && line.contains(name)), "{run:#?}");
    let line = run.stderr.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{run:#?}"));
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
    assert_eq!(run.code, Some(1), "{run:#?}");
}

#[test]
fn ours_are_fit() {
    for (name, world) in [
        ("storage", "wasi:http/"),
        ("echo", "wasi:http/handler@0.3"),
        ("gateway", "wasi:http/handler@0.3"),
        ("hello-p2", "wasi:http/incoming-handler@0.2"),
        ("hello-p3", "wasi:http/handler@0.3"),
        ("kv-draft", "wasi:http/incoming-handler@0.2"),
        ("kv-draft2", "wasi:http/incoming-handler@0.2"),
        ("misbehaving-p2", "wasi:http/incoming-handler@0.2"),
        ("misbehaving-p3", "wasi:http/handler@0.3"),
    ] {
        let run = Host::cli(["check".as_ref(), artifact::guest(name).as_os_str()]).expect(0, &[]);
        assert!(run.stdout.contains(world), "{name}: {}", run.stdout);
        assert!(!run.stdout.contains("MISSING"), "{name}: {}", run.stdout);
    }
}

#[test]
fn every_import_is_listed() {
    let run = Host::cli(["check".as_ref(), artifact::guest("storage").as_os_str()]).expect(0, &[]);
    assert!(run.stdout.contains("wasi:keyvalue/store@0.2.0-draft"), "{}", run.stdout);
    let run = Host::cli(["check".as_ref(), artifact::guest("gateway").as_os_str()]).expect(0, &[]);
    assert!(run.stdout.contains("hostler:assembly/registry@0.1.0"), "{}", run.stdout);
    let run = Host::cli(["check".as_ref(), artifact::guest("misbehaving-p2").as_os_str()]).expect(0, &[]);
    let line = run.stdout.lines().find(|line| line.contains("wasi:filesystem/preopens")).expect("it reads files");
    assert!(line.contains("directories = "), "what would grant it: {line}");
}

#[test]
fn a_newer_wasi() {
    refused(
        "(import \"wasi:http/types@0.4.0\" (instance (export \"fields\" (type (sub resource)))))",
        &["0.4.0", "0.3", "build"],
    );
    refused(
        "(import \"wasi:clocks/monotonic-clock@0.9.0\" (instance (export \"now\" (func (result u64)))))",
        &["0.9.0", "build"],
    );
    refused(
        "(import \"wasi:keyvalue/store@1.0.0\" (instance (export \"bucket\" (type (sub resource)))))",
        &["1.0.0", "0.2.0-draft"],
    );
}

#[test]
fn an_interface_of_spin() {
    refused(
        "(import \"fermyon:spin/key-value@2.0.0\" (instance (export \"store\" (type (sub resource)))))",
        &["wasi:keyvalue/store"],
    );
    refused(
        "(import \"fermyon:spin/variables@2.0.0\" (instance (export \"get\" (func (param \"name\" string) (result string)))))",
        &["wasi:config/store"],
    );
}

#[test]
fn an_interface_of_nobody() {
    refused("(import \"acme:rocket/launch@1.0.0\" (instance (export \"ignite\" (func))))", &["wac plug"]);
    refused("(import \"ignite\" (func))", &["wac plug"]);
}

#[test]
fn a_function_that_is_not_there() {
    let there = "(export \"get-random-u64\" (func (result u64)))";
    let absent = "(export \"get-lucky\" (func (result u64)))";
    refused(&format!("(import \"wasi:random/random@0.2.0\" (instance {there} {absent}))"), &["get-lucky", "older"]);
    refused(&format!("(import \"wasi:random/random@0.2.0\" (instance {absent}))"), &["get-lucky"]);
}

#[test]
fn a_function_of_another_type() {
    let text = "(component (import \"wasi:random/random@0.2.0\" (instance (export \"get-random-u64\" (func (result string))))))";
    check_text(text).expect(1, &["type"]);
}

#[test]
fn every_missing_import_is_named() {
    let import = |name: &str| format!("(import \"acme:{name}/x@1.0.0\" (instance (export \"f\" (func))))");
    let run = check_text(&format!("(component {}{}{})", import("a"), import("b"), import("c")));
    run.expect(1, &["acme:a/x@1.0.0", "acme:b/x@1.0.0", "acme:c/x@1.0.0"]);
}

#[test]
fn no_handler() {
    check_text("(component)").expect(1, &["wasi:http/handler@0.3", "wasi:http/incoming-handler@0.2"]);
}

#[test]
fn a_core_module() {
    check_text("(module)").expect(1, &["core module", "wasm32-wasip2"]);
}

#[test]
fn a_truncated_file() {
    let whole = std::fs::read(artifact::guest("hello-p2")).expect("it was built");
    for length in [0, 4, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let run = check(&whole[..length]);
        assert_eq!(run.code, Some(1), "{length} bytes: {run:#?}");
        assert!(run.stderr.contains("component.wasm"), "{length} bytes: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{length} bytes: {}", run.stderr);
    }
}

#[test]
fn a_text_file() {
    check(b"hello, world\n").expect(1, &["isn't WebAssembly", "hello, world"]);
    check("🦀".repeat(100).as_bytes()).expect(1, &["isn't WebAssembly"]);
    check(b"(component)").expect(1, &["isn't WebAssembly"]);
}

#[test]
fn no_file() {
    Host::cli(["check", "nowhere.wasm"]).expect(1, &["nowhere.wasm"]);
    Host::cli(["check", "/"]).expect(1, &["/"]);
    Host::cli(["check"]).expect(2, &["FILE.wasm"]);
}
