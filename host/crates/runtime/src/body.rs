//! Bodies as they pass through: what a guest's answer holds on to, and how to keep a request for a second attempt.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::WasiBody;

/// The body of a request or an answer: frames of bytes as they come, never collected.
pub type Body = WasiBody;
/// What can go wrong while a body flows.
pub type BodyError = wasmtime_wasi_http::Error;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The body of no bytes.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// How many bytes a body has, if its head says so.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The same of an answer to a request with this method: some have no body by definition, and nobody reads it.
pub fn answer_length(method: &Method, status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let bodiless = *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless { Some(0) } else { content_length(headers) }
}

/// How a body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The last frame has left.
    Complete,
    /// Whoever produced it failed.
    Failed,
    /// Whoever read it lost interest.
    Dropped,
}

/// Told, once, how a body came to its end.
pub(crate) trait Ending: Send + Unpin + 'static {
    /// This is how.
    fn ended(&mut self, end: End);

    /// Whether whoever produces it has ended before it was done.
    fn is_broken(&self) -> bool {
        false
    }

    /// The body stands still, and its reader is to be woken should it [break](Self::is_broken).
    fn stands_still(&self, _reader: &Waker) {}
}

/// Frames that whoever broke off may have produced before. Guests have no more than two under way.
const LAST_FRAMES: u8 = 4;

/// A body that tells an [`Ending`] what became of it.
pub(crate) struct Watched<E: Ending> {
    body: Body,
    ending: Option<E>,
    /// Bytes still to come, if that is known. Whoever reads the body stops after the last one and doesn't ask for an end.
    left: Option<u64>,
    /// How many more frames are let through if it is broken.
    last_frames: u8,
}

impl<E: Ending> Watched<E> {
    /// Wraps a body of `length` bytes, or of an unknown length. If there is nothing left to flow, reports its end and
    /// returns it as it is.
    pub(crate) fn wrap(body: Body, length: Option<u64>, mut ending: E) -> Body {
        let left = length.or(body.size_hint().exact());
        if left == Some(0) || (body.is_end_stream() && !ending.is_broken()) {
            ending.ended(End::Complete);
            return body;
        }
        Self { body, ending: Some(ending), left, last_frames: LAST_FRAMES }.boxed_unsync()
    }

    fn is_broken(&self) -> bool {
        self.ending.as_ref().is_some_and(E::is_broken)
    }

    fn break_off(&mut self) -> BodyError {
        self.end(End::Failed);
        BodyError::ConnectionTerminated
    }

    fn end(&mut self, end: End) {
        if let Some(mut ending) = self.ending.take() {
            ending.ended(end);
        }
    }
}

impl<E: Ending> HttpBody for Watched<E> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.ending.as_ref().inspect(|ending| ending.stands_still(cx.waker()));
            return if self.is_broken() { Poll::Ready(Some(Err(self.break_off()))) } else { Poll::Pending };
        };
        match &frame {
            Some(Ok(frame)) => {
                if self.is_broken() {
                    let Some(left) = self.last_frames.checked_sub(1) else {
                        return Poll::Ready(Some(Err(self.break_off())));
                    };
                    self.last_frames = left;
                }
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(bytes));
                if self.left == Some(0) || self.is_end_stream() {
                    self.end(End::Complete);
                }
            }
            None if self.is_broken() => return Poll::Ready(Some(Err(self.break_off()))),
            None => self.end(End::Complete),
            Some(Err(_)) => self.end(End::Failed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.is_broken()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<E: Ending> Drop for Watched<E> {
    fn drop(&mut self) {
        self.end(if self.is_end_stream() { End::Complete } else { End::Dropped });
    }
}

/// Bytes of a body that are read ahead.
const AHEAD: usize = 16 << 10;

/// A body of which what was there has been read before anybody wanted it, so that its producer is rid of it.
struct ReadAhead {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// What is still to be read, if anything is.
    rest: Option<Body>,
}

/// Reads what is there of a body, up to some [`AHEAD`] bytes, and says whether that was all of it.
pub(crate) fn read_ahead(mut body: Body) -> (Body, bool) {
    let (mut frames, mut bytes) = (VecDeque::new(), 0);
    let whole = loop {
        if body.is_end_stream() {
            break true;
        }
        if bytes >= AHEAD {
            break false;
        }
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                frames.push_back(Ok(frame));
            }
            Poll::Ready(Some(Err(error))) => {
                frames.push_back(Err(error));
                break false;
            }
            Poll::Ready(None) => break true,
            Poll::Pending => break false,
        }
    };
    (ReadAhead { frames, rest: (!whole).then_some(body) }.boxed_unsync(), whole)
}

impl HttpBody for ReadAhead {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (self.frames.pop_front(), &mut self.rest) {
            (Some(frame), _) => Poll::Ready(Some(frame)),
            (None, Some(rest)) => Pin::new(rest).poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.frames.iter().flatten().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let Some(rest) = &self.rest else { return SizeHint::with_exact(ahead) };
        let mut size = rest.size_hint();
        if let Some(upper) = size.upper() {
            size.set_upper(upper.saturating_add(ahead));
        }
        size.set_lower(size.lower().saturating_add(ahead));
        size
    }
}

/// The way back to a body that was lent to an attempt: as long as nobody has read from it, it can be had again.
pub(crate) struct Lent(Arc<Mutex<Option<Body>>>);

struct Borrowed {
    lent: Arc<Mutex<Option<Body>>>,
    /// The body itself, once somebody has begun to read it.
    reading: Option<Body>,
    size: SizeHint,
}

impl Lent {
    /// Lends the body to an attempt.
    pub(crate) fn new(body: Body) -> (Self, Body) {
        let size = body.size_hint();
        let lent = Arc::new(Mutex::new(Some(body)));
        let borrowed = Borrowed { lent: lent.clone(), reading: None, size };
        (Self(lent), borrowed.boxed_unsync())
    }

    /// The body, unless some of it was read.
    pub(crate) fn take_back(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpBody for Borrowed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.reading.is_none() {
            let body = self.lent.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.reading = body;
        }
        match &mut self.reading {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err(BodyError::ConnectionTerminated))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.reading.as_ref().map_or_else(|| self.size, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc;

    use futures::stream::{self, Stream, StreamExt};
    use futures::task::AtomicWaker;
    use futures_executor::{block_on, block_on_stream};
    use http_body_util::StreamBody;

    use super::*;

    struct Tell(mpsc::Sender<End>);

    impl Ending for Tell {
        fn ended(&mut self, end: End) {
            self.0.send(end).expect("the test listens");
        }
    }

    #[test]
    fn an_ending_is_told_once_when_the_body_was_read_to_its_end() {
        let (tell, told) = mpsc::channel();
        let body = Watched::wrap(full("abc"), None, Tell(tell));
        assert!(told.try_recv().is_err());
        assert_eq!(block_on(body.collect()).expect("a body of bytes").to_bytes(), "abc");
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Complete]);
    }

    #[test]
    fn an_ending_is_told_with_the_last_byte_that_was_announced() {
        let (tell, told) = mpsc::channel();
        let (mut body, _) = produced(stream::iter(["ab", "c"]), Some(3), Tell(tell));
        assert!(block_on(body.frame()).is_some());
        assert!(told.try_recv().is_err());
        assert!(block_on(body.frame()).is_some());
        drop(body);
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Complete]);
    }

    /// A producer that may fail before the end.
    #[derive(Default)]
    struct Producer {
        broken: AtomicBool,
        reader: AtomicWaker,
    }

    impl Producer {
        fn breaks(&self) {
            self.broken.store(true, Relaxed);
            self.reader.wake();
        }
    }

    struct Broken(Tell, Arc<Producer>);

    impl Ending for Broken {
        fn ended(&mut self, end: End) {
            self.0.ended(end);
        }

        fn is_broken(&self) -> bool {
            self.1.broken.load(Relaxed)
        }

        fn stands_still(&self, reader: &Waker) {
            self.1.reader.register(reader);
        }
    }

    /// A body of these pieces, and whoever produces it.
    fn produced(
        pieces: impl Stream<Item = &'static str> + Send + 'static,
        length: Option<u64>,
        tell: Tell,
    ) -> (Body, Arc<Producer>) {
        let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from(piece))));
        let producer = Arc::new(Producer::default());
        (Watched::wrap(StreamBody::new(frames).boxed_unsync(), length, Broken(tell, producer.clone())), producer)
    }

    #[test]
    fn what_its_producer_left_unfinished_is_not_taken_to_be_whole() {
        for length in [None, Some(4)] {
            let (tell, told) = mpsc::channel();
            let (body, producer) = produced(stream::iter(["abc"]), length, Tell(tell));
            producer.breaks();
            let error = block_on(body.collect()).map(|_| ()).expect_err("it has no end");
            assert!(matches!(error, BodyError::ConnectionTerminated), "{error}");
            assert_eq!(told.iter().collect::<Vec<_>>(), [End::Failed]);
        }
        // What was announced was there.
        let (tell, told) = mpsc::channel();
        let (body, producer) = produced(stream::iter(["abc"]), Some(3), Tell(tell));
        producer.breaks();
        assert!(block_on(body.collect()).is_ok());
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Complete]);
    }

    #[test]
    fn one_that_goes_on_without_its_producer_ends_soon() {
        let (tell, told) = mpsc::channel();
        let (mut body, producer) = produced(stream::repeat("abc"), None, Tell(tell));
        assert!(matches!(block_on(body.frame()), Some(Ok(_))));
        producer.breaks();
        let rest = block_on_stream(body.into_data_stream());
        let last: Vec<_> = rest.take(usize::from(LAST_FRAMES) + 1).map(|frame| frame.is_ok()).collect();
        assert_eq!(last, [true, true, true, true, false]);
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Failed]);
    }

    #[test]
    fn one_that_stands_still_ends_when_its_producer_breaks_off() {
        let (tell, told) = mpsc::channel();
        let (body, producer) = produced(stream::pending(), None, Tell(tell));
        let (read, ()) = block_on(futures::future::join(body.collect(), async { producer.breaks() }));
        assert!(matches!(read, Err(BodyError::ConnectionTerminated)));
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Failed]);
    }

    #[test]
    fn an_ending_is_told_at_once_when_there_is_nothing_to_read() {
        let (tell, told) = mpsc::channel();
        let _body = Watched::wrap(empty(), None, Tell(tell));
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Complete]);
    }

    #[test]
    fn an_ending_is_told_when_the_body_is_dropped_unread() {
        let (tell, told) = mpsc::channel();
        drop(Watched::wrap(full("abc"), None, Tell(tell)));
        assert_eq!(told.iter().collect::<Vec<_>>(), [End::Dropped]);
    }

    #[test]
    fn what_is_there_is_read_ahead() {
        let frames = |pieces: Vec<Bytes>| stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
        let large = Bytes::from(vec![b'x'; AHEAD]);
        let bodies = [
            (empty(), Some(0), true),
            (full("abc"), Some(3), true),
            (StreamBody::new(frames(vec!["ab".into(), "c".into()])).boxed_unsync(), Some(3), true),
            (StreamBody::new(frames(vec![large.clone(), "c".into()])).boxed_unsync(), None, false),
            (full(large.clone()), Some(AHEAD as u64), true),
        ];
        for (number, (body, size, whole)) in bodies.into_iter().enumerate() {
            let (body, all) = read_ahead(body);
            assert_eq!((body.size_hint().exact(), all), (size, whole), "{number}");
            assert_eq!(body.is_end_stream(), size == Some(0), "{number}");
            let bytes = block_on(body.collect()).expect("a body of bytes").to_bytes();
            assert_eq!(bytes.len() as u64, size.unwrap_or(AHEAD as u64 + 1), "{number}");
        }
        let first = stream::iter([Ok(Frame::data(Bytes::from("ab"))), Err(BodyError::ConnectionTerminated)]);
        let (mut body, whole) = read_ahead(StreamBody::new(first.chain(stream::pending())).boxed_unsync());
        assert!(!whole);
        assert!(matches!(block_on(body.frame()), Some(Ok(_))));
        assert!(matches!(block_on(body.frame()), Some(Err(_))));
    }

    #[test]
    fn a_body_can_be_had_again_until_it_is_read() {
        let (lent, borrowed) = Lent::new(full("abc"));
        assert_eq!(borrowed.size_hint().exact(), Some(3));
        drop(borrowed);
        let again = lent.take_back().expect("nobody has read it");

        let (lent, mut borrowed) = Lent::new(again);
        assert!(block_on(borrowed.frame()).is_some());
        assert!(lent.take_back().is_none());
    }
}
