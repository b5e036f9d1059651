//! `GET /status`: what is going on, once; and `GET /status/events`: the same every second, for as long as somebody watches.
//!
//! All who watch are sent the same bytes, made once a second and only if there is somebody. Each stream has a task and room
//! for one event: who reads slowly misses events and not the newest one, and who doesn't read for [`STALL`] is let go.
//! Bounded: [`STREAMS`] at once; the instances of an event, by [`LISTED`]. Its components are bounded by the manifest only.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use problem::{Code, Problem};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::server::STALL;
use super::{Control, Failure};
use crate::facts::{Facts, Observer};

/// Most streams at once.
pub(super) const STREAMS: usize = 16;

/// Bytes of instances in an event: more than a thousand with names as people give them.
const LISTED: usize = 160 << 10;

/// From one event to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// Those who watch.
pub(crate) struct Streams {
    /// The newest event; none when there will be no more.
    newest: watch::Sender<Option<Bytes>>,
    places: Arc<Semaphore>,
}

impl Streams {
    /// Nobody watches.
    pub(crate) fn new() -> Self {
        Self { newest: watch::Sender::new(Some(Bytes::new())), places: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Makes events for as long as it is polled.
    pub(super) async fn feed(&self, observer: &Observer) {
        let mut interval = interval(PERIOD);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if self.newest.receiver_count() > 0 {
                let event = event(observer).await;
                self.newest.send_if_modified(|newest| newest.as_mut().map(|newest| *newest = event).is_some());
            }
        }
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        self.newest.send_replace(None);
    }
}

/// `GET /status`: 200 with everything.
pub(super) async fn status(State(control): State<Arc<Control>>) -> Response {
    let document = aside(&control.observer, |observer| json(&observer.facts(usize::MAX))).await;
    ([(CONTENT_TYPE, "application/json")], document).into_response()
}

/// `GET /status/events`: 200 with server-sent events, the first one at once, each with the document of `/status` as it is
/// then. Of more instances than fit, those that are unavailable come first. 503 `overloaded` if too many watch.
pub(super) async fn events(State(control): State<Arc<Control>>) -> Result<Response, Failure> {
    let Streams { newest, places } = &control.streams;
    let place = places.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS} streams are open already; close one, or ask /status again and again");
        Problem::new(Code::Overloaded, detail).retry_after(5)
    })?;
    let mut newest = newest.subscribe();
    if newest.borrow().is_none() {
        return Err(Problem::new(Code::Draining, "the host is stopping").into());
    }
    let mut next = event(&control.observer).await;
    let (sender, receiver) = mpsc::channel(1);
    // Of its own: to wait for the end is to have seen what came before it.
    let mut ending = newest.clone();
    tokio::spawn(async move {
        let _place = place;
        let sending = async {
            while sender.send_timeout(next, STALL).await.is_ok() && newest.changed().await.is_ok() {
                match &*newest.borrow_and_update() {
                    Some(newest) => next = newest.clone(),
                    None => return,
                }
            }
        };
        // The end comes also for those who don't read.
        let ended = async { ending.wait_for(Option::is_none).await.is_ok() };
        tokio::select! {
            () = sending => {}
            _ = ended => {}
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Events(receiver))).into_response())
}

async fn event(observer: &Observer) -> Bytes {
    // JSON on one line has no line ends, which would be ends of data.
    aside(observer, |observer| format!("data: {}\n\n", json(&observer.facts(LISTED))).into()).await
}

/// Gathers and writes aside: it takes locks, and time if there are many instances.
async fn aside<T: Send + 'static>(observer: &Observer, make: impl FnOnce(&Observer) -> T + Send + 'static) -> T {
    let observer = observer.clone();
    let made = tokio::task::spawn_blocking(move || make(&observer));
    made.await.expect("gathering doesn't panic")
}

fn json(facts: &Facts) -> String {
    serde_json::to_string(facts).expect("facts can be written as JSON")
}

/// What a stream's task sends. Ends when that does.
struct Events(mpsc::Receiver<Bytes>);

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
