//! What is going on: the document, the stream, the page, and whose pages may ask.

use super::*;

/// The stream of a host: reads one event after the other.
struct Watching {
    response: Response,
    read: String,
}

impl Watching {
    async fn start(host: &Running) -> Self {
        let response = host.request(Method::GET, "/status/events").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, read: String::new() }
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                return Some(event.strip_prefix("data: ").expect("an event is its data").to_owned());
            }
            let chunk = self.response.chunk().await.expect("the stream doesn't break off")?;
            self.read += std::str::from_utf8(&chunk).expect("an event is text");
        }
    }
}

#[tokio::test]
async fn the_stream_has_the_document_again_and_again() {
    let host = start(None, Config::default()).await;
    host.add_in_process("storage-1");
    let (status, document) = host.get("/status").await;
    assert_eq!((status, &document["available"], &document["total"]), (StatusCode::OK, &json!(1), &json!(1)));
    assert_eq!(document["not_ready"], "starting");

    let mut watching = Watching::start(&host).await;
    let keys = |text: &str| {
        let document: Value = serde_json::from_str(text).expect("JSON");
        document.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    let first = watching.next().await.expect("the first event comes at once");
    assert_eq!(keys(&first), keys(&document.to_string()));
    host.readiness.serving();
    host.registry.record_check(&namespace("storage"), &name("storage-1"), false, Instant::now());
    loop {
        let event: Value = serde_json::from_str(&watching.next().await.expect("there are more")).expect("JSON");
        if event["available"] == 0 {
            assert_eq!(event["instances"][0]["failures"], 1);
            break;
        }
    }
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_host() {
    let host = start(None, Config::default()).await;
    let mut watching = Vec::new();
    for _ in 0..super::super::status::STREAMS {
        watching.push(Watching::start(&host).await);
    }
    expect_problem(host.request(Method::GET, "/status/events").await, "overloaded", "16 streams").await;
    // A place that is left is free again.
    watching.pop();
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.request(Method::GET, "/status/events").await.status() != StatusCode::OK {
        assert!(Instant::now() < deadline, "the place is still taken");
    }
    host.stop.send(()).expect("it is running");
    for mut one in watching {
        while one.next().await.is_some() {}
    }
    host.served.await.expect("it ends");
}

#[tokio::test]
async fn an_event_with_a_thousand_instances_is_small() {
    let host = start(None, Config::default()).await;
    let register = |number: u32| {
        let address = format!("http://192.168.100.{}:{}", number % 250, 10_000 + number).parse().expect("an address");
        let named = name(&format!("storage-{number:05}"));
        host.registry.register(&namespace("storage"), &named, address, Instant::now()).expect("there is room");
    };
    (0..1000).for_each(register);
    let event = Watching::start(&host).await.next().await.expect("an event");
    let document: Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!(document["instances"].as_array().map(Vec::len), Some(1000));
    assert!(event.len() < 200_000, "{} bytes", event.len());
    // Of more there are as many as fit, and those that need to be seen first.
    (1000..9000).for_each(register);
    for _ in 0..3 {
        host.registry.record_check(&namespace("storage"), &name("storage-08999"), false, Instant::now());
    }
    let event = Watching::start(&host).await.next().await.expect("an event");
    assert!(event.len() < 200_000, "{} bytes", event.len());
    let document: Value = serde_json::from_str(&event).expect("JSON");
    let listed = document["instances"].as_array().expect("a list");
    assert!(listed.iter().any(|instance| instance["name"] == "storage-08999" && instance["state"] == "unavailable"));
    assert_eq!(document["unlisted"].as_u64(), Some(9000 - listed.len() as u64));
    assert_eq!(document["total"], 9000);
    assert_eq!(host.get("/status").await.1["instances"].as_array().map(Vec::len), Some(9000));
}

#[tokio::test]
async fn the_page_needs_no_token_and_what_it_shows_does() {
    let host = start(Some("s3cret"), Config::default()).await;
    let page = host.request(Method::GET, "/").await;
    assert_eq!(
        (page.status(), &page.headers()["content-type"]),
        (StatusCode::OK, &"text/html; charset=utf-8".parse().expect("a value"))
    );
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let etag = page.headers()["etag"].clone();
    let text = page.text().await.expect("text");
    for file in ["style.css", "script.js"] {
        let path = format!("/dashboard/{file}");
        assert!(text.contains(&path), "{text}");
        assert_eq!(host.request(Method::GET, &path).await.status(), StatusCode::OK, "{path}");
    }
    let again = host.client.get(&host.url).header("if-none-match", etag).send().await.expect("an answer");
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    for path in ["/status", "/status/events", "/dashboard/secret", "/instances/storage/a"] {
        expect_problem(host.request(Method::GET, path).await, "unauthorized", "Bearer").await;
    }
    let shown = host.client.get(format!("{}/status", host.url)).bearer_auth("s3cret").send().await.expect("an answer");
    assert_eq!(shown.status(), StatusCode::OK);
}

#[tokio::test]
async fn pages_of_others_can_do_nothing() {
    for token in [None, Some("s3cret")] {
        let host = start(token, Config::default()).await;
        host.add_in_process("storage-1");
        let put = |origin: &str| {
            let url = format!("{}/instances/storage/storage-1", host.url);
            let request = host.client.put(url).bearer_auth("s3cret").header("origin", origin);
            request.json(&json!({"rotation": "out"})).send()
        };
        for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
            expect_problem(put(origin).await.expect("an answer"), "foreign_origin", "another origin").await;
        }
        assert_eq!(host.registry.snapshot().namespace("storage").expect("known").available(), 1);
        assert_eq!(put(&host.url).await.expect("an answer").status(), StatusCode::OK);
        assert_eq!(host.registry.snapshot().namespace("storage").expect("known").available(), 0);
        // A name that leads here.
        let rebound = host.client.get(format!("{}/status", host.url)).bearer_auth("s3cret");
        let rebound = rebound.header("host", "evil.example:9090").header("accept-language", "en");
        let rebound = rebound.send().await.expect("an answer");
        match token {
            None => expect_problem(rebound, "foreign_origin", "internal.token-file").await,
            Some(_) => assert_eq!(rebound.status(), StatusCode::OK),
        }
    }
}

#[tokio::test]
async fn instances_are_taken_out_of_rotation_and_put_back() {
    let host = start(None, Config::default()).await;
    host.add_in_process("storage-1");
    let put = |path: &str, body: Value| host.client.put(format!("{}{path}", host.url)).json(&body).send();
    let path = "/instances/storage/storage-1";
    let (status, out) = document(put(path, json!({"rotation": "out"})).await.expect("an answer")).await;
    assert_eq!((status, &out["rotation"], &out["state"]), (StatusCode::OK, &json!("out"), &json!("unavailable")));
    assert_eq!(host.get("/instances").await.1["instances"][0]["rotation"], "out");
    let none = host.post("/api/lookup", json!({"namespace": "storage"})).await;
    expect_problem(none, "no_instance_available", "storage").await;
    let (status, back) = document(put(path, json!({"rotation": "in"})).await.expect("an answer")).await;
    assert_eq!((status, &back["state"], back.get("rotation")), (StatusCode::OK, &json!("available"), None));

    for (path, body, code, said) in [
        ("/instances/storage/nobody", json!({"rotation": "out"}), "unknown_instance", "nobody"),
        ("/instances/a%20b/c", json!({"rotation": "out"}), "invalid_request", "namespace"),
        (path, json!({"rotation": "away"}), "invalid_request", "\"out\""),
        (path, json!({}), "invalid_request", "\"rotation\" is missing"),
    ] {
        expect_problem(put(path, body).await.expect("an answer"), code, said).await;
    }
}
