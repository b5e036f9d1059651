//! A sampler: takes requests to one pool of the active revision for a rehearsal, one at a time for each worker.
//!
//! Lives as long as its rehearsal, and the last request that it took. Such a request is served by the active revision
//! like any other, in a pool of its own; only when its answer has left, or failed, is it run once more on the new revision,
//! on the [`backstage`](super::backstage) thread. The client waits for none of this.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::time::timeout_at;
use trace::TRACEPARENT;

use super::Rehearsal;
use super::backstage::Stopwatch;
use super::compare::Answer;
use super::findings::{Run, Skip};
use super::stage::Stage;
use super::tap::{self, MAX_BODY, Tap, Tapped};
use super::tape::{Replay, Tape};
use crate::body::{self, Body, End, Ending, Watched, answer_length, content_length};
use crate::capabilities::store_error_code;
use crate::counters::Fault;
use crate::dispatch::Hop;
use crate::pool::{CallError, Pool};

/// Where a pool finds its sampler. Costs a request one load of a flag while there is none.
#[derive(Default)]
pub(crate) struct Switch {
    on: AtomicBool,
    sampler: Mutex<Option<Arc<Sampler>>>,
}

impl Switch {
    /// The sampler, while there is one.
    pub(crate) fn get(&self) -> Option<Arc<Sampler>> {
        if !self.on.load(Relaxed) {
            return None;
        }
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, sampler: Option<Arc<Sampler>>) {
        self.on.store(sampler.is_some(), Relaxed);
        *self.sampler.lock().unwrap_or_else(PoisonError::into_inner) = sampler;
    }
}

/// Takes requests to one pool.
pub(crate) struct Sampler {
    pub(super) rehearsal: Arc<Rehearsal>,
    pub(super) worker: usize,
    /// The active revision's, for sampled requests.
    pub(super) live: Arc<Pool>,
    /// The new revision's, of the same instance.
    pub(super) rehearsed: Arc<Pool>,
}

impl Sampler {
    /// [`Pool::call`] on `pool`, and now and then a sample of it.
    ///
    /// # Errors
    /// As those of [`Pool::call`].
    pub(crate) async fn call(
        &self,
        pool: &Arc<Pool>,
        request: Box<Request<Body>>,
        hop: &Hop,
        deadline: Instant,
    ) -> Result<Response<Body>, CallError> {
        let Some(place) = Place::take(&self.rehearsal, self.worker) else {
            return pool.call(request, hop, deadline).await;
        };
        if content_length(request.headers()).is_some_and(|length| length > MAX_BODY as u64) {
            place.skip(Skip::RequestTooLarge);
            return pool.call(request, hop, deadline).await;
        }
        let (head, body) = request.into_parts();
        let (tap, body) = Tap::attach(body, content_length(&head.headers));
        let tape = Arc::new(Tape::new(self.rehearsal.store.clone()));
        let mut again = head.clone();
        if let Some(context) = hop.trace {
            // The live run is told its trace, too. A component that answers with the trace's id gives the same answer twice.
            again.headers.entry(TRACEPARENT).or_insert_with(|| context.to_header());
        }
        let sample = Sample {
            place,
            pool: self.rehearsed.clone(),
            head: again,
            body: tap,
            depth: hop.depth,
            tape: tape.clone(),
        };
        let begun = Instant::now();
        let request = Box::new(Request::from_parts(head, body));
        let served = self.live.call_on(Some(Stage::Live(tape)), request, hop, deadline).await;
        let took = begun.elapsed();
        match served {
            Ok(answer) => Ok(sample.watch(answer, took)),
            Err(CallError::Shed(_, request) | CallError::NotStarted(request)) => {
                sample.place.skip(Skip::NoGuest);
                pool.call(request, hop, deadline).await
            }
            Err(error) => {
                sample.rehearse(Run { outcome: Err(reason(&error)), took });
                Err(error)
            }
        }
    }
}

/// The right to sample a request: one for each worker, and as many in all as are still to be compared.
struct Place {
    rehearsal: Arc<Rehearsal>,
    worker: usize,
    /// Whether there is a result, or a reason for having none.
    settled: bool,
    /// What the second run took, if there was one.
    took: Duration,
}

impl Place {
    fn take(rehearsal: &Arc<Rehearsal>, worker: usize) -> Option<Self> {
        let free = rehearsal.take(worker);
        free.then(|| Self { rehearsal: rehearsal.clone(), worker, settled: false, took: Duration::ZERO })
    }

    /// Another request is to be taken instead.
    fn skip(mut self, reason: Skip) {
        self.settled = true;
        self.rehearsal.skipped(reason);
    }

    fn compare(mut self, request: &str, old: &Run, new: &Run, refused: Vec<String>) {
        self.settled = true;
        self.rehearsal.compared(request, old, new, refused);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.settled {
            self.rehearsal.skipped(Skip::AnswerNotRead);
        }
        self.rehearsal.free(self.worker, self.took);
    }
}

/// A request that was taken.
struct Sample {
    place: Place,
    /// Where it is run once more.
    pool: Arc<Pool>,
    head: Parts,
    body: Tap,
    depth: u8,
    tape: Arc<Tape>,
}

impl Sample {
    /// Waits for the end of the live answer.
    fn watch(self, answer: Response<Body>, took: Duration) -> Response<Body> {
        let (head, body) = answer.into_parts();
        let length = answer_length(&self.head.method, head.status, &head.headers);
        let (tap, body) = Tap::attach(body, length);
        let (status, headers) = (head.status, head.headers.clone());
        let leaving = Leaving(Some(Box::new(Answered { sample: self, status, headers, body: tap, took })));
        Response::from_parts(head, Watched::wrap(body, length, leaving))
    }

    /// Runs it on the new revision, after the live run has ended so.
    fn rehearse(self, old: Run) {
        let rehearsal = self.place.rehearsal.clone();
        let thread = rehearsal.backstage.thread().clone();
        thread.spawn(async move {
            let Some(_turn) = rehearsal.backstage.turn(rehearsal.end).await else {
                return self.place.skip(Skip::TimeUp);
            };
            match self.prepare(&old) {
                Ok((request, replay)) => self.run(old, request, replay).await,
                Err(reason) => self.place.skip(reason),
            }
        });
    }

    /// What was received, once more.
    fn prepare(&self, old: &Run) -> Result<(Bytes, Arc<Replay>), Skip> {
        if matches!(&old.outcome, Ok(Answer { body: Tapped::TooLarge, .. })) {
            return Err(Skip::AnswerTooLarge);
        }
        let body = match self.body.tapped() {
            Tapped::Whole(body) => body,
            Tapped::Part(_) => return Err(Skip::RequestNotRead),
            Tapped::TooLarge => return Err(Skip::RequestTooLarge),
        };
        let store = self.place.rehearsal.store.clone();
        Ok((body, Arc::new(Replay::new(self.tape.play()?, store))))
    }

    async fn run(self, old: Run, body: Bytes, replay: Arc<Replay>) {
        let Self { mut place, pool, head, depth, .. } = self;
        let line = format!("{} {}", head.method, head.uri.path());
        let method = head.method.clone();
        let request = Box::new(Request::from_parts(head, body::full(body)));
        let stopwatch = Stopwatch::start();
        let deadline = stopwatch.begun() + pool.template().limits().request_timeout;
        // No part of the live request's trace: that one has its answer.
        let hop = Hop::new(depth, None);
        let served = pool.call_on(Some(Stage::Rehearsed(replay.clone())), request, &hop, deadline).await;
        let took = stopwatch.took();
        let outcome = match served {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let length = answer_length(&method, head.status, &head.headers);
                Some(match timeout_at(deadline.into(), tap::collect(body, length)).await {
                    Ok(Tapped::Part(_)) => Err(BROKEN_OFF),
                    Ok(body) => Ok(Answer { status: head.status, headers: head.headers, body }),
                    Err(_) => Err(reason(&CallError::Deadline)),
                })
            }
            Err(CallError::Shed(..)) => None,
            Err(error) => Some(Err(reason(&error))),
        };
        // To the end of the body, whatever came of it: the pause is to be in proportion to all that it cost.
        place.took = stopwatch.took();
        let Some(outcome) = outcome else { return place.skip(Skip::NoGuest) };
        if replay.is_exhausted() {
            return place.skip(Skip::Exhausted);
        }
        place.compare(&line, &old, &Run { outcome, took }, replay.refused());
    }
}

/// A sample whose live answer is on its way to the client.
struct Answered {
    sample: Sample,
    status: StatusCode,
    headers: HeaderMap,
    body: Tap,
    took: Duration,
}

struct Leaving(Option<Box<Answered>>);

impl Ending for Leaving {
    fn ended(&mut self, end: End) {
        let Some(answered) = self.0.take() else { return };
        let Answered { sample, status, headers, body, took } = *answered;
        let outcome = match end {
            End::Complete => Ok(Answer { status, headers, body: body.tapped() }),
            End::Failed => Err(BROKEN_OFF),
            End::Dropped => return sample.place.skip(Skip::AnswerNotRead),
        };
        sample.rehearse(Run { outcome, took });
    }
}

/// An answer began and didn't come to its end.
const BROKEN_OFF: &str = "broken off";

/// A failure in a word.
fn reason(error: &CallError) -> &'static str {
    match error {
        CallError::Shed(..) => "shed",
        CallError::NotStarted(_) => "start",
        CallError::Deadline => Fault::Deadline.reason(),
        CallError::Failed(failure) => failure.reason(),
        CallError::Unwritten(error) => store_error_code(error).as_str(),
    }
}
