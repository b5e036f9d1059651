//! Sends a request on to an instance, and its answer back.
//!
//! There are two cases, told apart by what `registry.lookup` returns:
//!
//! - A whole namespace (under our host). The request that came in is itself sent on, with another authority; the
//!   response that comes back is itself returned. Neither body enters the guest, and picking, retrying and failing are
//!   the host's.
//! - One instance, with a name (standalone). The guest retries where that is safe, and reports what it learns.
//!
//! Bodies are handed on as streams in both cases, with their trailers; none is ever held here.

use std::time::Duration;

use http::Method;
use problem::{Code, Problem};
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Fields, Headers, Method as WasiMethod, Request, RequestOptions, Response, Scheme, Trailers,
};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::hostler::assembly::registry::{self, Endpoint, LookupError, Outcome};
use crate::failure::{self, Reach};
use crate::hop::{API_KEY, HOP_BY_HOP, named_by_connection};
use crate::route::Forward;

/// How long a standalone gateway waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a standalone gateway waits for the head of an answer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a body is read at once, where it has to be.
const CHUNK: usize = 64 * 1024;

/// The header that names the instance an answer came from.
const SERVED_BY: &str = "x-served-by";

thread_local! {
    /// Whether the host keeps the headers of connections away from guests. Then there is nothing to look for.
    static HOST_FILTERS: bool =
        Fields::from_list(&[("connection".to_owned(), b"close".to_vec())]).is_err();
}

/// Sends `request`, which came in with `method`, where `to` says.
///
/// # Errors
/// There is no instance to send it to, or none could be reached.
pub(crate) async fn forward(request: Request, method: &Method, to: &Forward<'_>) -> Result<Response, Problem> {
    let endpoint = registry::lookup(to.namespace).map_err(|error| nowhere(&error, to))?;
    match endpoint.name {
        None => pass_on(request, &endpoint.authority, to).await,
        Some(_) => attempt(request, method, endpoint, to).await,
    }
}

fn nowhere(error: &LookupError, to: &Forward<'_>) -> Problem {
    let namespace = to.namespace;
    match error {
        LookupError::UnknownNamespace if to.unknown == Code::UnknownNamespace => {
            Problem::new(Code::UnknownNamespace, format!("nothing has registered in namespace {namespace:?}"))
        }
        LookupError::UnknownNamespace => no_instance(namespace, 1),
        LookupError::NoInstanceAvailable(seconds) => no_instance(namespace, *seconds),
    }
}

fn no_instance(namespace: &str, retry_after: u32) -> Problem {
    let detail = format!("no instance of namespace {namespace:?} is available now; try again");
    Problem::new(Code::NoInstanceAvailable, detail).retry_after(retry_after)
}

/// Sends the request itself, once.
async fn pass_on(request: Request, authority: &str, to: &Forward<'_>) -> Result<Response, Problem> {
    let request = match withhold(&request, to) {
        None => request,
        Some(headers) => {
            let method = request.get_method();
            let target = request.get_path_with_query();
            let (contents, trailers) = consume(request);
            let (request, _sent) = Request::new(headers, Some(contents), trailers, None);
            begin(&request, &method, target.as_deref())?;
            request
        }
    };
    address(&request, authority, to)?;
    client::send(request).await.map_err(|error| failure::problem(&error))
}

/// Sends the request to one instance after the other, as far as that is safe and the registry allows.
async fn attempt(request: Request, method: &Method, first: Endpoint, to: &Forward<'_>) -> Result<Response, Problem> {
    let headers = withhold(&request, to).unwrap_or_else(|| request.get_headers());
    let wasi_method = request.get_method();
    let target = request.get_path_with_query();
    let (contents, trailers) = consume(request);
    let idempotent = to.method.as_ref().unwrap_or(method).is_idempotent();
    let mut body = match examine(idempotent, &headers, contents).await {
        Contents::None => None,
        Contents::Some(contents) => Some((contents, trailers)),
    };
    let repeatable = body.is_none();

    let mut endpoint = first;
    let mut tried = Vec::new();
    loop {
        let (contents, trailers) = match body.take() {
            Some((contents, trailers)) => (Some(contents), trailers),
            None => (None, wit_future::new(|| Ok(None)).1),
        };
        let (outgoing, _sent) = Request::new(headers.clone(), contents, trailers, Some(options()));
        begin(&outgoing, &wasi_method, target.as_deref())?;
        address(&outgoing, &endpoint.authority, to)?;
        let sent = client::send(outgoing).await;

        let name = endpoint.name.unwrap_or_default();
        let error = match sent {
            Ok(response) => {
                registry::report(to.namespace, &name, Outcome::Reached);
                return Ok(label(response, &name));
            }
            Err(error) => error,
        };
        let reach = failure::reach(&error);
        // With a body, a broken connection may be the client's doing: it stopped sending, or sent more than the instance
        // wanted. Nobody may take an instance out of service that way.
        if reach == Reach::Nowhere || (reach == Reach::Broken && repeatable) {
            registry::report(to.namespace, &name, Outcome::Unreachable);
        }
        tried.push(name);
        let safe = match reach {
            Reach::Nowhere => repeatable,
            Reach::Broken => repeatable && idempotent,
            Reach::Reached => false,
        };
        endpoint = match safe.then(|| registry::retry(to.namespace, &tried)).flatten() {
            Some(next) => next,
            None => return Err(failure::problem(&error)),
        };
    }
}

/// The headers without those that must not be passed on, or `None` if all may be.
fn withhold(request: &Request, to: &Forward<'_>) -> Option<Fields> {
    let host_filters = HOST_FILTERS.with(|filters| *filters);
    if host_filters && !to.withhold {
        return None;
    }
    let headers = request.get_headers();
    let mut withheld = vec![API_KEY.to_owned(), "te".to_owned()];
    if !host_filters {
        withheld.extend(HOP_BY_HOP.map(str::to_owned));
        withheld.extend(named_by_connection(&headers.get("connection")));
    }
    withheld.retain(|name| headers.has(name));
    if withheld.is_empty() {
        return None;
    }
    let rest = headers.clone();
    for name in withheld {
        // A header that the host forbids to touch is the host's own to drop.
        let _ = rest.delete(&name);
    }
    Some(rest)
}

/// The first line of a new request: that of the one which came in.
fn begin(request: &Request, method: &WasiMethod, target: Option<&str>) -> Result<(), Problem> {
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| invalid("scheme"))?;
    request.set_method(method).map_err(|()| invalid("method"))?;
    request.set_path_with_query(target).map_err(|()| invalid("path"))
}

/// Where a request goes, and what is another there.
fn address(request: &Request, authority: &str, to: &Forward<'_>) -> Result<(), Problem> {
    request.set_authority(Some(authority)).map_err(|()| invalid("authority"))?;
    if let Some(method) = &to.method {
        request.set_method(&method.clone().into()).map_err(|()| invalid("method"))?;
    }
    if let Some(target) = &to.target {
        request.set_path_with_query(Some(target)).map_err(|()| invalid("path"))?;
    }
    Ok(())
}

fn invalid(part: &str) -> Problem {
    Problem::new(Code::InvalidRequest, format!("the request's {part} is not valid"))
}

fn consume(request: Request) -> (StreamReader<u8>, FutureReader<Result<Option<Trailers>, ErrorCode>>) {
    let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
    Request::consume_body(request, accepted_reader)
}

/// What is known of a request's body before it is sent.
enum Contents {
    /// There is none, so the request can be sent again.
    None,
    /// There is one, or there may be one.
    Some(StreamReader<u8>),
}

/// Finds out whether there is a body, where that decides on a second attempt: if the method is idempotent, and nothing
/// in the head tells.
async fn examine(idempotent: bool, headers: &Headers, mut contents: StreamReader<u8>) -> Contents {
    let lengths = headers.get("content-length");
    if !lengths.is_empty() {
        let empty = lengths.iter().all(|length| length == b"0");
        return if empty { Contents::None } else { Contents::Some(contents) };
    }
    if !idempotent {
        return Contents::Some(contents);
    }
    // A read of no bytes would tell as well, but wasmtime 48 then loses what it has buffered.
    let (result, first) = contents.read(Vec::with_capacity(CHUNK)).await;
    if first.is_empty() && result == StreamResult::Dropped {
        return Contents::None;
    }
    Contents::Some(resume(first, contents))
}

/// A stream of `first` and then what is left of `rest`. Holds one chunk at a time.
fn resume(first: Vec<u8>, mut rest: StreamReader<u8>) -> StreamReader<u8> {
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        let mut chunk = first;
        loop {
            chunk = writer.write_all(chunk).await;
            if !chunk.is_empty() {
                // The instance doesn't want more.
                return;
            }
            let result;
            (result, chunk) = rest.read(chunk).await;
            if chunk.is_empty() && result == StreamResult::Dropped {
                return;
            }
        }
    });
    reader
}

fn options() -> RequestOptions {
    let options = RequestOptions::new();
    // A host that doesn't support them has timeouts of its own.
    let _ = options.set_connect_timeout(Some(nanoseconds(CONNECT_TIMEOUT)));
    let _ = options.set_first_byte_timeout(Some(nanoseconds(FIRST_BYTE_TIMEOUT)));
    options
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("our timeouts are far below 584 years")
}

/// Names the instance in the answer, if the answer doesn't.
fn label(response: Response, name: &str) -> Response {
    let headers = response.get_headers();
    if name.is_empty() || headers.has(SERVED_BY) {
        return response;
    }
    let headers = headers.clone();
    if headers.append(SERVED_BY, name.as_bytes()).is_err() {
        return response;
    }
    let status = response.get_status_code();
    let (_accepted, accepted_reader) = wit_future::new(|| Ok(()));
    let (contents, trailers) = Response::consume_body(response, accepted_reader);
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    response.set_status_code(status).expect("a status that came in is valid");
    response
}
