//! Requests at the public address, counted where they are served.
//!
//! Recording takes no lock and allocates nothing: a request's handler is looked up by the name that came with its route, each
//! worker has counters of its own, and labels are only written when somebody asks. Counters are made when the first request of a handler and
//! method comes to a worker, and kept for ever: nobody has to count references to them.
//!
//! Bounded by the number of handlers (`HANDLERS`, and each component's in the manifest), ten methods, and the statuses
//! of each (`STATUSES`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;

use super::exposition::Encoder;
use super::histogram::{Histogram, Scale, Sum};

/// Handlers that have a name of their own in the metrics; any more are counted as [`OTHER`].
const HANDLERS: usize = 1024;

/// Statuses that each handler, method and worker counts one by one; any more are counted as [`OTHER`]. There are sixty
/// that mean something; a component may send others.
const STATUSES: usize = 16;

/// What stands for everything that is too much to be named.
const OTHER: &str = "other";

/// The methods that are told apart, and what stands for the rest.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", OTHER];

/// From a tenth of a millisecond, which is what an answer from memory takes, to the default deadline.
static DURATIONS: Scale = Scale {
    bounds: &[
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
    ],
    divisor: 1e9,
};

/// All requests.
pub(super) struct Http {
    /// Replaced as a whole when there is a new one.
    handlers: ArcSwap<HashMap<String, &'static Handler>>,
    /// Held by whoever adds one.
    adding: Mutex<()>,
    /// By worker.
    in_flight: Box<[Apart<AtomicI64>]>,
}

/// What is counted of the requests that matched one route.
pub(crate) struct Handler {
    name: String,
    /// By worker.
    shards: Box<[Apart<Shard>]>,
}

/// One worker's counters of a handler, by method.
#[derive(Default)]
struct Shard([OnceLock<Box<Series>>; METHODS.len()]);

/// The requests of one handler and method on one worker.
struct Series {
    durations: Histogram,
    statuses: [Status; STATUSES],
    other: AtomicU64,
}

/// A status and how often it was answered. Belongs to the first status that comes; 0 is none.
#[derive(Default)]
struct Status {
    status: AtomicU16,
    count: AtomicU64,
}

/// What one worker writes to, kept off the cache lines that others write to.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl Http {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            handlers: ArcSwap::default(),
            adding: Mutex::default(),
            in_flight: (0..workers).map(|_| Apart::default()).collect(),
        }
    }

    /// The handler of that name, always the same.
    pub(super) fn handler(&self, name: &str) -> &'static Handler {
        match self.handlers.load().get(name) {
            Some(handler) => handler,
            None => self.add(name),
        }
    }

    /// The handler of a name that has none yet; or, if there are too many, what stands for the rest.
    fn add(&self, name: &str) -> &'static Handler {
        let _alone = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.handlers.load();
        let name = if known.len() < HANDLERS || known.contains_key(name) { name } else { OTHER };
        if let Some(handler) = known.get(name) {
            return handler;
        }
        let new: &'static Handler = Box::leak(Box::new(Handler::new(name, self.in_flight.len())));
        let mut handlers = HashMap::clone(&known);
        handlers.insert(name.to_owned(), new);
        self.handlers.store(Arc::new(handlers));
        new
    }

    /// A request came to a worker. It must leave again.
    pub(super) fn came(&self, worker: usize) {
        self.in_flight[worker].0.fetch_add(1, Relaxed);
    }

    /// The answer of one that came has ended.
    pub(super) fn left(&self, worker: usize) {
        self.in_flight[worker].0.fetch_sub(1, Relaxed);
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let handlers = self.handlers.load_full();
        let mut handlers: Vec<_> = handlers.values().collect();
        handlers.sort_by_key(|handler| &handler.name);
        let mut requests = encoder.counter("http_requests", "Requests at the public address that have ended")?;
        for handler in &handlers {
            for method in handler.methods() {
                for (status, count) in method.statuses() {
                    let status = if status == 0 { OTHER.to_owned() } else { status.to_string() };
                    let labels = [("handler", handler.name.as_str()), ("method", method.name), ("status", &status)];
                    requests.sample(&labels, count)?;
                }
            }
        }
        let help = "Seconds from a request's head to the last byte of its answer";
        let mut durations = encoder.histogram("http_request_duration_seconds", help)?;
        for handler in &handlers {
            for method in handler.methods() {
                let labels = [("handler", handler.name.as_str()), ("method", method.name)];
                durations.sample(&labels, &method.durations())?;
            }
        }
        let help = "Requests at the public address whose answer has not ended";
        encoder.gauge("http_requests_in_flight", help)?.sample(&[], self.in_flight_now())
    }

    /// Requests whose answer has not ended.
    pub(super) fn in_flight_now(&self) -> u64 {
        let in_flight: i64 = self.in_flight.iter().map(|count| count.0.load(Relaxed)).sum();
        u64::try_from(in_flight).unwrap_or(0)
    }

    /// Requests of all handlers that have ended, those of them that were answered by a 5xx, and how long they took.
    pub(super) fn totals(&self) -> (u64, u64, Sum) {
        let (mut requests, mut errors, mut durations) = (0, 0, Self::no_durations());
        for handler in self.handlers.load_full().values() {
            for method in handler.methods() {
                for (status, count) in method.statuses() {
                    requests += count;
                    errors += if status >= 500 { count } else { 0 };
                }
                method.shards.iter().for_each(|series| durations.add(&series.durations));
            }
        }
        (requests, errors, durations)
    }

    /// What is summed up of no requests at all.
    pub(super) fn no_durations() -> Sum {
        Sum::new(&DURATIONS)
    }
}

impl Handler {
    fn new(name: &str, workers: usize) -> Self {
        Self { name: name.to_owned(), shards: (0..workers).map(|_| Apart::default()).collect() }
    }

    /// Its name, for the log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a request that has ended.
    pub(crate) fn record(&self, worker: usize, method: &Method, status: u16, duration: Duration) {
        let series = self.shards[worker].0.0[index(method)].get_or_init(Box::default);
        series.durations.record_duration(duration);
        series.count(status);
    }

    /// Those that had a request, with what all workers have counted.
    fn methods(&self) -> impl Iterator<Item = OneMethod<'_>> {
        METHODS.iter().enumerate().filter_map(|(index, name)| {
            let shards: Vec<_> =
                self.shards.iter().filter_map(|shard| shard.0.0[index].get().map(Box::as_ref)).collect();
            (!shards.is_empty()).then_some(OneMethod { name, shards })
        })
    }
}

/// One handler's requests of one method.
struct OneMethod<'a> {
    name: &'static str,
    shards: Vec<&'a Series>,
}

impl OneMethod<'_> {
    /// How often each status was answered; 0 stands for those that were too many.
    fn statuses(&self) -> BTreeMap<u16, u64> {
        let mut statuses = BTreeMap::new();
        for series in &self.shards {
            for Status { status, count } in &series.statuses {
                let status = status.load(Relaxed);
                if status > 0 {
                    *statuses.entry(status).or_default() += count.load(Relaxed);
                }
            }
            let other = series.other.load(Relaxed);
            if other > 0 {
                *statuses.entry(0).or_default() += other;
            }
        }
        statuses
    }

    fn durations(&self) -> Sum {
        let mut sum = Sum::new(&DURATIONS);
        self.shards.iter().for_each(|series| sum.add(&series.durations));
        sum
    }
}

impl Default for Series {
    fn default() -> Self {
        Self { durations: Histogram::new(&DURATIONS), statuses: Default::default(), other: AtomicU64::new(0) }
    }
}

impl Series {
    fn count(&self, status: u16) {
        let slot = self.statuses.iter().find(|slot| slot.is_for(status));
        slot.map_or(&self.other, |slot| &slot.count).fetch_add(1, Relaxed);
    }
}

impl Status {
    /// Whether this is counted here. If the slot is free, it is from now on.
    fn is_for(&self, status: u16) -> bool {
        let found = match self.status.load(Relaxed) {
            0 => self.status.compare_exchange(0, status, Relaxed, Relaxed).map_or_else(|taken| taken, |_| status),
            taken => taken,
        };
        found == status
    }
}

fn index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::PATCH => 5,
        Method::OPTIONS => 6,
        Method::CONNECT => 7,
        Method::TRACE => 8,
        _ => METHODS.len() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(handler: &Handler, method: &str) -> Vec<(u16, u64)> {
        let method = handler.methods().find(|found| found.name == method).expect("it had a request");
        assert_eq!(method.durations().count(), method.statuses().values().sum::<u64>());
        method.statuses().into_iter().collect()
    }

    #[test]
    fn all_workers_count_together() {
        let http = Http::new(2);
        let handler = http.handler("data");
        assert_eq!(handler.methods().count(), 0);
        for (worker, status) in [(0, 200), (1, 200), (1, 503)] {
            http.handler("data").record(worker, &Method::GET, status, Duration::from_millis(1));
        }
        assert_eq!(statuses(handler, "GET"), [(200, 2), (503, 1)]);
    }

    #[test]
    fn methods_that_nobody_knows_are_one() {
        let handler = Http::new(1).handler("data");
        for method in ["BREW", "PROPFIND"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            handler.record(0, &method, 200, Duration::ZERO);
        }
        assert_eq!(statuses(handler, OTHER), [(200, 2)]);
        for (number, method) in METHODS.iter().enumerate() {
            assert_eq!(index(&method.parse().expect("a method")), number, "{method}");
        }
    }

    #[test]
    fn statuses_and_handlers_are_bounded() {
        let http = Http::new(1);
        let handler = http.handler("data");
        for status in 200..300 {
            handler.record(0, &Method::GET, status, Duration::ZERO);
            handler.record(0, &Method::GET, status, Duration::ZERO);
        }
        let counted = statuses(handler, "GET");
        assert_eq!((counted.len(), counted[0]), (STATUSES + 1, (0, 200 - 2 * STATUSES as u64)));
        for number in 0..2 * HANDLERS {
            http.handler(&number.to_string());
        }
        assert_eq!(http.handlers.load().len(), HANDLERS + 1);
        assert_eq!(http.handler("too many").name(), OTHER);
        assert!(std::ptr::eq(http.handler("too many"), http.handler("more")));
        assert_eq!(http.handler("data").name(), "data");
    }

    #[test]
    fn what_is_in_flight_lands() {
        let http = Http::new(2);
        http.came(0);
        http.came(1);
        let sum = || http.in_flight.iter().map(|count| count.0.load(Relaxed)).sum::<i64>();
        assert_eq!(sum(), 2);
        http.left(1);
        http.left(0);
        assert_eq!(sum(), 0);
    }
}
