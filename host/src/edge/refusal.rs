//! The answer to a request that can't be read.
//!
//! hyper gives it by itself, a head and nothing else, and asks nobody. So [`Refusing`] sits between hyper and the socket and
//! writes a problem document in its place. It knows hyper's own answers by [`Turns`]: there is one when no request is being
//! answered and the last answer has left to its last byte. Where that isn't certain, hyper's bytes go out as they are.
//!
//! Bounded by one document for each connection, whose last answer it is.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, Uri};
use problem::{Code, Problem};
use runtime::Worker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::Exchange;
use super::{Edge, request_id};

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// What the metrics and the log are told of a method that couldn't be read.
const UNKNOWN: &[u8] = b"-";

/// The requests that a connection has brought, all told on its worker.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that is being answered, until the connection has taken the last of its answer.
pub(super) struct Turn(Arc<Counts>);

impl Turns {
    pub(super) fn begin(&self) -> Turn {
        self.0.begun.fetch_add(1, Relaxed);
        Turn(self.0.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

/// Answers a request of which nothing is known, and counts and logs it like any other.
pub(super) fn answer(edge: &Arc<Edge>, worker: &Worker, code: Code) -> Response<Vec<u8>> {
    let limits = &edge.limits;
    let detail = match code {
        Code::UriTooLong => "the request's target is too long".to_owned(),
        Code::HeadersTooLarge => format!(
            "the request has more than {} headers, or its head is larger than {} bytes",
            limits.headers, limits.head_bytes
        ),
        _ => "this can't be read as HTTP/1.1: look at the first line, the names of headers and the length".to_owned(),
    };
    let id = request_id::choose(None);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(UNKNOWN).expect("a dash is allowed in a method");
    *request.uri_mut() = Uri::from_static("*");
    let mut exchange = Exchange::begin(edge, worker, &request, &id);
    exchange.answered_here(edge.unrouted);
    let mut answer: Response<Vec<u8>> = Problem::new(code, detail).into_response();
    answer.headers_mut().insert(request_id::NAME, id);
    exchange.answered(&answer);
    exchange.sent(answer.body());
    exchange.ended();
    answer
}

/// A connection whose own refusals get a body.
pub(super) struct Refusing<S, F> {
    stream: S,
    turns: Turns,
    /// How many answers have left to their last byte.
    left: u64,
    answer: F,
    /// What is written in place of hyper's head, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S: AsyncWrite + Unpin, F: Fn(Code) -> Response<Vec<u8>>> Refusing<S, F> {
    /// Asks `answer` for what is said to a request that can't be read.
    pub(super) fn new(stream: S, turns: Turns, answer: F) -> Self {
        Self { stream, turns, left: 0, answer, instead: None }
    }

    /// Whether what is written now can't be a part of any answer of ours.
    fn is_nobodys_turn(&self) -> bool {
        self.left == self.turns.0.begun.load(Relaxed)
    }

    /// Writes an answer in place of hyper's `head`. Ready when it is written to its end.
    fn write_instead(&mut self, cx: &mut Context<'_>, head: &[u8], code: Code) -> Poll<io::Result<usize>> {
        let (answer, written) = self.instead.get_or_insert_with(|| (merge(head, (self.answer)(code)), 0));
        while *written < answer.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &answer[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        Poll::Ready(Ok(head.len()))
    }
}

/// What is wrong with a request, if these bytes are a head, and nothing else, that refuses one.
fn refusal(bytes: &[u8]) -> Option<Code> {
    let status = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let code = match status {
        b"400" => Code::InvalidRequest,
        b"414" => Code::UriTooLong,
        b"431" => Code::HeadersTooLarge,
        _ => return None,
    };
    let end = bytes.windows(END.len()).position(|window| window == END)?;
    (end + END.len() == bytes.len()).then_some(code)
}

/// The lines of hyper's head but the length of its body, which is none, and then all of the answer.
fn merge(head: &[u8], answer: Response<Vec<u8>>) -> Vec<u8> {
    let mut merged = Vec::with_capacity(head.len() + answer.body().len() + 256);
    for line in head[..head.len() - END.len()].split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b"content-length:") {
            merged.extend_from_slice(line.trim_ascii_end());
            merged.extend_from_slice(b"\r\n");
        }
    }
    for (name, value) in answer.headers() {
        // Writing to a Vec can't fail.
        let _ = write!(merged, "{name}: ");
        merged.extend_from_slice(value.as_bytes());
        merged.extend_from_slice(b"\r\n");
    }
    merged.extend_from_slice(b"\r\n");
    merged.extend_from_slice(answer.body());
    merged
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for Refusing<S, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, F: Fn(Code) -> Response<Vec<u8>> + Unpin> AsyncWrite for Refusing<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_nobodys_turn()
            && let Some(code) = refusal(bytes)
        {
            return self.write_instead(cx, bytes, code);
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_nobodys_turn() {
            let mut filled = bytes.iter().filter(|bytes| !bytes.is_empty());
            if let (Some(head), None) = (filled.next(), filled.next()) {
                return self.poll_write(cx, head);
            }
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes when it has written all it has.
        let ended = self.turns.0.ended.load(Relaxed);
        self.left = ended;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: today\r\n\r\n";
    const INSTEAD: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ndate: today\r\nx: invalid_request\r\n\r\nwrong";

    type Answer = fn(Code) -> Response<Vec<u8>>;

    /// A connection that buffers so many bytes, and its other end.
    fn connection(turns: &Turns, buffered: usize) -> (Refusing<DuplexStream, Answer>, DuplexStream) {
        let answer: Answer = |code| {
            let answer = Response::builder().header("x", code.as_str()).body(b"wrong".to_vec());
            answer.expect("it is valid")
        };
        let (stream, client) = duplex(buffered);
        (Refusing::new(stream, turns.clone(), answer), client)
    }

    async fn rest(connection: Refusing<DuplexStream, Answer>, mut client: DuplexStream) -> Vec<u8> {
        drop(connection);
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.expect("it ends");
        all
    }

    #[test]
    fn only_a_head_alone_that_refuses_a_request_is_one() {
        assert_eq!(refusal(HEAD), Some(Code::InvalidRequest));
        assert_eq!(refusal(b"HTTP/1.0 414 URI Too Long\r\n\r\n"), Some(Code::UriTooLong));
        for other in [
            &b""[..],
            b"HTTP/1.1 4",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\nbody",
            b"a body with HTTP/1.1 400 Bad Request\r\n\r\n",
        ] {
            assert_eq!(refusal(other), None, "{}", other.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_refusal_gets_a_body_however_slowly_it_is_read() {
        for buffered in [1, 7, 1000] {
            let (mut connection, mut client) = connection(&Turns::default(), buffered);
            let mut read = Vec::new();
            let write = async {
                connection.write_all(HEAD).await.expect("somebody reads");
                drop(connection);
            };
            let (_, all) = tokio::join!(write, client.read_to_end(&mut read));
            all.expect("it ends");
            assert_eq!(read.escape_ascii().to_string(), INSTEAD.escape_ascii().to_string());
        }
    }

    #[tokio::test]
    async fn what_may_belong_to_an_answer_stays_as_it_is() {
        let turns = Turns::default();
        let (mut connection, client) = connection(&turns, 1000);
        let turn = turns.begin();
        connection.write_all(HEAD).await.expect("there is room");
        connection.flush().await.expect("it is open");
        let written = connection.write_vectored(&[IoSlice::new(HEAD)]).await.expect("there is room");
        assert_eq!(written, HEAD.len());
        drop(turn);
        // Its last bytes may not have left.
        connection.write_all(HEAD).await.expect("there is room");
        connection.flush().await.expect("it is open");
        let written = connection.write_vectored(&[IoSlice::new(b""), IoSlice::new(HEAD)]).await.expect("there is room");
        assert_eq!(written, HEAD.len());
        let expected = [HEAD, HEAD, HEAD, INSTEAD].concat();
        assert_eq!(rest(connection, client).await.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}
