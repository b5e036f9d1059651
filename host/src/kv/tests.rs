//! Another host's store against a real internal address, by the suite that every backend passes; what it does when that
//! host is away; and the address itself, as programs in any language see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::any;
use registry::Registry;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use store::{Bucket, Error, Limits, MemoryStore, Store, Swap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{RemoteStore, User};
use crate::control::{self, Control, Kv, Readiness, Streams};
use crate::facts::Observer;
use crate::metrics::Metrics;
use crate::telemetry::{Level, LogLevel};
use crate::token::Token;

/// The store of a host with these limits, from one with the same.
async fn open(limits: Limits) -> Arc<dyn Store> {
    Arc::new(RemoteStore::new(url(owner_with(limits).await.address), User::Host, None, limits))
}

store::contract_tests!(open);

#[tokio::test]
async fn the_limits_of_the_owner_count() {
    store::contract::refuses_what_is_too_large(|limits| async move {
        Arc::new(owner_with(limits).await.lend(None)) as Arc<dyn Store>
    })
    .await;
}

/// A host whose store others use.
struct Owner {
    address: SocketAddr,
    client: Client,
    served: JoinHandle<()>,
}

impl Owner {
    async fn start(address: impl tokio::net::ToSocketAddrs, kv: Kv, token: Option<&str>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let registry = Registry::new(registry::Config::default());
        let control = Control {
            metrics: Metrics::of(&registry),
            tracer: None,
            log_level: Level::new(LogLevel::Off).0,
            observer: Observer::of(&registry),
            streams: Streams::new(),
            registry,
            kv,
            readiness: Readiness::new(),
            token: token.map(|token| Token::new(token).expect("a token")),
            public: SocketAddr::from(([127, 0, 0, 1], 1)),
            internal: address,
            components: control::Components::new(crate::swap::testing::swapper(Vec::new()).0),
        };
        let served = tokio::spawn(control::serve(listener, control, std::future::pending()));
        Self { address, client: Client::builder().no_proxy().build().expect("a client"), served }
    }

    /// Its store, as another host sees it.
    fn lend(&self, token: Option<&str>) -> RemoteStore {
        let token = token.map(|token| Token::new(token).expect("a token"));
        RemoteStore::new(url(self.address), User::Host, token, Limits::default())
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    async fn send(&self, method: &str, path: &str, body: &'static [u8]) -> Response {
        self.request(method, path).body(body).send().await.expect("an answer")
    }

    async fn batch(&self, batch: Value) -> Response {
        self.request("POST", "/kv/default").json(&batch).send().await.expect("an answer")
    }

    /// Ends it at once, with what it holds.
    async fn kill(self) -> SocketAddr {
        self.served.abort();
        let _ = self.served.await;
        self.address
    }
}

async fn owner_with(limits: Limits) -> Owner {
    Owner::start("127.0.0.1:0", Kv::new(Arc::new(MemoryStore::new(limits)), limits, false), None).await
}

async fn owner() -> Owner {
    Owner::start("127.0.0.1:0", Kv::default(), None).await
}

fn url(address: SocketAddr) -> crate::client::HostUrl {
    format!("http://{address}").parse().expect("an address")
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>, said: &str) {
    match result {
        Err(Error::Unavailable(reason)) => assert!(reason.contains(said), "{said:?} is missing in {reason:?}"),
        other => panic!("{other:?}"),
    }
}

async fn expect_problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let found = answer.status();
    let document: Value = answer.json().await.expect("JSON");
    assert_eq!((found.as_u16(), &document["code"]), (status, &json!(code)), "{document}");
    document
}

#[tokio::test]
async fn it_is_used_again_when_it_comes_back() {
    let main = Bucket::default();
    let first = owner().await;
    let lent = first.lend(None);
    lent.set(&main, "k", "first".into()).await.expect("set");
    let version = lent.read_versioned(&main, "k").await.expect("read").version;
    let address = first.kill().await;
    unavailable(lent.get(&main, "k").await, "refused");
    unavailable(lent.set(&main, "k", "lost".into()).await, "refused");
    unavailable(lent.swap(&main, "k", version, "lost".into()).await, "refused");

    // It has forgotten everything, and that it gave out versions: none of them must count.
    let second = Owner::start(address, Kv::default(), None).await;
    assert_eq!(lent.get(&main, "k").await, Ok(None));
    second.lend(None).set(&main, "k", "second".into()).await.expect("set");
    match lent.swap(&main, "k", version, "third".into()).await {
        Ok(Swap::Conflict(now)) => assert_eq!(now.value.as_deref(), Some("second".as_bytes())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_token_is_told() {
    let main = Bucket::default();
    let owner = Owner::start("127.0.0.1:0", Kv::default(), Some("s3cret")).await;
    assert_eq!(owner.lend(Some("s3cret")).set(&main, "k", "v".into()).await, Ok(()));
    for token in [None, Some("wrong")] {
        unavailable(owner.lend(token).get(&main, "k").await, "401: ");
        unavailable(owner.lend(token).set(&main, "k", "v".into()).await, "store.token-file");
    }
    assert_eq!(owner.send("GET", "/kv/default/k", b"").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_is_no_internal_address_is_no_empty_store() {
    let main = Bucket::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let json = [("content-type", "application/problem+json")];
    let router = axum::Router::new()
        .route("/kv/default/text", any(async || (StatusCode::NOT_FOUND, "nothing here")))
        .route("/kv/default/echo", any(async |body: String| body))
        .fallback(async move || (StatusCode::NOT_FOUND, json, r#"{"code":"not_found","detail":"none"}"#));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let lent = RemoteStore::new(url(address), User::Host, None, Limits::default());
    for key in ["text", "echo", "problem"] {
        unavailable(lent.get(&main, key).await, "internal address");
        unavailable(lent.set(&main, key, "v".into()).await, "internal address");
        unavailable(lent.exists(&main, key).await, "internal address");
        unavailable(lent.delete(&main, key).await, "internal address");
        unavailable(lent.swap(&main, key, 0, "v".into()).await, "internal address");
        unavailable(lent.increment(&main, key, 0).await, "internal address");
    }
    unavailable(lent.list(&main, None, 1).await, "internal address");
}

#[tokio::test]
async fn hosts_that_name_each_other_do_not_ask_in_a_circle() {
    let main = Bucket::default();
    let own = owner().await;
    let middle = Kv::new(Arc::new(own.lend(None)), Limits::default(), true);
    let middle = Owner::start("127.0.0.1:0", middle, None).await;
    unavailable(middle.lend(None).get(&main, "k").await, "508");
    let operator = RemoteStore::new(url(middle.address), User::Operator, None, Limits::default());
    assert_eq!(operator.get(&main, "k").await, Ok(None));
    // An operator may come by either.
    assert_eq!(middle.send("PUT", "/kv/default/k", b"v").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(own.lend(None).get(&main, "k").await, Ok(Some("v".into())));
}

#[tokio::test]
async fn what_may_have_happened_is_not_sent_again() {
    let main = Bucket::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Takes a request and breaks off: nobody knows whether it was carried out.
            let read = stream.read(&mut [0; 4096]).await;
            counted.fetch_add(usize::from(read.is_ok_and(|len| len > 0)), Ordering::SeqCst);
        }
    });
    let lent = RemoteStore::new(url(address), User::Host, None, Limits::default());
    let sent = |times: usize| assert_eq!(requests.swap(0, Ordering::SeqCst), times);
    unavailable(lent.set(&main, "k", "v".into()).await, "");
    sent(1);
    unavailable(lent.increment(&main, "k", 1).await, "");
    sent(1);
    unavailable(lent.swap(&main, "k", 0, "v".into()).await, "");
    sent(1);
    unavailable(lent.delete_many(&main, &["k".to_owned()]).await, "");
    sent(1);
    unavailable(lent.get(&main, "k").await, "");
    sent(2);
    unavailable(lent.get_many(&main, &["k".to_owned()]).await, "");
    sent(2);
}

#[tokio::test]
async fn values_are_raw_bytes_under_any_key() {
    let owner = owner().await;
    for path in ["/kv/default/a", "/kv/default/a/b//c/", "/kv/default/%2F%00%F0%9F%9A%82", "/kv/other/a"] {
        expect_problem(owner.send("GET", path, b"").await, 404, "key_not_found").await;
        assert_eq!(owner.send("HEAD", path, b"").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(owner.send("PUT", path, b"\xff\0").await.status(), StatusCode::NO_CONTENT);
        let answer = owner.send("GET", path, b"").await;
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        assert_eq!((answer.status(), answer.bytes().await.expect("a body").as_ref()), (StatusCode::OK, &b"\xff\0"[..]));
        let head = owner.send("HEAD", path, b"").await;
        assert_eq!((head.status().as_u16(), head.headers()["content-length"].as_bytes()), (200, &b"2"[..]));
    }
    let listed: Value = owner.send("GET", "/kv/default?limit=2", b"").await.json().await.expect("JSON");
    assert_eq!(listed, json!({"keys": ["/\0🚂", "a"], "cursor": "a"}));
    let listed: Value = owner.send("GET", "/kv/default?cursor=a", b"").await.json().await.expect("JSON");
    assert_eq!(listed, json!({"keys": ["a/b//c/"]}));
    assert_eq!(owner.send("DELETE", "/kv/default/a", b"").await.status(), StatusCode::NO_CONTENT);
    expect_problem(owner.send("DELETE", "/kv/default/a", b"").await, 404, "key_not_found").await;
}

#[tokio::test]
async fn conditions_hold_or_tell_what_there_is() {
    let owner = owner().await;
    let put = |name: &'static str, value: String, body: &'static [u8]| {
        let request = owner.request("PUT", "/kv/default/k").header(name, value).body(body);
        async { request.send().await.expect("an answer") }
    };
    let etag = |answer: &Response| answer.headers()["etag"].to_str().expect("text").to_owned();
    let absent = etag(&owner.send("GET", "/kv/default/k", b"").await);
    let refused = put("if-match", "*".to_owned(), b"v").await;
    assert_eq!(etag(&refused), absent);
    expect_problem(refused, 412, "precondition_failed").await;
    assert_eq!(put("if-match", absent.clone(), b"one").await.status(), StatusCode::NO_CONTENT);
    for (name, value) in [("if-match", absent), ("if-none-match", "*".to_owned())] {
        let refused = put(name, value, b"two").await;
        assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
        let now = etag(&refused);
        assert_eq!(refused.bytes().await.expect("a body"), "one");
        let get = owner.request("GET", "/kv/default/k").header("if-none-match", now).send().await;
        assert_eq!(get.expect("an answer").status(), StatusCode::NOT_MODIFIED);
    }
    assert_eq!(put("if-match", "*".to_owned(), b"two").await.status(), StatusCode::NO_CONTENT);
    owner.send("DELETE", "/kv/default/k", b"").await;
    assert_eq!(put("if-none-match", "*".to_owned(), b"three").await.status(), StatusCode::NO_CONTENT);

    // What isn't understood is not passed over.
    for (method, path, name, value) in [
        ("PUT", "/kv/default/k", "if-match", "\"1\""),
        ("PUT", "/kv/default/k", "if-none-match", "\"0000000000000001\""),
        ("GET", "/kv/default/k", "if-none-match", "W/\"1\""),
        ("DELETE", "/kv/default/k", "if-match", "*"),
        ("POST", "/kv/default/k?increment=1", "if-match", "*"),
        ("POST", "/kv/default", "if-none-match", "*"),
    ] {
        let answer = owner.request(method, path).header(name, value).send().await.expect("an answer");
        expect_problem(answer, 400, "invalid_request").await;
    }
    assert_eq!(owner.send("GET", "/kv/default/k", b"").await.bytes().await.expect("a body"), "three");
}

#[tokio::test]
async fn increments_and_batches() {
    let owner = owner().await;
    for (by, sum) in [("5", "5"), ("-7", "-2")] {
        let answer = owner.send("POST", &format!("/kv/default/n?increment={by}"), b"").await;
        assert_eq!(answer.text().await.expect("a body"), sum);
    }
    owner.send("PUT", "/kv/default/t", b"text").await;
    expect_problem(owner.send("POST", "/kv/default/t?increment=1", b"").await, 409, "not_a_number").await;
    let max = format!("/kv/default/n?increment={}", i64::MIN);
    expect_problem(owner.send("POST", &max, b"").await, 409, "number_overflow").await;

    assert_eq!(owner.batch(json!({"set": [["a", "/w=="], ["b", ""]]})).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(owner.batch(json!({"delete": ["b", "never"]})).await.status(), StatusCode::NO_CONTENT);
    let values: Value = owner.batch(json!({"get": ["b", "a", "n"]})).await.json().await.expect("JSON");
    assert_eq!(values, json!({"values": [null, "/w==", "LTI="]}));
    let many: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    let refused = expect_problem(owner.batch(json!({ "get": many })).await, 413, "batch_too_large").await;
    assert_eq!((&refused["len"], &refused["limit"]), (&json!(1001), &json!(1000)));
}

#[tokio::test]
async fn bad_input_is_named() {
    let owner = owner().await;
    let long = format!("/kv/default/{}", "k".repeat(1025));
    for (method, path, body, status, code) in [
        ("GET", "/kv/default/", "", 400, "invalid_key"),
        ("PUT", "/kv/default/", "v", 400, "invalid_key"),
        ("GET", "/kv/default/%ff", "", 400, "invalid_key"),
        ("GET", "/kv/default/%zz", "", 400, "invalid_key"),
        ("PUT", &long, "v", 400, "key_too_large"),
        ("GET", &long, "", 400, "key_too_large"),
        ("GET", "/kv/a%2Fb/k", "", 400, "invalid_request"),
        ("GET", "/kv/a%20b", "", 400, "invalid_request"),
        ("GET", "/kv/default?limit=many", "", 400, "invalid_request"),
        ("GET", "/kv/default?cursor=%ff", "", 400, "invalid_request"),
        ("POST", "/kv/default/k", "", 400, "invalid_request"),
        ("POST", "/kv/default/k?increment=1.5", "", 400, "invalid_request"),
        ("POST", "/kv/default", "{", 400, "invalid_json"),
        ("POST", "/kv/default", "{}", 400, "invalid_request"),
        ("POST", "/kv/default", r#"{"set":{"a":"b"}}"#, 400, "invalid_request"),
        ("POST", "/kv/default", r#"{"set":[["a","not base64"]]}"#, 400, "invalid_request"),
        ("PATCH", "/kv/default/k", "", 405, "method_not_allowed"),
        ("DELETE", "/kv/default", "", 405, "method_not_allowed"),
        ("GET", "/kv", "", 404, "not_found"),
    ] {
        let answer = owner.request(method, path).body(body.to_owned()).send().await.expect("an answer");
        expect_problem(answer, status, code).await;
    }
    let text = owner.request("POST", "/kv/default").header("content-type", "text/plain").body("{}").send().await;
    expect_problem(text.expect("an answer"), 415, "unsupported_media_type").await;
    let listed: Value = owner.send("GET", "/kv/default", b"").await.json().await.expect("JSON");
    assert_eq!(listed, json!({"keys": []}), "nothing was written");
}

#[tokio::test]
async fn values_end_at_their_limit_however_they_come() {
    let owner = owner().await;
    let limit = Limits::default().value;
    for (bytes, chunked) in [(limit, false), (limit, true), (limit + 1, false), (limit + 1, true)] {
        let path = format!("/kv/default/{bytes}-{chunked}");
        let mut stream = tokio::net::TcpStream::connect(owner.address).await.expect("it listens");
        let length = if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {bytes}") };
        let mut request =
            format!("PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}\r\n\r\n").into_bytes();
        if chunked {
            request.extend(format!("{bytes:x}\r\n").bytes());
        }
        request.resize(request.len() + bytes, b'v');
        if chunked {
            request.extend(b"\r\n0\r\n\r\n");
        }
        stream.write_all(&request).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer and the end");
        let (expected, said) = match bytes > limit {
            true => ("HTTP/1.1 413", format!("\"len\":{bytes},\"limit\":{limit}")),
            false => ("HTTP/1.1 204", String::new()),
        };
        assert!(answer.starts_with(expected) && answer.contains(&said), "{answer}");
        let kept = owner.send("GET", &path, b"").await;
        assert_eq!(kept.status() == StatusCode::OK, bytes <= limit);
    }
}

#[tokio::test]
async fn a_full_store_says_so() {
    let owner = owner_with(Limits { total: 1000, ..Limits::default() }).await;
    let full = expect_problem(owner.send("PUT", "/kv/default/k", &[7; 1000]).await, 507, "store_full").await;
    assert_eq!(full["limit"], 1000);
}
