//! One request at the edge: held to its limits, labelled, routed; and its answer, labelled.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, VARY};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use problem::{Code, Problem};
use runtime::{Body, HOPS, Hop, Target, Worker, answer_with, content_length};

use super::body::{Download, Fault, Upload, Verdict};
use super::exchange::Exchange;
use super::forwarded::{self, Peer};
use super::refusal::Turn;
use super::{Edge, Limits, request_id};
use crate::linger::linger;

/// The path that the host answers itself.
const METRICS: &str = "/metrics";

/// Answers a request, whatever it is.
pub(super) async fn answer(
    edge: &Arc<Edge>,
    worker: &Worker,
    peer: &Peer,
    request: Request<Incoming>,
    turn: Turn,
) -> Response<Download> {
    let id = request_id::choose(request.headers().get(&request_id::NAME));
    let mut exchange = Exchange::begin(edge, worker, &request, &id);
    let mut answer = match edge.metrics_handler {
        Some(handler) if request.uri().path() == METRICS => {
            exchange.answered_here(handler);
            metrics(edge, request).await
        }
        _ => serve(edge, worker, peer, &id, request, &mut exchange).await,
    };
    answer.headers_mut().insert(request_id::NAME, id);
    exchange.answered(&answer);
    answer.map(|body| Download::new(body, edge.limits.body_idle, exchange, turn))
}

/// Has a component answer.
async fn serve(
    edge: &Edge,
    worker: &Worker,
    peer: &Peer,
    id: &HeaderValue,
    request: Request<Incoming>,
    exchange: &mut Exchange,
) -> Response<Body> {
    match admit(edge, worker, peer, id, request, exchange) {
        Ok(Admitted { target, request, hop, verdict }) => {
            let answer = worker.dispatch(&target, request, hop).await;
            match verdict.map_or(Fault::None, |verdict| verdict.get()) {
                Fault::None => answer,
                Fault::TooLarge => answer_with(too_large(edge.limits.body_bytes)),
                Fault::Idle => answer_with(Problem::new(Code::RequestTimeout, "the request's body stopped coming")),
            }
        }
        Err(problem) => answer_with(problem),
    }
}

/// `GET /metrics`
async fn metrics(edge: &Edge, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    linger(body);
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return answer_with(Problem::method_not_allowed("GET, HEAD"));
    }
    let (format, text) = edge.metrics.scrape(&head.headers).await;
    let length = text.len();
    let mut answer = Response::new(runtime::full(text));
    answer.headers_mut().extend([
        (CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (CONTENT_LENGTH, HeaderValue::from(length)),
        (VARY, HeaderValue::from_static("accept")),
    ]);
    answer
}

/// A request that may go to its component.
struct Admitted {
    target: Target,
    request: Box<Request<Body>>,
    hop: Hop,
    /// What becomes of its body, if it has one.
    verdict: Option<Verdict>,
}

fn admit(
    edge: &Edge,
    worker: &Worker,
    peer: &Peer,
    id: &HeaderValue,
    request: Request<Incoming>,
    exchange: &mut Exchange,
) -> Result<Admitted, Problem> {
    let (mut head, body) = request.into_parts();
    let (target, hop) = match admit_head(edge, worker, peer, &mut head, exchange) {
        Ok(admitted) => admitted,
        Err(problem) => {
            linger(body);
            return Err(problem);
        }
    };
    head.headers.insert(request_id::NAME, id.clone());
    let (body, verdict) = if body.is_end_stream() {
        (runtime::empty(), None)
    } else {
        let (upload, verdict) = Upload::new(body, edge.limits.body_bytes, edge.limits.body_idle);
        (upload.boxed_unsync(), Some(verdict))
    };
    Ok(Admitted { target, request: Box::new(Request::from_parts(head, body)), hop, verdict })
}

fn admit_head(
    edge: &Edge,
    worker: &Worker,
    peer: &Peer,
    head: &mut Parts,
    exchange: &mut Exchange,
) -> Result<(Target, Hop), Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::new(Code::InvalidRequest, "this isn't a proxy for other hosts; CONNECT is not served"));
    }
    check_size(head, &edge.limits)?;
    let routed = worker.view().route(head.uri.path()).ok_or_else(Problem::not_found)?;
    let target = exchange.routed(routed);
    if content_length(&head.headers).is_some_and(|length| length > edge.limits.body_bytes) {
        return Err(too_large(edge.limits.body_bytes));
    }
    head.uri = absolute(&head.uri, &head.headers, head.version)?;
    let hop = Hop::new(hops(&head.headers).saturating_add(1), exchange.goes_on(&mut head.headers));
    head.headers.remove(&HOPS);
    runtime::remove_hop_by_hop(&mut head.headers);
    forwarded::set(&mut head.headers, peer, &edge.trusted_proxies);
    Ok((target, hop))
}

/// Whether the head is within its limits.
fn check_size(head: &Parts, limits: &Limits) -> Result<(), Problem> {
    if head.headers.len() > limits.headers {
        let detail = format!("the request has more than {} headers", limits.headers);
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    // A header line is its name, its value, a colon, a space and a line end.
    let lines: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if lines + target > limits.head_bytes {
        let detail = format!("the request's head is larger than {} bytes", limits.head_bytes);
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    Ok(())
}

fn too_large(limit: u64) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes"))
}

/// The request's URI with the host that the client asked for. Path and query stay as they came.
fn absolute(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Uri, Problem> {
    let authority = match (uri.authority(), headers.get(HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes())
            .map_err(|_| Problem::new(Code::InvalidRequest, "the host header is not a host name"))?,
        (None, None) if version < Version::HTTP_11 => Authority::from_static("localhost"),
        (None, None) => return Err(Problem::new(Code::InvalidRequest, "the host header is missing")),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).map_err(|_| Problem::new(Code::InvalidRequest, "the request's target is not a path"))
}

/// How many components the request has passed through on other hosts.
fn hops(headers: &HeaderMap) -> u8 {
    headers.get(&HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_path_and_gets_the_host_it_asked_for() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "shop.example:8080".parse().expect("a test's value"));
        let uri = absolute(&Uri::from_static("/a%2Fb//c?d=%20"), &headers, Version::HTTP_11).expect("it is fine");
        assert_eq!(uri, "http://shop.example:8080/a%2Fb//c?d=%20");
    }

    #[test]
    fn a_host_is_required_of_whoever_knows_of_hosts() {
        let uri = Uri::from_static("/");
        assert!(absolute(&uri, &HeaderMap::new(), Version::HTTP_11).is_err());
        assert!(absolute(&uri, &HeaderMap::new(), Version::HTTP_10).is_ok());
    }
}
