//! `/components`.

use super::super::components::LARGEST_COMPONENT;
use super::*;
use crate::swap::SwapError;

fn component(name: &str) -> &'static [u8] {
    crate::builtin::component(name).expect("it is built in")
}

fn digest(name: &str) -> String {
    runtime::Code::new(component(name)).digest().to_string()
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
    let (first, second) = (digest("echo"), digest("storage"));
    let (status, mut swapped) = document(host.put("/components/storage", component("storage")).await).await;
    assert!(swapped["took_ms"].take().is_u64());
    let expected = json!({"name": "storage", "digest": second, "previous": first, "changed": true, "took_ms": null});
    assert_eq!((status, swapped), (StatusCode::OK, expected));

    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], second);
    let (status, revisions) = host.get("/components/storage/revisions").await;
    assert_eq!((status, &revisions["name"]), (StatusCode::OK, &json!("storage")));
    let revision = |index: usize, field: &str| revisions["revisions"][index][field].clone();
    assert_eq!([revision(0, "digest"), revision(1, "digest")], [second.clone(), first.clone()]);
    assert_eq!([revision(0, "state"), revision(1, "state")], ["active", "warm"]);
    assert_eq!([revision(0, "published_by"), revision(1, "published_by")], ["swap", "start"]);
    assert_eq!(revision(0, "outcome"), Value::Null);

    let path = "/components/storage/rollback";
    let back = document(host.request(Method::POST, path).await).await;
    assert_eq!((back.0, &back.1["digest"], &back.1["previous"]), (StatusCode::OK, &json!(first), &json!(second)));
    let to = document(host.post(path, json!({"to": &second[..8]})).await).await;
    assert_eq!((to.0, &to.1["digest"]), (StatusCode::OK, &json!(second)));
    expect_problem(host.post(path, json!({"to": "0000000000"})).await, "unknown_revision", &first).await;
    expect_problem(host.post(path, json!({"to": 1})).await, "invalid_request", "\"to\"").await;
    expect_problem(host.post(path, json!({"too": &first})).await, "invalid_request", "\"too\"").await;
    expect_problem(host.post(path, json!([])).await, "invalid_request", "object").await;
}

#[tokio::test]
async fn a_swap_that_fails_says_why() {
    let host = start(None, Config::default()).await;
    for (path, body, code, said) in [
        ("/components/nobody", &b"x"[..], "unknown_component", "\"nobody\"; there are: storage"),
        ("/components/storage", b"", "swap_failed", ""),
        ("/components/storage", b"hello, world", "swap_failed", "WebAssembly"),
        ("/components/storage?rehearse=many", b"x", "invalid_request", "invalid digit"),
        ("/components/storage?rehearse=-1", b"x", "invalid_request", "invalid digit"),
        ("/components/storage?promote=soon", b"x", "invalid_request", "safe"),
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
    let wrong = host.request(Method::POST, "/components/storage").await;
    expect_problem(wrong, "method_not_allowed", "POST").await;
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest("echo"));
}

#[test]
fn every_reason_has_its_status() {
    let name = || "storage".to_owned();
    for (error, status, code) in [
        (SwapError::Busy { name: name(), waiting: 8 }, StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        (SwapError::Draining, StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (SwapError::Full { reason: name() }, StatusCode::INSUFFICIENT_STORAGE, "store_full"),
        (SwapError::NotRecorded { reason: name() }, StatusCode::INTERNAL_SERVER_ERROR, "swap_not_recorded"),
        (SwapError::Rejected { reason: name() }, StatusCode::UNPROCESSABLE_ENTITY, "swap_failed"),
        (SwapError::NoPreviousRevision { name: name() }, StatusCode::CONFLICT, "no_previous_revision"),
    ] {
        let said = error.to_string();
        let Failure(problem) = error.into();
        assert_eq!((problem.code.status(), problem.code.as_str()), (status, code));
        assert_eq!(problem.detail, said);
    }
}

#[tokio::test]
async fn what_is_too_large_or_cut_off_is_refused() {
    let host = start(None, Config::default()).await;
    let head = |length: &str| format!("PUT /components/storage HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
    // Nothing of the body was sent: it is the announcement that is refused.
    let answer = host.raw(&head(&format!("content-length: {}", LARGEST_COMPONENT + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest("echo"));

    let chunk = format!("{:x}\r\n{}\r\n", LARGEST_COMPONENT + 1, "x".repeat(LARGEST_COMPONENT + 1));
    let answer = host.raw(&(head("transfer-encoding: chunked") + &chunk)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("at most 67108864"), "{answer}");

    let answer = host.raw(&(head("content-length: 10") + "half")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ended early"), "{answer}");
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest("echo"));
}

#[tokio::test]
async fn nothing_is_swapped_while_draining() {
    let host = start(None, Config::default()).await;
    host.readiness.draining();
    for refused in [
        host.put("/components/storage", component("storage")).await,
        host.request(Method::POST, "/components/storage/rollback").await,
    ] {
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        expect_problem(refused, "draining", "stopping").await;
    }
    let (_, listed) = host.get("/components").await;
    assert_eq!(listed["components"][0]["digest"], digest("echo"));
}
