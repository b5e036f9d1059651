//! Bodies at the edge: those of requests may be neither too large nor stand still, those of answers may not stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use runtime::{Body, BodyError};

use super::exchange::Exchange;
use super::refusal::Turn;
use crate::linger::linger;
use crate::patience::Patience;

/// What went wrong with a request's body, if anything did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    TooLarge,
    Idle,
}

/// Lets the edge see, after the answer, what went wrong with the request's body.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<AtomicU8>);

impl Verdict {
    fn set(&self, fault: Fault) {
        self.0.store(fault as u8, Relaxed);
    }

    pub(super) fn get(&self) -> Fault {
        match self.0.load(Relaxed) {
            value if value == Fault::TooLarge as u8 => Fault::TooLarge,
            value if value == Fault::Idle as u8 => Fault::Idle,
            _ => Fault::None,
        }
    }
}

/// A request's body. What is left of it when it is dropped is read on for a while, see [`linger`].
pub(super) struct Upload {
    /// `None` once it has ended.
    body: Option<Incoming>,
    left: u64,
    patience: Patience,
    verdict: Verdict,
}

impl Upload {
    /// Lets `limit` bytes through, and nothing after `idle` without any.
    pub(super) fn new(body: Incoming, limit: u64, idle: Duration) -> (Self, Verdict) {
        let verdict = Verdict::default();
        (Self { body: Some(body), left: limit, patience: Patience::new(idle), verdict: verdict.clone() }, verdict)
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            return this.patience.poll(cx).map(|()| {
                this.verdict.set(Fault::Idle);
                // There is nothing to wait for any more.
                this.body = None;
                Some(Err(BodyError::ConnectionReadTimeout))
            });
        };
        this.patience.reset();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(bytes) {
                    Some(left) => {
                        this.left = left;
                        Some(Ok(frame))
                    }
                    None => {
                        this.verdict.set(Fault::TooLarge);
                        this.give_up();
                        Some(Err(BodyError::HttpRequestBodySize(None)))
                    }
                }
            }
            Some(Err(error)) => {
                this.body = None;
                Some(Err(error.into()))
            }
            None => {
                this.body = None;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Upload {
    fn give_up(&mut self) {
        if let Some(body) = self.body.take() {
            linger(body);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// An answer's body. Its [`Exchange`] ends with it.
pub(super) struct Download {
    body: Body,
    patience: Patience,
    exchange: Exchange,
    /// Why it broke off. The connection hears of it the next time it asks: it throws away what it hasn't sent by then.
    broken: Option<BodyError>,
    /// Dropped with it.
    _turn: Turn,
}

impl Download {
    pub(super) fn new(body: Body, idle: Duration, exchange: Exchange, turn: Turn) -> Self {
        Self { body, patience: Patience::new(idle), exchange, broken: None, _turn: turn }
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                std::task::ready!(this.patience.poll(cx));
                Some(Err(BodyError::ConnectionWriteTimeout))
            }
        };
        this.patience.reset();
        match &frame {
            Some(Ok(frame)) => this.exchange.sent(frame.data_ref().map_or(&[], Bytes::as_ref)),
            None => this.exchange.ended(),
            Some(Err(_)) => {
                this.exchange.broke_off();
                this.broken = frame.and_then(Result::err);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
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

impl Drop for Download {
    fn drop(&mut self) {
        // Nobody asks for the end of a body that says itself that it has ended.
        if self.body.is_end_stream() {
            self.exchange.ended();
        }
    }
}
