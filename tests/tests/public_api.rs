//! The public address: every row of the contract's table, and of its "Bad input".

use e2e::{Client, Host, Reply};
use serde_json::{Value, json};

const KEYS: &str = "first-key, 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// The built-in assembly with two API keys: one plain, one (`secret`) by its digest.
fn start() -> Host {
    Host::builder().env("HOSTLER_API_KEYS", KEYS).start()
}

fn encoded(key: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    key.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn set(client: &Client, key: &str, value: &str) -> Reply {
    client.post("/api/set", &json!({ "key": key, "value": value }))
}

fn get(client: &Client, key: &str) -> Reply {
    client.get(&format!("/api/get?key={}", encoded(key)))
}

#[test]
fn health() {
    let host = Host::start();
    let reply = host.get("/health").expect(200);
    assert_eq!(reply.json(), json!({ "status": "ok" }));
    assert_eq!(reply.header("content-type"), "application/json");
}

#[test]
fn data() {
    let host = Host::start();
    let reply = host.get("/data").expect(200);
    assert_eq!(reply.header("content-type"), "application/json");
    let document = reply.json();
    assert_eq!(document["storage"], reply.header("x-served-by"), "{document}");
    assert!(document["data"].is_array(), "{document}");
    assert_eq!(document.as_object().map(|object| object.len()), Some(2), "{document}");
    let mut names: Vec<String> = (0..3).map(|_| host.get("/data").header("x-served-by").to_owned()).collect();
    names.sort();
    assert_eq!(names, ["storage-1", "storage-2", "storage-3"]);
}

#[test]
fn status() {
    let host = Host::start();
    let names = |path: &str| {
        let reply = host.get(path).expect(200);
        assert_eq!(reply.header("content-type"), "application/json");
        let document = reply.json();
        let instances = document["instances"].as_array().expect("a list").clone();
        assert_eq!(document["total"], instances.len(), "{document}");
        assert_eq!(document["available"], instances.len(), "{document}");
        for instance in &instances {
            assert_eq!(instance["state"], "available", "{document}");
            assert_eq!(instance["address"], "in-process", "{document}");
            assert!(instance["last_seen_ms"].is_u64(), "{document}");
            assert_eq!(instance.as_object().map(|object| object.len()), Some(5), "{document}");
        }
        let name = |instance: &Value| format!("{}/{}", instance["namespace"], instance["name"]).replace('"', "");
        instances.iter().map(name).collect::<Vec<_>>()
    };
    let storages = ["storage/storage-1", "storage/storage-2", "storage/storage-3"];
    let echoes = ["echo/echo-1", "echo/echo-2", "echo/echo-3"];
    assert_eq!(names("/status"), storages);
    assert_eq!(names("/status?namespace=storage"), storages);
    assert_eq!(names("/status?namespace=echo"), echoes);
    assert_eq!(names("/status?namespace=nobody"), [""; 0]);
    let all = names("/status?namespace=*");
    assert!(storages.iter().chain(&echoes).all(|name| all.contains(&(*name).to_owned())), "{all:?}");
    assert_eq!(host.get("/status?namespace=nobody").json(), json!({ "available": 0, "total": 0, "instances": [] }));
}

#[test]
fn values_are_stored_read_and_deleted() {
    let host = start();
    assert_eq!(set(&host, "a", "1").expect(200).json(), json!({ "key": "a", "status": "stored" }));
    assert_eq!(get(&host, "a").expect(200).json(), json!({ "key": "a", "value": "1" }));
    // The other instances see it at once.
    for _ in 0..6 {
        assert_eq!(get(&host, "a").expect(200).json()["value"], "1");
        set(&host, "a", "2").expect(200);
        assert_eq!(get(&host, "a").expect(200).json()["value"], "2");
        set(&host, "a", "1").expect(200);
    }
    let deleted = host.delete("/api/delete?key=a").expect(200).json();
    assert_eq!(deleted, json!({ "key": "a", "status": "deleted" }));
    get(&host, "a").problem(404, "key_not_found");
    host.delete("/api/delete?key=a").problem(404, "key_not_found");
}

#[test]
fn keys_and_values_are_any_text() {
    let host = start();
    let longest = "k".repeat(1024);
    let keys = ["a/b", "a b", " ", "a+b", "a%20b", "☕️ 🦀", "../x", "a?b&c=d#e", "\"", "\\", "\n", "\0", &longest];
    let values = ["", "two\nlines\r\n", "nul\0nul", "🦀", "{\"json\":[1]}", "</script>", "\u{7f}\u{80}\u{10ffff}"];
    for key in keys {
        for value in values {
            set(&host, key, value).expect(200);
            assert_eq!(get(&host, key).expect(200).json(), json!({ "key": key, "value": value }));
        }
        let path = format!("/v1/values/{}", encoded(key));
        let read = host.request("GET", &path).header("x-api-key", "first-key").send().expect(200);
        assert_eq!(read.json(), json!({ "key": key, "value": values[values.len() - 1] }));
        host.delete(&format!("/api/delete?key={}", encoded(key))).expect(200);
        get(&host, key).problem(404, "key_not_found");
    }
}

#[test]
fn a_value_of_a_mebibyte_is_the_largest() {
    let host = start();
    let largest = "v".repeat(1 << 20);
    set(&host, "large", &largest).expect(200);
    assert_eq!(get(&host, "large").expect(200).json()["value"], largest);
    // Written as \u0000, it takes six times its size.
    let zeros = "\0".repeat(1 << 20);
    set(&host, "zeros", &zeros).expect(200);
    assert_eq!(get(&host, "zeros").expect(200).json()["value"], zeros);
    set(&host, "large", &format!("{largest}v")).problem(413, "value_too_large");
    assert_eq!(get(&host, "large").expect(200).json()["value"], largest, "what was refused changed nothing");
}

#[test]
fn v1_with_a_key() {
    let host = start();
    for key in ["first-key", "secret"] {
        let request = |method: &str, path: &str| host.request(method, path).header("x-api-key", key);
        let stored = request("PUT", "/v1/values").json(&json!({ "key": "x/y", "value": "z" })).send().expect(200);
        assert_eq!(stored.json(), json!({ "key": "x/y", "status": "stored" }));
        for path in ["/v1/values/x%2Fy", "/v1/values/x/y"] {
            let read = request("GET", path).send().expect(200);
            assert_eq!(read.json(), json!({ "key": "x/y", "value": "z" }), "{path}");
        }
        assert_eq!(get(&host, "x/y").json()["value"], "z", "there is one store");
        let deleted = request("DELETE", "/v1/values/x%2Fy").send().expect(200);
        assert_eq!(deleted.json(), json!({ "key": "x/y", "status": "deleted" }));
        request("GET", "/v1/values/x%2Fy").send().problem(404, "key_not_found");
        request("DELETE", "/v1/values/x%2Fy").send().problem(404, "key_not_found");
        request("POST", "/v1/values").json(&json!({})).send().problem(405, "method_not_allowed");
    }
}

#[test]
fn v1_without_a_key_reveals_nothing() {
    let host = start();
    set(&host, "there", "1").expect(200);
    let body = |reply: &Reply| reply.text();
    let expected = host.get("/v1/values/there");
    expected.problem(401, "invalid_api_key");
    let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    for key in [None, Some(""), Some("wrong"), Some("first-ke"), Some("first-key,secret"), Some(digest)] {
        for (method, path) in [
            ("GET", "/v1/values/there"),
            ("GET", "/v1/values/not-there"),
            ("GET", "/v1/values/%FF"),
            ("DELETE", "/v1/values/there"),
            ("PUT", "/v1/values"),
            ("POST", "/v1/values"),
            ("GET", "/v1"),
            ("GET", "/v1/nothing"),
        ] {
            let mut request = host.request(method, path);
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            if method == "PUT" {
                request = request.json(&json!({ "key": "there", "value": "changed" }));
            }
            let reply = request.send();
            reply.problem(401, "invalid_api_key");
            assert_eq!(body(&reply), body(&expected), "{key:?} {method} {path}");
        }
    }
    assert_eq!(get(&host, "there").json()["value"], "1");
}

#[test]
fn v1_without_configured_keys_lets_nobody_in() {
    let host = Host::start();
    for key in ["", "anything"] {
        host.request("GET", "/v1/values/a").header("x-api-key", key).send().problem(401, "invalid_api_key");
    }
}

#[test]
fn api_keys_from_a_file() {
    let manifest = "[public]\napi-keys-file = \"keys\"\n";
    let host = Host::builder().manifest(manifest).file("keys", "# ours\nfrom-file\n\nanother\n").start();
    for key in ["from-file", "another"] {
        host.request("GET", "/v1/values/a").header("x-api-key", key).send().problem(404, "key_not_found");
    }
    host.request("GET", "/v1/values/a").header("x-api-key", "# ours").send().problem(401, "invalid_api_key");
}

#[test]
fn services_get_the_request_and_give_the_answer() {
    let host = Host::start();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let request = host.request(method, "/services/echo/any/path?query=1").header("content-type", "text/x-mine");
        let reply = request.body("the body").send().expect(200);
        assert_eq!(reply.text(), "the body", "{method}");
        assert_eq!(reply.header("content-type"), "text/x-mine", "{method}");
        assert!(reply.header("x-served-by").starts_with("echo-"), "{method}: {:?}", reply.headers);
    }
    let health = host.get("/services/storage/healthz").expect(200);
    assert_eq!(health.json(), json!({ "status": "available", "name": health.header("x-served-by") }));
    for path in ["/services/nobody/x", "/services/nobody", "/services/nobody/x?y"] {
        host.get(path).problem(404, "unknown_namespace");
    }
    host.get("/services/storage/nothing").problem(404, "not_found");
}

#[test]
fn every_response_has_a_request_id() {
    let host = Host::start();
    for path in ["/health", "/data", "/nothing", "/v1/values/x", "/services/nobody/"] {
        let first = host.get(path).header("x-request-id").to_owned();
        let second = host.get(path).header("x-request-id").to_owned();
        assert!(!first.is_empty() && first != second, "{path}: {first:?} {second:?}");
        let kept = host.request("GET", path).header("x-request-id", "Mine_1.2-3").send();
        assert_eq!(kept.header("x-request-id"), "Mine_1.2-3", "{path}");
    }
    for insane in ["two words", "a\"b", "{}", &"x".repeat(129), "\u{fc}"] {
        let reply = host.request("GET", "/health").header("x-request-id", insane).send().expect(200);
        assert_ne!(reply.header("x-request-id"), insane);
        assert!(!reply.header("x-request-id").is_empty());
    }
}

#[test]
fn head_is_get_without_a_body() {
    let host = start();
    set(&host, "a", "1").expect(200);
    for path in ["/health", "/data", "/status", "/api/get?key=a", "/services/storage/data"] {
        let get = host.get(path).expect(200);
        let head = host.request("HEAD", path).send().expect(200);
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    let head = host.request("HEAD", "/api/get?key=none").send();
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn bodies_that_are_not_what_is_meant() {
    let host = start();
    let post =
        |body: &str| host.request("POST", "/api/set").header("content-type", "application/json").body(body).send();
    for body in
        ["", "{", "not json", "{\"key\":\"a\",\"value\":\"b\"", "{\"key\":\"a\",\"value\":\"b\"} x", "\u{feff}{}"]
    {
        post(body).problem(400, "invalid_json");
    }
    for (body, field) in [
        ("{}", "key"),
        ("{\"value\":\"b\"}", "key"),
        ("{\"key\":\"a\"}", "value"),
        ("{\"key\":1,\"value\":\"b\"}", "key"),
        ("{\"key\":null,\"value\":\"b\"}", "key"),
        ("{\"key\":\"a\",\"value\":1}", "value"),
        ("{\"key\":\"a\",\"value\":null}", "value"),
        ("{\"key\":\"a\",\"value\":{}}", "value"),
    ] {
        let problem = post(body).problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{body}: {problem}");
    }
    for body in ["[]", "null", "\"text\"", "1", "[\"a\",\"b\"]"] {
        post(body).problem(400, "invalid_request");
    }
    let bytes = b"{\"key\":\"\xff\",\"value\":\"b\"}".to_vec();
    let reply = host.request("POST", "/api/set").header("content-type", "application/json").body(bytes).send();
    reply.problem(400, "invalid_json");
}

#[test]
fn keys_that_are_none() {
    let host = start();
    set(&host, "", "v").problem(400, "invalid_key");
    set(&host, &"k".repeat(1025), "v").problem(400, "key_too_large");
    // Bytes count, not characters.
    set(&host, &"é".repeat(513), "v").problem(400, "key_too_large");
    set(&host, &"é".repeat(512), "v").expect(200);
    let long = "k".repeat(1025);
    for (method, path) in [("GET", "/api/get"), ("DELETE", "/api/delete")] {
        let request = |query: &str| host.request(method, &format!("{path}{query}")).send();
        let problem = request("").problem(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("key")), "{problem}");
        request("?other=1").problem(400, "invalid_request");
        request("?key=").problem(400, "invalid_key");
        request("?key").problem(400, "invalid_key");
        request("?key=%FF").problem(400, "invalid_key");
        request("?key=%zz").problem(400, "invalid_key");
        request(&format!("?key={long}")).problem(400, "key_too_large");
    }
    let v1 = |path: &str| host.request("GET", path).header("x-api-key", "secret").send();
    v1("/v1/values/").problem(400, "invalid_key");
    v1("/v1/values/%FF").problem(400, "invalid_key");
    v1(&format!("/v1/values/{long}")).problem(400, "key_too_large");
}

#[test]
fn wrong_methods_hear_the_right_ones() {
    let host = start();
    for (method, path, allow) in [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/status", "GET, HEAD"),
        ("PUT", "/data", "GET, HEAD"),
        ("GET", "/api/set", "POST"),
        ("PUT", "/api/set", "POST"),
        ("POST", "/api/get?key=a", "GET, HEAD"),
        ("GET", "/api/delete?key=a", "DELETE"),
        ("GET", "/v1/values", "PUT"),
        ("PUT", "/v1/values/a", "GET, HEAD, DELETE"),
    ] {
        let request = host.request(method, path).header("x-api-key", "secret");
        let reply = request.json(&json!({ "key": "a", "value": "b" })).send();
        reply.problem(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
    }
}

#[test]
fn wrong_content_types() {
    let host = start();
    let body = r#"{"key":"a","value":"b"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "application/jsonx", "json"] {
        let reply = host.request("POST", "/api/set").header("content-type", kind).body(body).send();
        reply.problem(415, "unsupported_media_type");
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        host.request("POST", "/api/set").header("content-type", kind).body(body).send().expect(200);
    }
}

#[test]
fn paths_that_are_none() {
    let host = start();
    for path in ["/", "/nothing", "/Data", "/data/", "//data", "/api", "/api/", "/api/set/x", "/services", "/services/"]
    {
        host.get(path).problem(404, "not_found");
    }
}

#[test]
fn no_instance() {
    let manifest = "[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n";
    let host = Host::builder().manifest(manifest).start();
    for path in ["/data", "/api/get?key=a"] {
        let reply = host.get(path);
        reply.problem(503, "no_instance_available");
        assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", reply.headers);
    }
    assert_eq!(host.get("/status").expect(200).json(), json!({ "available": 0, "total": 0, "instances": [] }));
    host.get("/health").expect(200);
}

#[test]
fn the_public_address_has_nothing_of_the_internal_one() {
    let host = Host::start();
    for path in ["/components", "/instances", "/healthz", "/readyz", "/kv/default/a"] {
        host.get(path).problem(404, "not_found");
    }
    host.post("/register", &json!({ "name": "x", "address": "http://127.0.0.1:1" })).problem(404, "not_found");
}
