//! The HTTP client of a worker: requests to remote instances, and to other hosts that a component may reach.
//!
//! Lives as long as its worker. What bounds it: the kept [`connections`]; the first byte of an answer has its time; a body
//! that doesn't move for [`BODY_IDLE`] fails.

mod connections;

use std::error::Error;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use registry::{Address, Member, Registry};
use wasmtime_wasi_http::RequestOptions;

use self::connections::{Connections, Failure, Progress};
use crate::body::{Body, BodyError, End, Ending, Lent, Watched, content_length};
use crate::dispatch::Hop;
use crate::guest::Guest;

/// How long the first byte of an answer may take if the guest doesn't say itself.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How long a body may stand still.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// How many components a request has passed through, between hosts.
pub const HOPS: HeaderName = HeaderName::from_static("x-hostler-hops");

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Why a remote instance has no answer.
pub(crate) enum SendError {
    /// No connection could be made; nothing was sent. The request, if its body is still whole.
    NotConnected { request: Option<Box<Request<Body>>>, reason: String },
    /// The connection broke, or what came wasn't HTTP.
    Broken { reason: String },
    /// No answer began in time.
    TimedOut,
}

/// Sends requests over kept connections.
pub(crate) struct Client {
    connections: Connections,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { connections: Connections::new() }
    }

    /// Closes connections that are not of use any more. To be called now and then.
    pub(crate) fn sweep(&self) {
        self.connections.sweep();
    }

    /// Sends a request to a remote instance and tells the registry whether it was reached.
    pub(crate) async fn send_to(
        &self,
        member: &Arc<Member>,
        address: &Address,
        request: Request<Body>,
        hop: &Hop,
        deadline: Instant,
        registry: &Registry,
    ) -> Result<Response<Body>, SendError> {
        let (mut head, body) = request.into_parts();
        let kept = head.clone();
        let (lent, body) = Lent::new(body);
        readdress(&mut head.uri, address.authority());
        prepare(&mut head.headers, head.uri.authority(), hop);
        let sent = self.send(Request::from_parts(head, body), hop, FIRST_BYTE, Some(deadline)).await;
        match sent {
            Ok(answer) => {
                let ending = Outcome { member: member.clone(), registry: registry.clone() };
                Ok(answer.map(|body| Watched::wrap(body, None, ending)))
            }
            Err(Unsent::TimedOut) => Err(SendError::TimedOut),
            Err(Unsent::Failed(failure)) => {
                registry.report(member, false);
                Err(match failure {
                    Failure::NotConnected(error) => {
                        let request = lent.take_back().map(|body| Box::new(Request::from_parts(kept, body)));
                        SendError::NotConnected { request, reason: root_cause(&*error) }
                    }
                    Failure::Broken(error) => SendError::Broken { reason: root_cause(&error) },
                })
            }
        }
    }

    /// Sends a guest's request to another host. That the guest may do so was checked before.
    pub(crate) async fn send_outside(
        &self,
        mut request: Request<Body>,
        hop: &Hop,
        options: &RequestOptions,
    ) -> Result<Response<Body>, BodyError> {
        let authority = request.uri().authority().cloned();
        prepare(request.headers_mut(), authority.as_ref(), hop);
        let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE);
        self.send(request, hop, first_byte, None).await.map_err(|unsent| match unsent {
            Unsent::TimedOut => BodyError::ConnectionReadTimeout,
            Unsent::Failed(Failure::NotConnected(error)) => connect_error(&*error),
            Unsent::Failed(Failure::Broken(_)) => BodyError::ConnectionTerminated,
        })
    }

    /// Sends a request. The time for the first byte begins anew with each piece of the request's body that is taken, but
    /// ends with the deadline.
    async fn send(
        &self,
        mut request: Request<Body>,
        hop: &Hop,
        first_byte: Duration,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Unsent> {
        if let Some(sender) = &hop.sender {
            // Only here: within the host, whoever is asked is given up together with the guest that asks.
            let (length, sender) = (content_length(request.headers()), Sender(sender.clone()));
            request = request.map(|body| Watched::wrap(body, length, sender));
        }
        let progress = Arc::new(Progress::new());
        let mut sending = pin!(self.connections.send(request, &progress));
        let answer = loop {
            let last = progress.last();
            let wake = deadline.map_or(last + first_byte, |deadline| deadline.min(last + first_byte));
            tokio::select! {
                biased;
                answer = &mut sending => break answer.map_err(Unsent::Failed)?,
                () = tokio::time::sleep_until(wake.into()) => {
                    let stalled = progress.last() == last;
                    if stalled || deadline.is_some_and(|deadline| deadline <= wake) {
                        return Err(Unsent::TimedOut);
                    }
                }
            }
        };
        let (mut head, body) = answer.into_parts();
        remove_hop_by_hop(&mut head.headers);
        Ok(Response::from_parts(head, Steady { body, timer: None }.boxed_unsync()))
    }
}

enum Unsent {
    TimedOut,
    Failed(Failure),
}

/// Tells the registry whether an instance answered to the end or broke off in the middle.
struct Outcome {
    member: Arc<Member>,
    registry: Registry,
}

impl Ending for Outcome {
    fn ended(&mut self, end: End) {
        match end {
            End::Complete => self.registry.report(&self.member, true),
            End::Failed => self.registry.report(&self.member, false),
            // That was the client.
            End::Dropped => {}
        }
    }
}

/// The guest that sends a body. What it leaves unfinished is not to reach anybody as a whole one.
struct Sender(Arc<Guest>);

impl Ending for Sender {
    fn ended(&mut self, _: End) {}

    fn is_broken(&self) -> bool {
        self.0.broke_off()
    }
}

/// Points the URI to this host, keeping path and query.
fn readdress(uri: &mut Uri, authority: &str) {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(authority).ok();
    parts.path_and_query = Some(path_and_query(uri));
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn path_and_query(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

fn prepare(headers: &mut HeaderMap, authority: Option<&Authority>, hop: &Hop) {
    remove_hop_by_hop(headers);
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(without_user(authority)).ok()) {
        headers.insert(HOST, host);
    }
    headers.insert(HOPS, u16::from(hop.depth).into());
}

/// Host and port. A user and password must not be in a `Host` header, and servers log that.
fn without_user(authority: &Authority) -> &str {
    let authority = authority.as_str();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Removes what concerns one connection only, and what `Connection` says does.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if !HOP_BY_HOP.iter().any(|name| headers.contains_key(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn connect_error(error: &(dyn Error + 'static)) -> BodyError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::TimedOut => BodyError::ConnectionTimeout,
                std::io::ErrorKind::ConnectionRefused => BodyError::ConnectionRefused,
                _ => BodyError::DestinationUnavailable,
            };
        }
        cause = error.source();
    }
    BodyError::DestinationUnavailable
}

/// Fails when nothing comes for [`BODY_IDLE`].
struct Steady {
    body: Body,
    /// Set while nothing comes.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl HttpBody for Steady {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.timer = None;
            return Poll::Ready(frame);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_IDLE)));
        timer.as_mut().poll(cx).map(|()| Some(Err(BodyError::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("x-other", "2"),
        ] {
            headers.append(name, value.parse().expect("a test's value"));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }

    #[test]
    fn no_user_and_no_password_is_in_the_host_header() {
        for (authority, expected) in
            [("u:5ecretpw@example.test:81", "example.test:81"), ("[::1]:80", "[::1]:80"), ("h", "h")]
        {
            assert_eq!(without_user(&Authority::from_static(authority)), expected);
        }
    }

    #[test]
    fn a_remote_request_keeps_path_and_query() {
        let mut uri = Uri::from_static("http://storage.internal/a%20b?c=d");
        readdress(&mut uri, "10.0.0.1:8080");
        assert_eq!(uri, "http://10.0.0.1:8080/a%20b?c=d");
    }
}
