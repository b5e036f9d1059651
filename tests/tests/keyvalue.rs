//! `wasi:keyvalue` in both drafts and `wasi:config`, as guests of other authors use them.

use e2e::{Host, artifact};
use serde_json::json;

fn start() -> Host {
    // The guests do what they do whatever the path; their health checks do it to a bucket of their own.
    let check = "health-check = { path = \"/?bucket=checks\" }";
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
    let report = host.get("/one?bucket=not/a/bucket").expect(200).json();
    assert!(report["error"].is_string(), "{report}");
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
