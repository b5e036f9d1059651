//! Taps: a body flows on untouched, and what flowed is kept for a second run.
//!
//! Lives as long as the body. What is kept shares its bytes with the body, so nothing is copied while it flows. Bounded
//! by [`MAX_BODY`]: of a body that is longer nothing is kept at all.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError, End, Ending, Watched};

/// Bytes of a body that are kept.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// What flowed out of a body. Trailers are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tapped {
    /// These bytes, to the end.
    Whole(Bytes),
    /// These bytes; then nobody read on, or reading failed.
    Part(Bytes),
    /// More than [`MAX_BODY`].
    TooLarge,
}

/// Where to learn what flowed.
#[derive(Clone, Default)]
pub(crate) struct Tap(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    pieces: Vec<Bytes>,
    length: usize,
    ended: bool,
}

impl Tap {
    /// Taps a body of `length` bytes, or of an unknown length.
    pub(crate) fn attach(body: Body, length: Option<u64>) -> (Self, Body) {
        let tap = Self::default();
        let length = length.or(body.size_hint().exact());
        if length == Some(0) || body.is_end_stream() {
            // What nobody reads isn't kept, should somebody read it.
            tap.kept().ended = true;
            return (tap, body);
        }
        let tee = Tee { body, tap: tap.clone() }.boxed_unsync();
        (tap.clone(), Watched::wrap(tee, length, tap))
    }

    /// What flowed so far.
    pub(crate) fn tapped(&self) -> Tapped {
        let kept = self.kept();
        if kept.length > MAX_BODY {
            return Tapped::TooLarge;
        }
        let bytes = match &*kept.pieces {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        };
        if kept.ended { Tapped::Whole(bytes) } else { Tapped::Part(bytes) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, piece: &Bytes) {
        self.length = self.length.saturating_add(piece.len());
        if self.length > MAX_BODY {
            self.pieces = Vec::new();
        } else if !piece.is_empty() {
            self.pieces.push(piece.clone());
        }
    }
}

/// Reads a body to its end, or until it is found too large.
pub(crate) async fn collect(body: Body, length: Option<u64>) -> Tapped {
    let (tap, mut body) = Tap::attach(body, length);
    while let Some(Ok(_)) = body.frame().await {
        if tap.kept().length > MAX_BODY {
            break;
        }
    }
    tap.tapped()
}

impl Ending for Tap {
    fn ended(&mut self, end: End) {
        self.kept().ended = end == End::Complete;
    }
}

/// A tapped body.
struct Tee {
    body: Body,
    tap: Tap,
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            self.tap.kept().add(piece);
        }
        Poll::Ready(frame)
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
    use futures_executor::block_on;
    use http_body_util::StreamBody;

    use super::*;
    use crate::body;

    fn chunks(chunks: Vec<Result<Bytes, BodyError>>) -> Body {
        StreamBody::new(futures::stream::iter(chunks.into_iter().map(|chunk| chunk.map(Frame::data)))).boxed_unsync()
    }

    #[test]
    fn what_flowed_is_kept_and_flows_on() {
        let (tap, body) = Tap::attach(chunks(vec![Ok("ab".into()), Ok("".into()), Ok("c".into())]), None);
        assert_eq!(tap.tapped(), Tapped::Part(Bytes::new()));
        assert_eq!(block_on(body.collect()).expect("a body of bytes").to_bytes(), "abc");
        assert_eq!(tap.tapped(), Tapped::Whole("abc".into()));
    }

    #[test]
    fn it_is_whole_with_the_last_byte_that_was_announced() {
        let (tap, mut body) = Tap::attach(chunks(vec![Ok("ab".into()), Ok("c".into())]), Some(3));
        block_on(body.frame()).expect("a frame").expect("of bytes");
        assert_eq!(tap.tapped(), Tapped::Part("ab".into()));
        block_on(body.frame()).expect("a frame").expect("of bytes");
        assert_eq!(tap.tapped(), Tapped::Whole("abc".into()));
    }

    #[test]
    fn nothing_is_whole_at_once() {
        assert_eq!(Tap::attach(body::empty(), None).0.tapped(), Tapped::Whole(Bytes::new()));
        let (tap, _body) = Tap::attach(chunks(vec![Ok("the body of a HEAD".into())]), Some(0));
        assert_eq!(tap.tapped(), Tapped::Whole(Bytes::new()));
    }

    #[test]
    fn what_broke_off_is_a_part() {
        let broken = || chunks(vec![Ok("ab".into()), Err(BodyError::ConnectionTerminated)]);
        assert_eq!(block_on(collect(broken(), None)), Tapped::Part("ab".into()));
    }

    #[test]
    fn what_is_too_large_flows_on_and_is_not_kept() {
        let large = |length: usize| chunks(vec![Ok(vec![0; length - 1].into()), Ok("x".into())]);
        let (tap, body) = Tap::attach(large(MAX_BODY + 1), None);
        assert_eq!(block_on(body.collect()).expect("a body of bytes").to_bytes().len(), MAX_BODY + 1);
        assert_eq!(tap.tapped(), Tapped::TooLarge);
        assert!(tap.kept().pieces.is_empty());
        assert!(matches!(block_on(collect(large(MAX_BODY), None)), Tapped::Whole(bytes) if bytes.len() == MAX_BODY));
    }
}
