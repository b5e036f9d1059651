//! What our WASI 0.3 guests share: sending an answer, and reading a body up to a limit.
//!
//! Answers are built with as few calls to the host as there can be: headers in one list, the body in one write.

use http::{HeaderName, HeaderValue};
use problem::Problem;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

/// How many bytes of a body are read at once, at most. Bodies come in network-sized pieces; more would only cost
/// memory.
const CHUNK: usize = 64 * 1024;

/// Why a body could not be read as a whole.
#[derive(Debug)]
pub enum ReadError {
    /// It has more bytes than the limit. The rest was not read.
    TooLarge,
    /// It broke off before its end, with the transport's reason.
    Broken(ErrorCode),
}

/// A response whose body is in memory. `headers` has its `content-length`.
///
/// The body is sent after the guest's handler has returned. To `HEAD` it is sent too: servers drop it.
#[must_use]
pub fn respond(status: u16, headers: Fields, body: Vec<u8>) -> Response {
    let (mut contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents_reader), trailers_reader);
    if status != 200 {
        response
            .set_status_code(status)
            .expect("the statuses of the problem table are valid");
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
        (
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (http::header::CONTENT_LENGTH, length),
    ]);
    respond(200, headers, body)
}

/// A problem document.
#[must_use]
pub fn refuse(problem: &Problem) -> Response {
    let body = problem.body();
    let length = (http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    respond(
        problem.status(),
        fields(problem.headers().chain([length])),
        body,
    )
}

/// Reads a request's body into memory.
///
/// # Errors
/// See [`ReadError`].
pub async fn read_body(
    request: Request,
    capacity: usize,
    limit: usize,
) -> Result<Vec<u8>, ReadError> {
    let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
    let (mut contents, trailers) = Request::consume_body(request, accepted_reader);
    let mut body = Vec::with_capacity(capacity.clamp(1024, limit.max(1024)));
    loop {
        if body.len() == body.capacity() {
            body.reserve(CHUNK);
        }
        let (result, read) = contents.read(body).await;
        body = read;
        if body.len() > limit {
            return Err(ReadError::TooLarge);
        }
        if matches!(result, wasip3::wit_bindgen::StreamResult::Dropped) {
            break;
        }
    }
    drop(contents);
    // Only this tells a body that ended from one that broke off.
    trailers.await.map_err(ReadError::Broken)?;
    Ok(body)
}

/// The host's form of these headers.
///
/// # Panics
/// If one is a header that hosts forbid (those of the connection, such as `transfer-encoding`).
#[must_use]
pub fn fields(headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Fields {
    let entries: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&entries).expect("no host forbids the headers of our own answers")
}
