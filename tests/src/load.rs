//! A load that misses nothing: every request is answered, with the right body, by a revision that is not too old.
//!
//! Clients keep their connections, and send `POST` only, which nobody may send a second time for them: what fails is
//! seen. Bodies are numbered, made of their number, and compared byte by byte. Around the short requests there are long
//! ones: streams in both directions, downloads, uploads and polls, each of which outlives several swaps.
//!
//! Whoever swaps says so by [`Load::acknowledge`]. An answer is *stale* if it is stamped by an older revision than the
//! newest that was acknowledged before its request began.

mod begun;
mod clients;
mod tally;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderMap;

use self::clients::{ask, download, poll, repeat, short, stream, upload};
use self::tally::Kind;
use crate::{Builder, Host, artifact, eventually_true};

pub use self::tally::{Fault, Faults, Tally};

/// What puts stamps on answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamper {
    /// The component `gateway`.
    Gateway,
    /// The component `storage`.
    Storage,
    /// The component `echo`.
    Echo,
    /// The guest `stamped`.
    Guest,
}

impl Stamper {
    /// Those of the assembly, in turn.
    pub const ASSEMBLY: [Self; 3] = [Self::Gateway, Self::Storage, Self::Echo];

    const COUNT: usize = 4;

    /// The component's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Storage => "storage",
            Self::Echo => "echo",
            Self::Guest => "guest",
        }
    }

    /// The guest that stamps, as `artifact::guest` knows it.
    pub fn guest(self) -> &'static str {
        match self {
            Self::Gateway => "stamped-gateway",
            Self::Storage => "stamped-storage",
            Self::Echo => "stamped-echo",
            Self::Guest => "stamped",
        }
    }

    /// The number that an answer is stamped with. Those of unstamped components aren't.
    fn stamp(self, headers: &HeaderMap) -> Option<u32> {
        let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match self {
            Self::Gateway => value("x-gateway-revision"),
            Self::Storage => value("x-served-by").and_then(|name| name.split('@').nth(1)),
            Self::Echo => value("x-echo-revision"),
            Self::Guest => value("x-revision"),
        }
        .and_then(|number| number.parse().ok())
    }
}

/// Clients at work. They are waited for when it is dropped.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients have in common.
#[derive(Default)]
struct Shared {
    url: String,
    /// Between two short requests of a client.
    pause: Duration,
    /// What the guest `stamped` says besides.
    greeting: String,
    stopped: AtomicBool,
    answers: AtomicU64,
    long: AtomicU64,
    /// The newest revision of each that whoever swaps was told is published.
    acknowledged: [AtomicU32; Stamper::COUNT],
    /// The newest of each that has answered.
    seen: [AtomicU32; Stamper::COUNT],
    /// By [`Kind`].
    faults: Mutex<[Faults; 3]>,
}

impl Load {
    /// The built-in assembly with what else the load needs: a component that answers late, and time and room enough for
    /// requests that last as long as the test.
    pub fn assembly() -> Builder {
        let patient = "request-timeout = \"10m\"\ndrain-timeout = \"10m\"";
        let manifest = format!(
            "[store]\nsync = \"100ms\"\n[public]\nmax-body = \"1GiB\"\n\
             [components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\nhealth-check = {{ path = \"/health\" }}\n{patient}\n\
             [components.storage]\nsource = \"builtin:storage\"\ninstances = [\"storage-1\", \"storage-2\", \"storage-3\"]\n\
             environment = {{ STORAGE_NAME = \"{{instance}}\" }}\nhealth-check = {{ path = \"/healthz\" }}\n{patient}\n\
             [components.echo]\nsource = \"builtin:echo\"\ninstances = [\"echo-1\", \"echo-2\", \"echo-3\"]\n{patient}\n\
             [components.poll]\nsource = \"{}\"\n{patient}\n",
            artifact::guest("misbehaving-p3").display()
        );
        Host::builder().manifest(&manifest)
    }

    /// So many clients of an [`assembly`](Self::assembly), which rest for so long between two requests, and eight with
    /// long requests.
    pub fn on_assembly(host: &Host, clients: u64, pause: Duration) -> Self {
        let shared = Arc::new(Shared { url: host.url().to_owned(), pause, ..Shared::default() });
        let mut load = Self { shared, clients: Vec::new() };
        for number in 0..clients {
            load.client(move |shared| short(shared, number));
        }
        // Of different lengths, so that they begin and end at any time. The first lasts as long as the load.
        for (number, lines) in [u64::MAX, 20, 90].into_iter().enumerate() {
            load.client(move |shared| {
                repeat(shared, |wire, round| stream(shared, wire, &format!("{number}/{round}"), lines))
            });
        }
        load.client(|shared| repeat(shared, |wire, _| download(shared, wire, 60)));
        for number in 0..2 {
            load.client(move |shared| repeat(shared, |wire, round| upload(shared, wire, &format!("{number}/{round}"))));
        }
        for ms in [700, 2500] {
            load.client(move |shared| repeat(shared, |wire, _| poll(shared, wire, ms)));
        }
        load
    }

    /// So many clients of the guest `stamped` on `/`, whose environment has no `GREETING`.
    pub fn on_guest(host: &Host, clients: u64, pause: Duration) -> Self {
        Self::on_greeting_guest(host, clients, pause, "")
    }

    /// The same, and its `GREETING` is this.
    pub fn on_greeting_guest(host: &Host, clients: u64, pause: Duration, greeting: &str) -> Self {
        let shared = Shared { url: host.url().to_owned(), pause, greeting: greeting.to_owned(), ..Shared::default() };
        let shared = Arc::new(shared);
        let mut load = Self { shared, clients: Vec::new() };
        for number in 0..clients {
            load.client(move |shared| ask(shared, number));
        }
        load
    }

    fn client(&mut self, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = self.shared.clone();
        self.clients.push(std::thread::spawn(move || work(&shared)));
    }

    /// Says that from now on nothing older than this may answer.
    pub fn acknowledge(&self, stamper: Stamper, number: u32) {
        self.shared.acknowledged[stamper as usize].fetch_max(number, SeqCst);
    }

    /// Waits until there were so many more right answers to short requests.
    #[track_caller]
    pub fn wait_for_answers(&self, more: u64) {
        let before = self.answers();
        eventually_true("right answers", || self.answers() >= before + more);
    }

    /// Waits until an answer was stamped with this number, or a higher one.
    #[track_caller]
    pub fn wait_for_stamp(&self, stamper: Stamper, number: u32) {
        eventually_true(&format!("an answer of revision {number} of {stamper:?}"), || {
            self.shared.seen[stamper as usize].load(SeqCst) >= number
        });
    }

    /// How many short requests had the right answer so far.
    pub fn answers(&self) -> u64 {
        self.shared.answers.load(SeqCst)
    }

    /// Lets every client finish what it is at, and says what came of all.
    pub fn stop(mut self) -> Tally {
        self.finish();
        let shared = &self.shared;
        let mut faults = shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let [failed, wrong, stale] = std::mem::take(&mut *faults);
        Tally { answers: shared.answers.load(SeqCst), long: shared.long.load(SeqCst), failed, wrong, stale }
    }

    fn finish(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        for client in self.clients.drain(..) {
            if client.join().is_err() {
                self.shared.fault(Kind::Failed, "a client panicked: what came is no HTTP".to_owned(), None);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn fault(&self, kind: Kind, what: String, head: Option<(u16, &HeaderMap)>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults[kind as usize].add(what, head);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }
}
