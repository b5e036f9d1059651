//! A tape: what one live run received from outside, and its replay for the run after it.
//!
//! A [`Tape`] lives as long as one live run, a [`Replay`] as long as the rehearsed run of the same request. The tape lets
//! everything through; the replay lets nothing out: the store is an [`Overlay`], and a request is answered by what the
//! live run received for the same method, URI and body, each once and in their order, or else refused and counted.
//! Headers of such requests are not compared: they hold ids and times.
//!
//! What bounds a tape: [`MAX_EXCHANGES`], [`MAX_BODY`](super::tap::MAX_BODY) for each body, and [`store::Recording`]'s
//! bounds. What is beyond them makes the sample useless ([`Skip`]); the live run never notices.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use store::{FirstValues, Limits, Overlay, Recording, Store};

use super::findings::Skip;
use super::tap::{self, Tap, Tapped};
use crate::body::{self, Body, BodyError, answer_length, content_length};
use crate::outbound::origin;

/// Requests that a live run may send.
const MAX_EXCHANGES: usize = 32;
/// Bytes that the store of a rehearsed run may hold.
const OVERLAY: u64 = 64 << 20;
/// How long a rehearsed run may take to send the body of a request. Its answer can't begin before: it is found by the body.
const SENDING: Duration = Duration::from_secs(2);

/// Remembers what a live run receives.
pub(crate) struct Tape {
    recording: Arc<Recording>,
    exchanges: Mutex<Vec<Recorded>>,
}

/// A request that the live run sent.
struct Recorded {
    method: Method,
    uri: Uri,
    body: Tap,
    /// Unset while it waits.
    answer: Option<RecordedAnswer>,
}

enum RecordedAnswer {
    Head { status: StatusCode, headers: HeaderMap, body: Tap },
    Failed(BodyError),
}

/// What a tape holds in the end.
#[derive(Default)]
pub(crate) struct World {
    first_values: FirstValues,
    exchanges: Vec<Exchange>,
}

/// A request whose answer is known.
struct Exchange {
    method: Method,
    uri: Uri,
    body: Bytes,
    /// Whether that is all of it. Otherwise the other side has answered without reading on.
    all: bool,
    answer: Answer,
}

enum Answer {
    /// `whole`: the body ends after these bytes. Otherwise it is not known how it goes on.
    Head {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
        whole: bool,
    },
    Failed(BodyError),
}

impl Tape {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { recording: Arc::new(Recording::new(store)), exchanges: Mutex::default() }
    }

    /// The store, for the live run.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.recording.clone()
    }

    /// Lets the live run send a request.
    pub(crate) async fn record(
        &self,
        request: Request<Body>,
        send: impl AsyncFnOnce(Request<Body>) -> Result<Response<Body>, BodyError>,
    ) -> Result<Response<Body>, BodyError> {
        let (head, body) = request.into_parts();
        let (tap, body) = Tap::attach(body, content_length(&head.headers));
        let recorded = Recorded { method: head.method.clone(), uri: head.uri.clone(), body: tap, answer: None };
        let index = {
            let mut exchanges = self.exchanges();
            // One too many is kept to know that there was one.
            if exchanges.len() <= MAX_EXCHANGES {
                exchanges.push(recorded);
            }
            exchanges.len() - 1
        };
        let method = head.method.clone();
        let (kept, answer) = match send(Request::from_parts(head, body)).await {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let length = answer_length(&method, head.status, &head.headers);
                let (tap, body) = Tap::attach(body, length);
                let kept = RecordedAnswer::Head { status: head.status, headers: head.headers.clone(), body: tap };
                (kept, Ok(Response::from_parts(head, body)))
            }
            Err(error) => (RecordedAnswer::Failed(alike(&error)), Err(error)),
        };
        self.exchanges()[index].answer = Some(kept);
        answer
    }

    /// What is on the tape now. What the live run does from here on is not.
    ///
    /// # Errors
    /// It did not all fit.
    pub(crate) fn play(&self) -> Result<World, Skip> {
        let first_values = self.recording.first_values().map_err(Skip::Store)?;
        let recorded = self.exchanges();
        if recorded.len() > MAX_EXCHANGES {
            return Err(Skip::TooManyRequests);
        }
        let mut exchanges = Vec::new();
        for Recorded { method, uri, body, answer } in &*recorded {
            // Without an answer: the live run lost interest in it.
            let Some(answer) = answer else { continue };
            let answer = answer.play()?;
            let (method, uri) = (method.clone(), uri.clone());
            match body.tapped() {
                Tapped::Whole(body) => exchanges.push(Exchange { method, uri, body, all: true, answer }),
                Tapped::Part(body) => exchanges.push(Exchange { method, uri, body, all: false, answer }),
                Tapped::TooLarge => return Err(Skip::OutgoingTooLarge),
            }
        }
        drop(recorded);
        Ok(World { first_values, exchanges })
    }

    fn exchanges(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordedAnswer {
    fn play(&self) -> Result<Answer, Skip> {
        let (status, headers, body) = match self {
            Self::Failed(error) => return Ok(Answer::Failed(alike(error))),
            Self::Head { status, headers, body } => (*status, headers.clone(), body),
        };
        match body.tapped() {
            Tapped::Whole(body) => Ok(Answer::Head { status, headers, body, whole: true }),
            Tapped::Part(body) => Ok(Answer::Head { status, headers, body, whole: false }),
            Tapped::TooLarge => Err(Skip::OutgoingTooLarge),
        }
    }
}

/// Stands for everything outside of a rehearsed run.
pub(crate) struct Replay {
    overlay: Arc<Overlay>,
    /// Those that were not asked for yet.
    exchanges: Mutex<Vec<Exchange>>,
    /// The requests that were refused.
    refused: Mutex<Vec<String>>,
}

impl Replay {
    /// Of this world, over the store that it was taped on.
    pub(crate) fn new(world: World, store: Arc<dyn Store>) -> Self {
        let limits = Limits { total: OVERLAY, ..Limits::default() };
        Self {
            overlay: Arc::new(Overlay::new(store, world.first_values, limits)),
            exchanges: Mutex::new(world.exchanges),
            refused: Mutex::default(),
        }
    }

    /// The store, for the rehearsed run.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.overlay.clone()
    }

    /// Whether the run needed more than an overlay holds.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.overlay.is_exhausted()
    }

    /// The requests that were refused, as `METHOD URI`; at most [`MAX_EXCHANGES`] of them.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a request, or refuses it.
    ///
    /// # Errors
    /// As the live run's, or [`BodyError::HttpRequestDenied`] if it sent none like it.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, BodyError> {
        let (head, body) = request.into_parts();
        let sent = tokio::time::timeout(SENDING, tap::collect(body, content_length(&head.headers))).await;
        let found = match sent {
            Ok(Tapped::Whole(body)) => self.take(&head.method, &head.uri, &body),
            Ok(Tapped::Part(_) | Tapped::TooLarge) | Err(_) => None,
        };
        match found {
            Some(Answer::Head { status, headers, body, whole }) => {
                let mut answer = Response::new(if whole { body::full(body) } else { breaking_off(body) });
                *answer.status_mut() = status;
                *answer.headers_mut() = headers;
                Ok(answer)
            }
            Some(Answer::Failed(error)) => Err(error),
            None => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                if refused.len() < MAX_EXCHANGES {
                    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
                    refused.push(format!("{} {}{path}", head.method, origin(&head.uri)));
                }
                Err(BodyError::HttpRequestDenied)
            }
        }
    }

    fn take(&self, method: &Method, uri: &Uri, body: &Bytes) -> Option<Answer> {
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let index = exchanges.iter().position(|exchange| exchange.is_answer_to(method, uri, body))?;
        Some(exchanges.remove(index).answer)
    }
}

/// A body that fails after these bytes.
fn breaking_off(bytes: Bytes) -> Body {
    let frames = [Ok(Frame::data(bytes)), Err(BodyError::ConnectionTerminated)];
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

impl Exchange {
    /// Whether the other side, which knows only what it has read, would answer a request the same.
    fn is_answer_to(&self, method: &Method, uri: &Uri, body: &[u8]) -> bool {
        let same_body = if self.all { self.body == body } else { body.starts_with(&self.body) };
        self.method == *method && self.uri == *uri && same_body
    }
}

/// An error that a guest can't tell from this one, as far as the two are common.
fn alike(error: &BodyError) -> BodyError {
    match error {
        BodyError::HttpRequestDenied => BodyError::HttpRequestDenied,
        BodyError::ConnectionRefused => BodyError::ConnectionRefused,
        BodyError::ConnectionTimeout => BodyError::ConnectionTimeout,
        BodyError::ConnectionReadTimeout => BodyError::ConnectionReadTimeout,
        BodyError::DestinationUnavailable => BodyError::DestinationUnavailable,
        _ => BodyError::ConnectionTerminated,
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;
    use store::{Bucket, MemoryStore};

    use super::super::tap::MAX_BODY;
    use super::*;

    fn request(method: Method, uri: &str, body: &'static str) -> Request<Body> {
        Request::builder().method(method).uri(uri).body(body::full(body)).expect("a test's request")
    }

    fn tape() -> (Tape, Arc<dyn Store>) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        (Tape::new(store.clone()), store)
    }

    /// The live run sends this, reads it all, and the other side does so too.
    async fn live(tape: &Tape, request: Request<Body>, answer: impl Into<Bytes>) -> Result<Bytes, BodyError> {
        let answer = tape
            .record(request, async |request| {
                request.into_body().collect().await?;
                Ok(Response::builder().header("x", "y").body(body::full(answer)).expect("a test's answer"))
            })
            .await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    async fn replayed(replay: &Replay, request: Request<Body>) -> Result<Bytes, BodyError> {
        let answer = replay.answer(request).await?;
        assert_eq!(answer.headers()["x"], "y");
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn what_was_received_is_received_again_once_and_in_order() {
        let (tape, store) = tape();
        let get = || request(Method::GET, "http://a/b", "");
        let post = |body| request(Method::POST, "http://a/b", body);
        for (request, answer) in [(get(), "1"), (post("x"), "2"), (get(), "3"), (post("y"), "4")] {
            assert_eq!(live(&tape, request, answer).await.expect("an answer"), answer);
        }
        let replay = Replay::new(tape.play().expect("it fits"), store);
        for (request, answer) in [(post("y"), "4"), (get(), "1"), (get(), "3"), (post("x"), "2")] {
            assert_eq!(replayed(&replay, request).await.expect("an answer"), answer);
        }
        assert!(replay.refused().is_empty());
        let others =
            [get(), post("z"), request(Method::PUT, "http://u:pw@a/b", ""), request(Method::GET, "http://a/c", "")];
        for request in others {
            assert!(matches!(replayed(&replay, request).await, Err(BodyError::HttpRequestDenied)));
        }
        assert_eq!(replay.refused(), ["GET http://a/b", "POST http://a/b", "PUT http://a/b", "GET http://a/c"]);
    }

    #[tokio::test]
    async fn who_answers_before_the_end_answers_whatever_comes_after() {
        let (tape, store) = tape();
        let post = |body| request(Method::POST, "http://a/", body);
        let answered = tape.record(post("unread"), async |_| Ok(Response::new(body::full("no")))).await;
        answered.expect("an answer").into_body().collect().await.expect("a body of bytes");
        let replay = Replay::new(tape.play().expect("it fits"), store);
        replay.answer(post("anything")).await.expect("the same answer");
    }

    #[tokio::test]
    async fn failures_are_received_again_too() {
        let (tape, store) = tape();
        let get = || request(Method::GET, "http://a/", "");
        let failed = tape.record(get(), async |_| Err(BodyError::ConnectionRefused)).await;
        assert!(matches!(failed, Err(BodyError::ConnectionRefused)));
        let answer = tape
            .record(get(), async |_| {
                Ok(Response::builder().header("x", "y").body(breaking_off("ab".into())).expect("an answer"))
            })
            .await
            .expect("an answer");
        answer.into_body().collect().await.expect_err("it breaks off");

        let replay = Replay::new(tape.play().expect("it fits"), store);
        assert!(matches!(replayed(&replay, get()).await, Err(BodyError::ConnectionRefused)));
        let mut body = replay.answer(get()).await.expect("an answer").into_body();
        let first = body.frame().await.expect("a frame").expect("of bytes");
        assert_eq!(first.into_data().expect("of bytes"), "ab");
        assert!(matches!(body.frame().await, Some(Err(BodyError::ConnectionTerminated))));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_said_and_the_live_run_goes_on() {
        let get = || request(Method::GET, "http://a/", "");
        let (large, _) = tape();
        let bytes = vec![0; MAX_BODY + 1];
        assert_eq!(live(&large, get(), bytes.clone()).await.expect("an answer").len(), bytes.len());
        assert!(matches!(large.play(), Err(Skip::OutgoingTooLarge)));

        let (many, _) = tape();
        for _ in 0..MAX_EXCHANGES {
            live(&many, get(), "").await.expect("an answer");
        }
        for _ in 0..3 {
            assert_eq!(live(&many, get(), "still").await.expect("an answer"), "still");
        }
        assert!(matches!(many.play(), Err(Skip::TooManyRequests)));
    }

    #[test]
    fn a_replay_keeps_its_writes() {
        let (tape, store) = tape();
        let main = Bucket::default();
        block_on(async {
            tape.store().increment(&main, "n", 1).await.expect("increment");
            let replay = Replay::new(tape.play().expect("it fits"), store.clone());
            assert_eq!(replay.store().increment(&main, "n", 1).await, Ok(1));
            assert_eq!(store.increment(&main, "n", 0).await, Ok(1));
        });
    }
}
