//! The tracer: decides, begins spans, and keeps those that have ended until they are exported.
//!
//! One for the process, and none if nobody wants traces. What bounds it: [`Capacity::queue`] spans wait; what is more is
//! dropped and counted, so that whoever ends a span never waits.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::context::{SpanId, TraceContext};
use crate::sampler::Sampler;
use crate::span::{Active, Kind, Span};

/// Begins spans and collects them. Clones are the same.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

/// How many spans may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub queue: usize,
    /// Until they are exported without waiting for more; at most so many at once.
    pub batch: usize,
}

struct Inner {
    sampler: Sampler,
    capacity: Capacity,
    queue: Mutex<VecDeque<Box<Span>>>,
    /// Told when there is a whole batch.
    full: Notify,
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl Tracer {
    /// A tracer with an empty queue.
    pub fn new(sampler: Sampler, capacity: Capacity) -> Self {
        let (queue, full, exported, dropped) = Default::default();
        Self(Arc::new(Inner { sampler, capacity, queue, full, exported, dropped }))
    }

    /// The first step here of a request that came with this context, or with none.
    pub fn enter(&self, parent: Option<TraceContext>) -> TraceContext {
        let sampler = &self.0.sampler;
        match parent {
            Some(parent) => TraceContext { sampled: sampler.decide(parent.trace, Some(&parent)), ..parent.child() },
            None => TraceContext::root(|trace| sampler.decide(trace, None)),
        }
    }

    /// A context that somebody claims who was not given it here. It is recorded if a trace that begins here would be, and
    /// if the claim says so too where callers are followed.
    pub fn resample(&self, claimed: TraceContext) -> TraceContext {
        let sampler = &self.0.sampler;
        let sampled = sampler.decide(claimed.trace, Some(&claimed)) && sampler.decide(claimed.trace, None);
        TraceContext { sampled, ..claimed }
    }

    /// Begins the span of this step, if its trace is recorded.
    pub fn span<N: Into<Cow<'static, str>>>(
        &self,
        context: TraceContext,
        parent: Option<SpanId>,
        kind: Kind,
        name: impl FnOnce() -> N,
    ) -> Option<Active> {
        if !context.sampled {
            return None;
        }
        let now = Instant::now();
        let span = Span {
            trace: context.trace,
            id: context.span,
            parent,
            name: name().into(),
            kind,
            begun: now,
            ended: now,
            attributes: Vec::new(),
            failed: false,
        };
        Some(Active::new(self.clone(), span))
    }

    /// Takes the spans that have waited longest, at most a batch. May be called by one only.
    pub fn take(&self) -> Vec<Box<Span>> {
        let mut queue = self.queue();
        let count = queue.len().min(self.0.capacity.batch);
        queue.drain(..count).collect()
    }

    /// Returns when there is a whole batch, or after that long.
    pub async fn wait(&self, patience: Duration) {
        let full = async {
            while self.queue().len() < self.0.capacity.batch {
                self.0.full.notified().await;
            }
        };
        // Either is reason enough.
        let _ = tokio::time::timeout(patience, full).await;
    }

    /// What was taken has arrived.
    pub fn count_exported(&self, spans: u64) {
        self.0.exported.fetch_add(spans, Relaxed);
    }

    /// What was taken has not arrived.
    pub fn count_dropped(&self, spans: u64) {
        self.0.dropped.fetch_add(spans, Relaxed);
    }

    /// Spans that have arrived where they were sent.
    pub fn exported(&self) -> u64 {
        self.0.exported.load(Relaxed)
    }

    /// Spans that were lost: there was no room in the queue, or nobody took them.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    pub(crate) fn ended(&self, span: Box<Span>) {
        let Capacity { queue: most, batch } = self.0.capacity;
        let mut queue = self.queue();
        if queue.len() >= most {
            drop(queue);
            return self.count_dropped(1);
        }
        queue.push_back(span);
        let full = queue.len() == batch;
        drop(queue);
        if full {
            self.0.full.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Box<Span>>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tracer").field("sampler", &self.0.sampler).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Root, Value};

    fn tracer(root: Root) -> Tracer {
        Tracer::new(Sampler { parent_based: true, root }, Capacity { queue: 3, batch: 2 })
    }

    #[test]
    fn a_request_goes_on_with_its_trace() {
        let tracer = tracer(Root::All);
        let first = tracer.enter(None);
        let second = tracer.enter(Some(first));
        assert_eq!((second.trace, second.sampled), (first.trace, true));
        assert_ne!(second.span, first.span);
        let unsampled = tracer.enter(Some(TraceContext { sampled: false, ..first }));
        assert!(!unsampled.sampled);
        assert!(tracer.span(unsampled, None, Kind::Server, || -> &str { unreachable!() }).is_none());
    }

    #[test]
    fn a_claim_to_be_recorded_is_checked() {
        for (parent_based, root, claim, sampled) in [
            (true, Root::All, true, true),
            (true, Root::All, false, false),
            (true, Root::None, true, false),
            (true, Root::Ratio(0.0), true, false),
            (false, Root::All, false, true),
            (false, Root::None, true, false),
        ] {
            let tracer = Tracer::new(Sampler { parent_based, root }, Capacity { queue: 3, batch: 2 });
            let claimed = TraceContext::root(|_| claim);
            let expected = TraceContext { sampled, ..claimed };
            assert_eq!(tracer.resample(claimed), expected, "{parent_based} {root:?} {claim}");
        }
    }

    #[test]
    fn spans_are_told_when_they_end_and_not_when_they_never_were() {
        let tracer = tracer(Root::All);
        let context = tracer.enter(None);
        let mut span = tracer.span(context, None, Kind::Server, || "a").expect("it is sampled");
        span.answered(503);
        span.fail("late");
        span.text("long", "é".repeat(200));
        assert!(tracer.take().is_empty());
        drop(span);
        tracer.span(context.child(), Some(context.span), Kind::Internal, || "b").expect("it is sampled").forget();
        let spans = tracer.take();
        let [span] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((span.trace, span.id, span.parent, span.failed), (context.trace, context.span, None, true));
        let [status, error, long] = &span.attributes[..] else { panic!("{span:?}") };
        assert_eq!(*status, ("http.response.status_code", Value::Number(503)));
        assert_eq!(*error, ("error.type", Value::Text("503".into())));
        assert_eq!(long.1, Value::Text("é".repeat(128).into()));
        assert!(span.begun <= span.ended);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let tracer = tracer(Root::All);
        for _ in 0..5 {
            drop(tracer.span(tracer.enter(None), None, Kind::Server, || "a"));
        }
        assert_eq!((tracer.take().len(), tracer.take().len(), tracer.take().len()), (2, 1, 0));
        assert_eq!((tracer.dropped(), tracer.exported()), (2, 0));
    }

    #[test]
    fn one_who_waits_is_told_of_a_whole_batch() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it can be made");
        runtime.block_on(async {
            let tracer = tracer(Root::All);
            let ending = tracer.clone();
            tokio::spawn(async move {
                for _ in 0..2 {
                    drop(ending.span(ending.enter(None), None, Kind::Server, || "a"));
                }
            });
            // Were it not told, it would wait as long as the test may take.
            tracer.wait(Duration::from_secs(3600)).await;
            assert_eq!(tracer.take().len(), 2);
            tracer.wait(Duration::ZERO).await;
            assert!(tracer.take().is_empty());
        });
    }
}
