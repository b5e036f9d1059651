//! `/components`.

use super::super::components::LARGEST;
use super::*;
use crate::swap::{ComponentInfo, PublishedBy, Swapper, digest_of};

/// Of one component.
pub(super) fn swapper() -> Swapper {
    Swapper::stub(vec![ComponentInfo {
        name: "storage".to_owned(),
        namespace: "storage".to_owned(),
        route: Some("/".to_owned()),
        instances: vec!["storage-1".to_owned()],
        digest: digest_of(b"first"),
        published_ms_ago: 0,
        published_by: PublishedBy::Start,
        source: "builtin:storage".to_owned(),
        source_digest: Some(digest_of(b"first")),
        differs_from_source: false,
        draining: 0,
        watching: false,
    }])
}

impl Running {
    async fn put(&self, path: &str, body: &'static [u8]) -> Response {
        self.client.put(format!("{}{path}", self.url)).body(body).send().await.expect("an answer")
    }

    /// The answer to what is sent as it is, with nothing after it.
    async fn raw(&self, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        stream.shutdown().await.expect("it listens");
        let mut answer = Vec::new();
        // A reset at the end is none of this test's business.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn a_component_is_swapped_listed_and_rolled_back() {
    let host = start(None, Config::default()).await;
    let (first, second) = (digest_of(b"first"), digest_of(b"second"));
    let (status, swapped) = document(host.put("/components/storage", b"second").await).await;
    let expected = json!({"name": "storage", "digest": second, "previous": first, "changed": true, "took_ms": 1});
    assert_eq!((status, swapped), (StatusCode::OK, expected));

    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], second);
    let (status, revisions) = host.get("/components/storage/revisions").await;
    assert_eq!((status, &revisions["name"]), (StatusCode::OK, &json!("storage")));
    let revision = |index: usize, field: &str| revisions["revisions"][index][field].clone();
    assert_eq!([revision(0, "digest"), revision(1, "digest")], [second.clone(), first.clone()]);
    assert_eq!([revision(0, "state"), revision(1, "state")], ["active", "kept"]);
    assert_eq!([revision(0, "published_by"), revision(1, "published_by")], ["swap", "start"]);
    assert_eq!(revision(0, "outcome"), Value::Null);

    let path = "/components/storage/rollback";
    let back = document(host.request(Method::POST, path).await).await;
    assert_eq!((back.0, &back.1["digest"], &back.1["previous"]), (StatusCode::OK, &json!(first), &json!(second)));
    let to = document(host.post(path, json!({"to": first})).await).await;
    assert_eq!((to.0, &to.1["digest"]), (StatusCode::OK, &json!(first)));
    expect_problem(host.post(path, json!({"to": "0000000000"})).await, "unknown_revision", &first).await;
    expect_problem(host.post(path, json!({"to": 1})).await, "invalid_request", "\"to\"").await;
    expect_problem(host.post(path, json!([])).await, "invalid_request", "object").await;
}

#[tokio::test]
async fn options_of_a_swap_are_in_the_query() {
    let host = start(None, Config::default()).await;
    let (_, swapped) = document(host.put("/components/storage?rehearse=7&promote=identical", b"a").await).await;
    assert_eq!(swapped["rehearsal"], json!({"requests": 7}));
    for (query, said) in
        [("rehearse=many", "invalid digit"), ("rehearse=-1", "invalid digit"), ("promote=soon", "safe")]
    {
        let refused = host.put(&format!("/components/storage?{query}"), b"b").await;
        expect_problem(refused, "invalid_request", said).await;
    }
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest_of(b"a"));
}

#[tokio::test]
async fn a_swap_that_fails_says_why() {
    let host = start(None, Config::default()).await;
    for (path, body, code, said) in [
        ("/components/nobody", &b"x"[..], "unknown_component", "\"nobody\"; there are: storage"),
        ("/components/storage", b"", "swap_failed", "no bytes"),
        ("/components/storage", b"disk full", "store_full", "free some space"),
    ] {
        expect_problem(host.put(path, body).await, code, said).await;
    }
    for path in ["/components/nobody/rollback", "/components/a%2Fb/rollback"] {
        expect_problem(host.request(Method::POST, path).await, "unknown_component", "storage").await;
    }
    let path = "/components/storage/rollback";
    expect_problem(host.request(Method::POST, path).await, "no_previous_revision", "storage").await;
    let path = "/components/nobody/revisions";
    expect_problem(host.request(Method::GET, path).await, "unknown_component", "storage").await;
    expect_problem(host.request(Method::POST, "/components/storage").await, "method_not_allowed", "POST").await;
}

#[tokio::test]
async fn what_is_too_large_or_cut_off_is_refused() {
    let host = start(None, Config::default()).await;
    let head = |length: &str| format!("PUT /components/storage HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
    // Nothing of the body was sent: it is the announcement that is refused.
    let answer = host.raw(&head(&format!("content-length: {}", LARGEST + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest_of(b"first"));

    let chunk = format!("{:x}\r\n{}\r\n", LARGEST + 1, "x".repeat(LARGEST + 1));
    let answer = host.raw(&(head("transfer-encoding: chunked") + &chunk)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("at most 67108864"), "{answer}");

    let answer = host.raw(&(head("content-length: 10") + "half")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ended early"), "{answer}");
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest_of(b"first"));
}

#[tokio::test]
async fn nothing_is_swapped_while_draining() {
    let host = start(None, Config::default()).await;
    host.readiness.draining();
    for refused in [
        host.put("/components/storage", b"late").await,
        host.request(Method::POST, "/components/storage/rollback").await,
    ] {
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        expect_problem(refused, "draining", "stopping").await;
    }
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest_of(b"first"));
}
