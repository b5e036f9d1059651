//! HTTP/1.1 connections to other hosts, kept to be used again.
//!
//! A connection has no task of its own. Whoever has a request on it drives it, while waiting for the head of the answer
//! and while reading its body, so an answer wakes nobody but the one who waits for it. In between nobody does: that the
//! other end has closed a kept one is found out when it is taken again, or by the sweep. Only where an answer begins before
//! the request has been sent to its end, a task goes on sending, however slowly the answer is read.
//!
//! One pool for each worker. What bounds it: at most [`KEPT_PER_HOST`] connections to each host are kept, for [`KEPT`]; to
//! connect may take [`CONNECT`]; such a task gives up when nothing of the request is taken for [`BODY_IDLE`].

use std::collections::HashMap;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::task::unconstrained;
use tower_service::Service;

use super::{BODY_IDLE, path_and_query};
use crate::body::{self, Body, BodyError};

/// How long a connection may take to be made. One for all: connections are shared, so a guest can't choose.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an unused connection is kept.
const KEPT: Duration = Duration::from_secs(30);
/// How many unused connections to one host are kept.
const KEPT_PER_HOST: usize = 64;

/// Makes connections and keeps them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Inner>);

struct Inner {
    connector: Connector,
    /// Those that nobody uses, the one that was used last at the end.
    kept: Mutex<HashMap<Origin, Vec<Kept>>>,
}

type Connector = HttpsConnector<HttpConnector>;
type Stream = <Connector as Service<Uri>>::Response;

/// Where a connection leads.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Origin {
    secure: bool,
    authority: Authority,
}

struct Kept {
    connection: Box<Connection>,
    since: Instant,
}

/// Why a request has no answer.
pub(crate) enum Failure {
    /// No connection could be made; nothing was sent.
    NotConnected(Box<dyn Error + Send + Sync>),
    /// The connection broke, or what came wasn't HTTP.
    Broken(hyper::Error),
}

impl Connections {
    /// None yet. They live on the runtime on which requests are sent.
    pub(crate) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(tcp);
        Self(Arc::new(Inner { connector, kept: Mutex::default() }))
    }

    /// Sends a request to where its URI says, and returns the answer as soon as its head is there. How its body fares is
    /// noted in `progress`, which is for this request alone.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        progress: &Arc<Progress>,
    ) -> Result<Response<Body>, Failure> {
        let uri = std::mem::take(request.uri_mut());
        let Some(origin) = Origin::of(&uri) else { return Err(Failure::NotConnected("the URI names no host".into())) };
        *request.uri_mut() = path_and_query(&uri).into();
        *request.version_mut() = Version::HTTP_11;
        let mut request = request.map(|body| if body.is_end_stream() { body } else { Sending::wrap(body, progress) });
        let mut held = None;
        loop {
            let (mut connection, is_new) = match self.take(&origin) {
                Some(kept) => (kept, false),
                // Apart, as it is seldom, and large.
                None => (Box::pin(self.connect(uri.clone())).await.map_err(Failure::NotConnected)?, true),
            };
            // Not before: without a connection the request stays as it was.
            if is_body_in_doubt(&request) {
                (request, held) = settle_body(request);
            }
            match connection.exchange(request).await {
                Ok(answer) => {
                    let connections = self.clone();
                    let source = if held.is_some() || !progress.is_sending.load(Relaxed) {
                        Some((connection, origin))
                    } else {
                        let connections = connections.clone();
                        let progress = progress.clone();
                        tokio::spawn(async move {
                            tokio::select! {
                                () = connection.finish() => connections.keep(origin, connection),
                                () = progress.stalls() => {}
                            }
                        });
                        None
                    };
                    let reading =
                        |body| Reading { body, ended: false, source, connections, _held: held }.boxed_unsync();
                    return Ok(answer.map(reading));
                }
                Err(mut error) => match error.take_message() {
                    // It was closed before it saw anything of the request.
                    Some(same) if !is_new => request = same,
                    _ => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
    }

    /// Closes those that were not used for too long, or whose other end has closed them. To be called now and then.
    pub(crate) fn sweep(&self) {
        self.kept().retain(|_, kept| {
            kept.retain_mut(Kept::is_usable);
            !kept.is_empty()
        });
    }

    async fn connect(&self, uri: Uri) -> Result<Box<Connection>, Box<dyn Error + Send + Sync>> {
        let mut connector = self.0.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        let (sender, driver) = http1::handshake(connector.call(uri).await?).await?;
        Ok(Box::new(Connection { sender, driver: Some(driver) }))
    }

    fn take(&self, origin: &Origin) -> Option<Box<Connection>> {
        let mut kept = self.kept();
        let kept = kept.get_mut(origin)?;
        while let Some(mut last) = kept.pop() {
            if last.is_usable() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Keeps a connection, if the next request can be sent on it.
    fn keep(&self, origin: Origin, connection: Box<Connection>) {
        if !connection.is_idle() {
            return;
        }
        let mut kept = self.kept();
        let kept = kept.entry(origin).or_default();
        if kept.len() < KEPT_PER_HOST {
            kept.push(Kept { connection, since: Instant::now() });
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Origin, Vec<Kept>>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        Some(Self { secure: uri.scheme() == Some(&Scheme::HTTPS), authority: uri.authority()?.clone() })
    }
}

/// Whether hyper would throw a body away, if there is one: with these methods it sends none that isn't announced.
fn is_body_in_doubt(request: &Request<Body>) -> bool {
    let announced = || [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| request.headers().contains_key(name));
    matches!(*request.method(), Method::GET | Method::HEAD)
        && request.body().size_hint().exact().is_none()
        && !request.body().is_end_stream()
        && !announced()
}

/// Announces a body of which there is something by now. One of which there is nothing yet is taken to be none, as its end
/// may come after the answer; but it is returned, to be held until then: whoever still ends it is not to hear of an error.
fn settle_body(request: Request<Body>) -> (Request<Body>, Option<Body>) {
    let (mut head, mut body) = request.into_parts();
    let first = loop {
        // Not to be put off by a spent budget: what is there would be lost.
        match unconstrained(body.frame()).now_or_never() {
            // Guests write nothing, too.
            Some(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            first => break first,
        }
    };
    let (body, held) = match first {
        None => (body::empty(), Some(body)),
        Some(None) => (body::empty(), None),
        Some(Some(first)) => {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            (StreamBody::new(stream::iter([first]).chain(BodyStream::new(body))).boxed_unsync(), None)
        }
    };
    (Request::from_parts(head, body), held)
}

impl Kept {
    fn is_usable(&mut self) -> bool {
        self.connection.drive(&mut quiet());
        self.connection.is_idle() && self.since.elapsed() < KEPT
    }
}

/// A connection, and who drives it: the one who has it.
struct Connection {
    sender: SendRequest<Body>,
    /// None when it is closed.
    driver: Option<http1::Connection<Stream, Body>>,
}

impl Connection {
    /// Writes and reads what can be written and read now. If that is the end of the connection, everybody who waits for
    /// something of it hears so.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether the next request can be sent on it.
    fn is_idle(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Goes on until what is on it now is done in both directions, or it is closed.
    async fn finish(&mut self) {
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx).map(drop)
        })
        .await;
    }

    async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        // It is the connection that answers, so there is nothing to be woken for. Not to be put off by a spent budget, of
        // which only its waker would tell.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(&mut quiet())
        })
        .await
    }
}

/// How the body of one request fares.
pub(crate) struct Progress {
    begun: Instant,
    /// Milliseconds after `begun` when the last piece was taken.
    last: AtomicU64,
    is_sending: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0), is_sending: AtomicBool::new(false) }
    }

    /// When the last piece was taken; at first, when the request began.
    pub(crate) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Relaxed))
    }

    /// Returns when nothing was taken for [`BODY_IDLE`], from now on.
    async fn stalls(&self) {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep_until((since + BODY_IDLE).into()).await;
            match self.last() {
                last if last > since => since = last,
                _ => return,
            }
        }
    }
}

/// The body of a request, that tells its progress. Dropped when all of it was sent, or no more is wanted.
struct Sending {
    body: Body,
    progress: Arc<Progress>,
}

impl Sending {
    fn wrap(body: Body, progress: &Arc<Progress>) -> Body {
        progress.is_sending.store(true, Relaxed);
        Self { body, progress: progress.clone() }.boxed_unsync()
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let elapsed = u64::try_from(self.progress.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.last.store(elapsed.max(1), Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.progress.is_sending.store(false, Relaxed);
    }
}

/// The body of an answer, and the connection that it comes from.
struct Reading {
    body: Incoming,
    /// Whether its end was read.
    ended: bool,
    /// None if a task drives the connection.
    source: Option<(Box<Connection>, Origin)>,
    connections: Connections,
    /// What was not sent of the request.
    _held: Option<Body>,
}

impl HttpBody for Reading {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, ended, source, .. } = &mut *self;
        let mut body = Pin::new(body);
        let polled = match source {
            None => body.poll_frame(cx),
            Some((connection, _)) => match body.as_mut().poll_frame(&mut quiet()) {
                Poll::Ready(frame) => Poll::Ready(frame),
                Poll::Pending => {
                    // It has heard by now that more is wanted.
                    connection.drive(cx);
                    body.poll_frame(&mut quiet())
                }
            },
        };
        if let Poll::Ready(None) = &polled {
            *ended = true;
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives the connection back, if the answer was read to its end.
impl Drop for Reading {
    fn drop(&mut self) {
        if let Some((mut connection, origin)) = self.source.take()
            && (self.ended || self.body.is_end_stream())
        {
            connection.drive(&mut quiet());
            self.connections.keep(origin, connection);
        }
    }
}

/// For polls of what nobody but the poller can make ready.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;

    /// Answers each connection's requests with these texts in turn and then closes it. Tells of each connection.
    async fn server(answers: Vec<&'static str>) -> (String, mpsc::UnboundedReceiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/path?query", listener.local_addr().expect("it is bound"));
        let (accepted, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                let _ = accepted.send(());
                tokio::spawn(answer(stream, answers.clone()));
            }
        });
        (url, connections)
    }

    async fn answer(mut stream: TcpStream, answers: Vec<&'static str>) {
        for answer in answers {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            assert!(head.starts_with(b"GET /path?query HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
        }
    }

    const TWO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

    async fn ask(connections: &Connections, url: &str) -> Result<Response<Body>, Failure> {
        send(connections, Request::get(url).body(body::empty()).expect("a request")).await
    }

    async fn send(connections: &Connections, request: Request<Body>) -> Result<Response<Body>, Failure> {
        connections.send(request, &Arc::new(Progress::new())).await
    }

    async fn text(answer: Result<Response<Body>, Failure>) -> Bytes {
        let Ok(answer) = answer else { panic!("there is an answer") };
        answer.into_body().collect().await.expect("a whole body").to_bytes()
    }

    fn count(connections: &mut mpsc::UnboundedReceiver<()>) -> usize {
        std::iter::from_fn(|| connections.try_recv().ok()).count()
    }

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let (url, mut accepted) = server(vec![TWO, CHUNKED, TWO]).await;
        let connections = Connections::new();
        for _ in 0..3 {
            assert_eq!(text(ask(&connections, &url).await).await, "ok");
        }
        assert_eq!(count(&mut accepted), 1);
    }

    #[tokio::test]
    async fn one_that_was_closed_is_replaced() {
        let (url, mut accepted) = server(vec![TWO]).await;
        let connections = Connections::new();
        for _ in 0..3 {
            assert_eq!(text(ask(&connections, &url).await).await, "ok");
            // Until the end of the connection has been seen.
            while connections.kept().values().any(|kept| !kept.is_empty()) {
                tokio::task::yield_now().await;
                connections.sweep();
            }
        }
        assert_eq!(count(&mut accepted), 3);
    }

    #[tokio::test]
    async fn one_with_an_answer_that_was_not_read_is_closed() {
        let (url, mut accepted) = server(vec![TWO, TWO]).await;
        let connections = Connections::new();
        drop(ask(&connections, &url).await);
        assert!(connections.kept().is_empty());
        assert_eq!(text(ask(&connections, &url).await).await, "ok");
        assert_eq!(count(&mut accepted), 2);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_does_not_hold_up_the_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.expect("a request");
            stream.write_all(TWO.as_bytes()).await.expect("the client reads");
            let mut rest = Vec::new();
            while !rest.ends_with(b"the end") {
                assert_ne!(stream.read_buf(&mut rest).await.expect("the client sends"), 0);
            }
        });
        let (mut more, pieces) = futures::channel::mpsc::channel(1);
        let body = StreamBody::new(pieces).boxed_unsync();
        let request = Request::post(&url).header("content-length", 7).body(body).expect("a request");
        let Ok(answer) = send(&Connections::new(), request).await else { panic!("there is an answer") };
        for piece in ["the ", "end"] {
            let frame = Ok(Frame::data(Bytes::from(piece)));
            futures::SinkExt::send(&mut more, frame).await.expect("it goes on");
        }
        server.await.expect("it hears the end");
        drop(more);
        assert_eq!(text(Ok(answer)).await, "ok");
    }

    /// hyper sends a body with `GET` only if its head says so.
    #[tokio::test]
    async fn a_body_that_was_not_announced_is_sent_with_any_method() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let without = "GET / HTTP/1.1\r\n\r\n";
        let with = "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n";
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            for expected in [without, without, with] {
                let mut request = vec![0; expected.len()];
                stream.read_exact(&mut request).await.expect("the client sends");
                assert_eq!(String::from_utf8_lossy(&request), expected);
                stream.write_all(TWO.as_bytes()).await.expect("the client reads");
            }
        });
        let connections = Connections::new();
        for (pieces, ends) in [(vec![""], true), (vec![], false), (vec!["", "words"], true)] {
            let frames = stream::iter(pieces).map(|piece| Ok(Frame::data(Bytes::from(piece))));
            let rest = if ends { stream::empty().left_stream() } else { stream::pending().right_stream() };
            let body = StreamBody::new(frames.chain(rest)).boxed_unsync();
            assert_eq!(text(send(&connections, Request::get(&url).body(body).expect("a request")).await).await, "ok");
        }
        server.await.expect("that is what came");
    }

    #[tokio::test]
    async fn what_breaks_off_is_an_error() {
        let (url, _) = server(vec!["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno"]).await;
        let connections = Connections::new();
        let Ok(answer) = ask(&connections, &url).await else { panic!("there is a head") };
        assert!(answer.into_body().collect().await.is_err());
        let (url, _) = server(vec![]).await;
        assert!(matches!(ask(&connections, &url).await, Err(Failure::Broken(_))));
        assert!(connections.kept().is_empty());
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_a_broken_connection() {
        let url = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            format!("http://{}/", listener.local_addr().expect("it is bound"))
        };
        let connections = Connections::new();
        assert!(matches!(ask(&connections, &url).await, Err(Failure::NotConnected(_))));
    }
}
