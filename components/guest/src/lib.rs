//! What our WASI 0.3 guests share: sending an answer.
//!
//! Answers are built with as few calls to the host as there can be: headers in one list, the body in one write.

use http::{HeaderName, HeaderValue};
use problem::Problem;
use wasip3::http::types::{Fields, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

/// A response whose body is in memory. `headers` has its `content-length`.
///
/// The body is sent after the guest's handler has returned. To `HEAD` it is sent too: servers drop it.
#[must_use]
pub fn respond(status: u16, headers: Fields, body: Vec<u8>) -> Response {
    let (mut contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents_reader), trailers_reader);
    if status != 200 {
        response.set_status_code(status).expect("the statuses of the problem table are valid");
    }
    spawn_local(async move {
        // Whatever isn't taken is dropped: the client has gone, and there is nobody to tell.
        contents.write_all(body).await;
        drop(contents);
        let _ = trailers.write(Ok(None)).await;
    });
    response
}

/// A JSON document.
#[must_use]
pub fn json(body: Vec<u8>) -> Response {
    let length = HeaderValue::from(body.len());
    let headers = fields([
        (http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (http::header::CONTENT_LENGTH, length),
    ]);
    respond(200, headers, body)
}

/// A problem document.
#[must_use]
pub fn refuse(problem: &Problem) -> Response {
    let body = problem.body();
    let length = (http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    respond(problem.status(), fields(problem.headers().chain([length])), body)
}

/// The host's form of these headers.
///
/// # Panics
/// If one is a header that hosts forbid (those of the connection, such as `transfer-encoding`).
#[must_use]
pub fn fields(headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Fields {
    let entries: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&entries).expect("no host forbids the headers of our own answers")
}
