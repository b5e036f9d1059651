//! Bodies of requests: how many bytes they may have, one by one and together; and those that are JSON objects, whose
//! complaints name the field.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use problem::{Code, Problem};
use registry::Namespace;
use runtime::PIECE;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Failure;
use crate::linger::linger;

/// Most bytes of a body, but for values and batches of them.
pub(super) const LIMIT: usize = 64 << 10;

/// For a body to arrive, and for room for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The namespace of a request that names none.
const DEFAULT_NAMESPACE: &str = "storage";

/// The fields of a JSON object. Unknown ones are passed over, unless [`Fields::expect_only`] is asked.
pub(super) struct Fields(Map<String, Value>);

impl<S: Sync> FromRequest<S> for Fields {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        Self::of_json(content_type, &read_fields(request.into_body()).await?)
    }
}

/// No fields if there is no body.
impl<S: Sync> OptionalFromRequest<S> for Fields {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, Failure> {
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        let body = read_fields(request.into_body()).await?;
        if body.is_empty() { Ok(None) } else { Self::of_json(content_type, &body).map(Some) }
    }
}

async fn read_fields(body: Body) -> Result<Bytes, Problem> {
    read(body, LIMIT, TIMEOUT, Pace::Fast).await.map_err(|unread| match unread {
        Unread::TooLong(_) => Problem::new(Code::BodyTooLarge, format!("the body has more than {LIMIT} bytes")),
        Unread::Failed(problem) => problem,
    })
}

/// The most that [`read`] will hold of a body.
pub(super) fn most(body: &Body, limit: usize) -> usize {
    let announced = body.size_hint().upper().and_then(|upper| usize::try_from(upper).ok());
    announced.map_or(limit, |announced| announced.min(limit))
}

/// Why there is no body.
pub(super) enum Unread {
    /// It has more bytes than it may: so many, or at least so many.
    TooLong(usize),
    /// It didn't arrive.
    Failed(Problem),
}

/// How fast a body is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As it comes.
    Fast,
    /// With a rest after each [`PIECE`]: megabytes that come as fast as they can keep a core busy, for which workers wait.
    Gentle,
}

/// A rest of [`Pace::Gentle`]. It leaves a hundred megabytes a second and more.
const REST: Duration = Duration::from_millis(1);

/// Reads a body of at most `limit` bytes. What is left of a longer one is read on for a while, see [`linger`].
pub(super) async fn read(body: Body, limit: usize, timeout: Duration, pace: Pace) -> Result<Bytes, Unread> {
    tokio::time::timeout(timeout, collect(body, limit, pace)).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", timeout.as_secs());
        Err(Unread::Failed(Problem::new(Code::RequestTimeout, detail)))
    })
}

async fn collect(mut body: Body, limit: usize, pace: Pace) -> Result<Bytes, Unread> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        linger(body);
        return Err(Unread::TooLong(announced));
    }
    let mut held = BytesMut::with_capacity(announced);
    let mut rested = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Failed(Problem::new(Code::InvalidRequest, "the body ended early")))?;
        let Ok(data) = frame.into_data() else { continue };
        if held.len() + data.len() > limit {
            linger(body);
            return Err(Unread::TooLong(held.len() + data.len()));
        }
        held.extend_from_slice(&data);
        if pace == Pace::Gentle && held.len() - rested >= PIECE {
            tokio::time::sleep(REST).await;
            rested = held.len();
        }
    }
    Ok(held.freeze())
}

/// The memory for bodies of one kind, of requests and answers, of more than [`LIMIT`] bytes, for all of them together.
pub(super) struct Room {
    free: Arc<Semaphore>,
    /// How many pieces of [`LIMIT`] bytes there are.
    pieces: usize,
}

impl Room {
    /// Room for `bytes`, which must be enough for the largest body.
    pub(super) fn new(bytes: usize) -> Self {
        let pieces = bytes / LIMIT;
        Room { free: Arc::new(Semaphore::new(pieces)), pieces }
    }

    /// Waits until there is room for `bytes` of a body. It is the body's until the permit is dropped.
    pub(super) async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let pieces = if bytes > LIMIT { bytes.div_ceil(LIMIT).min(self.pieces) } else { 0 };
        let pieces = u32::try_from(pieces).expect("a room has some thousand pieces");
        match tokio::time::timeout(TIMEOUT, self.free.clone().acquire_many_owned(pieces)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(Problem::new(Code::Overloaded, "too many large bodies at once").retry_after(1)),
        }
    }
}

/// An answer's body that has taken room. Sent piece by piece, because a body is dropped when its last piece is taken, not
/// when that is sent.
pub(super) struct Housed {
    rest: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Housed {
    pub(super) fn new(bytes: Bytes, room: OwnedSemaphorePermit) -> Self {
        Housed { rest: bytes, _room: room }
    }
}

impl HttpBody for Housed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.rest.len().min(LIMIT);
        Poll::Ready((next > 0).then(|| Ok(Frame::data(self.rest.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Fields {
    fn of_json(content_type: Option<HeaderValue>, body: &[u8]) -> Result<Self, Failure> {
        problem::kv::check_content_type(content_type.as_ref().map(HeaderValue::as_bytes))?;
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Problem::new(Code::InvalidRequest, "the body must be a JSON object").into()),
            Err(error) => Err(Problem::new(Code::InvalidJson, error.to_string()).into()),
        }
    }

    /// The string `name`, as `T` parses it.
    pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, Problem> {
        let text = self.string(name)?.ok_or_else(|| missing(name))?;
        text.parse().map_err(|error| invalid(format!("the field \"{name}\" is not valid: {error}")))
    }

    /// The namespace, `storage` if there is none.
    pub(super) fn namespace(&self) -> Result<Namespace, Problem> {
        if self.string("namespace")?.is_none() {
            return Ok(DEFAULT_NAMESPACE.parse().expect("the default is a namespace"));
        }
        self.parse("namespace")
    }

    /// The number `port`.
    pub(super) fn port(&self) -> Result<u16, Problem> {
        match self.0.get("port") {
            None | Some(Value::Null) => Err(missing("port")),
            Some(value) => value
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| invalid("the field \"port\" must be a number from 1 to 65535".to_owned())),
        }
    }

    /// Refuses fields other than `name`.
    pub(super) fn expect_only(&self, name: &str) -> Result<(), Problem> {
        match self.0.keys().find(|field| *field != name) {
            None => Ok(()),
            Some(field) => Err(invalid(format!("the field {field:?} is not known; the only one is \"{name}\""))),
        }
    }

    /// The string `name`, if it is there.
    pub(super) fn string(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("the field \"{name}\" must be a string"))),
        }
    }
}

fn missing(name: &str) -> Problem {
    invalid(format!("the field \"{name}\" is missing"))
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}
