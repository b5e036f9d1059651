//! Requests to the internal address of the host whose store is used: over pooled connections, bounded, and sent again
//! only where that can't do any harm.
//!
//! Lives as long as its store. What bounds it: [`PLACES`] requests at a time, others wait for [`QUEUE`]; [`CONNECT`] for
//! a connection, [`CALL`] for everything from there on; answers of a length that is given; idle connections are kept for
//! [`IDLE`].

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::wire;
use crate::client::HostUrl;
use crate::token::Token;

/// Requests under way at once, each on a connection of its own: an eighth of what an internal address accepts.
const PLACES: usize = 128;

/// For a place among them.
const QUEUE: Duration = Duration::from_secs(5);

/// For a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// For a connection, the request and the whole answer.
const CALL: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Less than the other end keeps it, so that few requests meet one that is just
/// being closed.
const IDLE: Duration = Duration::from_secs(10);

/// For whom a store is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// For a host, as its own: told to the other one, which has to have the values itself.
    Host,
    /// For an operator, who may ask any host.
    Operator,
}

/// The way to another host.
pub(super) struct Connections {
    host: HostUrl,
    user: User,
    authorization: Option<HeaderValue>,
    pooled: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    places: Semaphore,
    longest_answer: usize,
}

/// A request.
pub(super) struct Call {
    pub(super) method: Method,
    /// With its query, percent-encoded.
    pub(super) path: String,
    /// `If-Match` or `If-None-Match`.
    pub(super) condition: Option<(HeaderName, HeaderValue)>,
    /// The content type and the bytes.
    pub(super) body: Option<(&'static str, Bytes)>,
    /// Whether it does the same if it happens twice, with others in between.
    pub(super) repeatable: bool,
}

/// An answer. Any status is one.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Whether the body is a problem document.
    pub(super) is_problem: bool,
    /// The version in `ETag`.
    pub(super) version: Option<u64>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{PLACES} requests to it are under way, and none ended for {} s", QUEUE.as_secs())]
    Busy,
    #[error("{0}")]
    NotConnected(String),
    #[error("{0}")]
    Broken(String),
    #[error("no answer for {} s", CALL.as_secs())]
    TimedOut,
}

impl Connections {
    /// Opens none yet. Answers longer than `longest_answer` are refused.
    pub(super) fn new(host: HostUrl, user: User, token: Option<Token>, longest_answer: usize) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
        let pooled = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(PLACES)
            .build(connector.wrap_connector(tcp));
        let authorization = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
                .expect("a token is visible ASCII, which a header can have");
            value.set_sensitive(true);
            value
        });
        Self { host, user, authorization, pooled, places: Semaphore::new(PLACES), longest_answer }
    }

    /// The host it leads to.
    pub(super) fn host(&self) -> &HostUrl {
        &self.host
    }

    /// Sends a request and reads the whole answer. A request that didn't reach the host, or whose repetition does no
    /// harm, is sent a second time if the first one fails at once.
    pub(super) async fn call(&self, call: Call) -> Result<Answer, Unanswered> {
        let place = timeout(QUEUE, self.places.acquire()).await.map_err(|_| Unanswered::Busy)?;
        let _place = place.expect("the semaphore is never closed");
        let repeatable = call.repeatable;
        let request = self.request(call)?;
        let attempts = async {
            match self.attempt(request.clone()).await {
                Err(Unanswered::NotConnected(_)) => self.attempt(request).await,
                Err(Unanswered::Broken(_)) if repeatable => self.attempt(request).await,
                outcome => outcome,
            }
        };
        timeout(CALL, attempts).await.unwrap_or(Err(Unanswered::TimedOut))
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, Unanswered> {
        let mut request = Request::builder().method(call.method).uri(format!("{}{}", self.host, call.path));
        if self.user == User::Host {
            request = request.header(runtime::HOPS, HeaderValue::from_static("1"));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some((name, value)) = call.condition {
            request = request.header(name, value);
        }
        let mut body = Bytes::new();
        if let Some((content_type, bytes)) = call.body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(content_type));
            body = bytes;
        }
        request.body(body.into()).map_err(|error| Unanswered::NotConnected(error.to_string()))
    }

    async fn attempt(&self, request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        let answer = self.pooled.request(request).await.map_err(|error| {
            let reason = root_cause(&error);
            if error.is_connect() { Unanswered::NotConnected(reason) } else { Unanswered::Broken(reason) }
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.longest_answer).collect().await;
        let body = body.map_err(|error| Unanswered::Broken(root_cause(&*error)))?.to_bytes();
        let is_problem = head.headers.get(CONTENT_TYPE).is_some_and(|found| found == problem::CONTENT_TYPE);
        Ok(Answer { status: head.status, is_problem, version: head.headers.get(ETAG).and_then(wire::version), body })
    }
}

/// What an error says, without what wraps it: those repeat that a request failed.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
