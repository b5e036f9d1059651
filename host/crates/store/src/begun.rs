//! A write that was begun and is not acknowledged yet.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::Error;

/// A write under way: resolves when it is acknowledged, or has failed. It happens also if nobody waits for that.
#[derive(Debug)]
pub struct Begun<T = ()>(oneshot::Receiver<Result<T, Error>>);

impl<T> Begun<T> {
    /// One whose outcome comes this way. If none comes, the store was closed before.
    pub(crate) fn new(outcome: oneshot::Receiver<Result<T, Error>>) -> Self {
        Self(outcome)
    }
}

impl<T> Future for Begun<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or_else(|_| Err(Error::closed())))
    }
}
