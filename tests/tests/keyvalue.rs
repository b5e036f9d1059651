//! `wasi:keyvalue` in both drafts and `wasi:config`, as guests of other authors use them.

use e2e::{Host, artifact, eventually_true};
use serde_json::json;

fn start() -> Host {
    // The guests do what they do whatever the path; their health checks do it to a bucket of their own.
    let check =
        "health-check = { path = \"/?bucket=checks\" }\nkey-value-buckets = [\"default\", \"checks\", \"other\"]";
    let manifest = format!(
        "[components.one]\nsource = \"{}\"\nroute = \"/one\"\n{check}\n\
         [components.two]\nsource = \"{}\"\nroute = \"/two\"\nconfig = {{ colour = \"red\", \"a.b\" = \"c d\" }}\n{check}\n\
         [components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n\
         [components.storage]\nsource = \"builtin:storage\"\ninstances = [\"s-1\", \"s-2\"]\n\
         environment = {{ STORAGE_NAME = \"{{instance}}\" }}\n",
        artifact::guest("kv-draft").display(),
        artifact::guest("kv-draft2").display()
    );
    Host::builder().manifest(&manifest).start()
}

fn bytes(text: &str) -> serde_json::Value {
    json!(text.as_bytes())
}

#[test]
fn the_first_draft() {
    let host = start();
    let report = host.get("/one").expect(200).json();
    assert_eq!(report["absent"], json!(null), "{report}");
    assert_eq!(report["get"], bytes("one"), "{report}");
    assert_eq!(report["bytes"], json!([255, 0]), "{report}");
    assert_eq!(report["exists"], json!([true, false]), "{report}");
    assert_eq!(report["increment"], json!([5, 7]), "{report}");
    assert!(report["not-a-number"]["error"].is_string(), "{report}");
    assert!(report["empty-key"]["error"].is_string(), "{report}");
    assert_eq!(report["keys"], json!(["d1", "d2", "d3"]), "{report}");
    let many = report["get-many"].as_array().expect("a list");
    assert_eq!(many.len(), 3, "{report}");
    assert!(many[1].is_null(), "{report}");
}

#[test]
fn the_second_draft() {
    let host = start();
    let report = host.get("/two").expect(200).json();
    assert_eq!(report["absent"], json!(null), "{report}");
    assert_eq!(report["get"], bytes("one"), "{report}");
    assert_eq!(report["exists"], json!([true, false]), "{report}");
    assert_eq!(report["increment"], json!([5, -2]), "{report}");
    assert!(report["not-a-number"]["error"].is_string(), "{report}");
    assert!(report["empty-key"]["error"].is_string(), "{report}");
    assert_eq!(report["keys"], json!(["e1", "e2", "e3"]), "{report}");
    let cas = &report["cas"];
    let expected = json!({
        "before": null, "swapped": true, "conflicted": bytes("first"), "retried": true, "after": bytes("second")
    });
    assert_eq!(*cas, expected, "{report}");
}

#[test]
fn a_component_finds_what_it_has_just_written() {
    let host = start();
    for round in 0..20 {
        host.delete("/api/delete?key=mine");
        assert_eq!(host.get("/two?store=mine&then=read").expect(200).json(), json!(4096), "{round}");
    }
}

#[test]
fn a_write_stands_whatever_becomes_of_the_component() {
    let host = start();
    host.get("/two?store=mine&then=trap").problem(502, "component_failed");
    eventually_true("it is stored", || host.get("/api/get?key=mine").status == 200);
}

#[test]
fn the_configuration() {
    let config = start().get("/two").expect(200).json()["config"].clone();
    assert_eq!(config["all"], json!({ "colour": "red", "a.b": "c d" }));
    assert_eq!(config["absent"], json!(null));
}

#[test]
fn the_drafts_and_the_storage_share_the_default_bucket() {
    let host = start();
    host.get("/one").expect(200);
    assert_eq!(host.get("/api/get?key=d2").expect(200).json()["value"], "two");
    let keys = host.get("/two").expect(200).json()["keys"].clone();
    assert_eq!(keys, json!(["d1", "d2", "d3", "e1", "e2", "e3"]));
    // Bytes that are no text can't be a JSON string.
    host.get("/api/get?key=d3").problem(409, "value_not_text");
}

#[test]
fn buckets_are_apart() {
    let host = start();
    host.get("/one?bucket=other").expect(200);
    host.get("/api/get?key=d2").problem(404, "key_not_found");
    assert_eq!(host.get("/two?bucket=other").expect(200).json()["keys"], json!(["d1", "d2", "d3", "e1", "e2", "e3"]));
    assert_eq!(host.get("/two").expect(200).json()["keys"], json!(["e1", "e2", "e3"]));
    assert_eq!(host.get("/one?bucket=default").expect(200).json()["keys"], json!(["d1", "d2", "d3", "e1", "e2", "e3"]));
    for path in ["/one", "/two"] {
        let report = host.get(&format!("{path}?bucket=not/a/bucket")).expect(200).json();
        assert_eq!(report["error"], "no-such-store", "{report}");
    }
}

#[test]
fn only_the_buckets_of_the_manifest_can_be_opened() {
    let host = start();
    let line = "key-value-buckets = [\\\"default\\\", \\\"checks\\\", \\\"other\\\", \\\"sessions\\\"]";
    for (path, name) in [("/one", "one"), ("/two", "two")] {
        let report = host.get(&format!("{path}?bucket=sessions")).expect(200).json();
        assert_eq!(report["error"], "access-denied", "{report}");
        let said = format!("write under [components.{name}] in the manifest: {line}");
        eventually_true("the log says what would allow it", || host.log().text().contains(&said));
    }
    assert_eq!(host.internal().get("/kv/sessions").expect(200).json(), json!({ "keys": [] }));

    // Without a line, it is the default one only; with "*", all.
    let default = Host::with_only("kv-draft2", "").start();
    assert_eq!(default.get("/?bucket=other").expect(200).json()["error"], "access-denied");
    assert_eq!(default.get("/").expect(200).json()["get"], bytes("one"));
    let any = Host::with_only("kv-draft2", "key-value-buckets = [\"*\"]").start();
    assert_eq!(any.get("/?bucket=other").expect(200).json()["get"], bytes("one"));
}

#[test]
fn keys_are_listed_in_order_while_they_change() {
    let host = start();
    for path in ["/one", "/two"] {
        let report = host.get(&format!("{path}?pages=other")).expect(200).json();
        assert_eq!(report["in-order"], true, "{report}");
        assert_eq!(report["old"], 2500, "{report}");
        assert_eq!(report["pages"], 3, "{report}");
    }
}

#[test]
fn both_instances_see_each_others_writes_at_once() {
    let host = start();
    for round in 0..50 {
        let value = round.to_string();
        host.post("/api/set", &json!({ "key": "shared", "value": value })).expect(200);
        let (first, second) =
            (host.get("/api/get?key=shared").expect(200), host.get("/api/get?key=shared").expect(200));
        assert_ne!(first.header("x-served-by"), second.header("x-served-by"));
        assert_eq!((first.json()["value"].as_str(), second.json()["value"].as_str()), (Some(&*value), Some(&*value)));
    }
}
