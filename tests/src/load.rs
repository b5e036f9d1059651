//! A load that misses nothing: every request is answered, with the right body, by a revision that is not too old.
//!
//! Clients keep their connections, and send `POST` only, which nobody may send a second time for them: what fails is
//! seen. Bodies are numbered, made of their number, and compared byte by byte. Around the short requests there are long
//! ones: streams in both directions, downloads, uploads and polls, each of which outlives several swaps.
//!
//! Whoever swaps says so by [`Load::acknowledge`]. An answer is *stale* if it is stamped by an older revision than the
//! newest that was acknowledged before its request began.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderMap;
use serde_json::json;

use crate::{Builder, Host, Reply, Wire, artifact, eventually_true};

/// Short requests of a client go round so many keys.
const KEYS: u64 = 8;

/// How many things that went wrong are kept of each kind. All are counted.
const KEPT: usize = 20;

/// Who stamps the answers of the storage, of echo, and of what doesn't stamp them itself.
const STORED: &[Stamper] = &[Stamper::Gateway, Stamper::Storage];
const ECHOED: &[Stamper] = &[Stamper::Gateway, Stamper::Echo];
const PASSED_ON: &[Stamper] = &[Stamper::Gateway];

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

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Short requests with the right answer.
    pub answers: u64,
    /// Long requests with the right answer.
    pub long: u64,
    /// Requests without an answer, or with another status than 200.
    pub failed: Faults,
    /// Answers with another body than they should have.
    pub wrong: Faults,
    /// Answers that were stamped by a revision that was already replaced.
    pub stale: Faults,
}

/// Things that went wrong.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub kept: Vec<Fault>,
}

/// A thing that went wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which request, and what came.
    pub what: String,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The stamp of [`Stamper::Guest`], if there was one.
    pub stamp: Option<u32>,
}

#[derive(Default)]
struct Shared {
    url: String,
    pause: Duration,
    /// What the guest `stamped` says besides.
    greeting: String,
    stopped: AtomicBool,
    answers: AtomicU64,
    long: AtomicU64,
    acknowledged: [AtomicU32; Stamper::COUNT],
    seen: [AtomicU32; Stamper::COUNT],
    faults: Mutex<[Faults; 3]>,
}

/// Which kind of fault.
#[derive(Clone, Copy)]
enum Kind {
    Failed,
    Wrong,
    Stale,
}

impl Load {
    /// The built-in assembly with what else the load needs: a component that answers late, and time enough for requests
    /// that last as long as the test.
    pub fn assembly() -> Builder {
        let patient = "request-timeout = \"10m\"\ndrain-timeout = \"10m\"";
        let manifest = format!(
            "[store]\nsync = \"100ms\"\n\
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
            load.client(move |shared| {
                let mut wire = None;
                for sequence in 0.. {
                    if shared.stopped.load(SeqCst) {
                        return;
                    }
                    ask_guest(shared, &mut wire, &format!("/work/{number}/{sequence}"));
                    std::thread::sleep(shared.pause);
                }
            });
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
                self.shared.fault(Kind::Failed, "a client panicked: what came is no HTTP", None);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Tally {
    /// The same, if there were answers, and nothing went wrong.
    #[track_caller]
    pub fn expect_flawless(self) -> Self {
        assert!(self.answers > 0, "{self}");
        assert!(self.failed.count + self.wrong.count + self.stale.count == 0, "{self}");
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, long, failed, wrong, stale } = self;
        write!(
            to,
            "{answers} short and {long} long requests, {} failed, {} wrong, {} stale",
            failed.count, wrong.count, stale.count
        )?;
        for fault in [failed, wrong, stale].into_iter().flat_map(|faults| &faults.kept) {
            write!(to, "\n  {}", fault.what)?;
        }
        Ok(())
    }
}

impl Shared {
    fn fault(&self, kind: Kind, what: &str, reply: Option<(u16, &HeaderMap)>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = &mut faults[kind as usize];
        faults.count += 1;
        if faults.kept.len() < KEPT {
            let stamp = reply.and_then(|(_, headers)| Stamper::Guest.stamp(headers));
            faults.kept.push(Fault { what: what.to_owned(), status: reply.map(|(status, _)| status), stamp });
        }
    }

    /// A request that begins now, whose answer these stamp.
    fn begin<'a>(&'a self, what: impl Into<String>, stampers: &'static [Stamper]) -> Begun<'a> {
        let oldest = |stamper: &Stamper| (*stamper, self.acknowledged[*stamper as usize].load(SeqCst));
        Begun { shared: self, what: what.into(), oldest: stampers.iter().map(oldest).collect() }
    }
}

/// A request on its way, and what its answer is held against.
struct Begun<'a> {
    shared: &'a Shared,
    what: String,
    /// The oldest revisions that may answer it: the newest that had been acknowledged when it began.
    oldest: Vec<(Stamper, u32)>,
}

impl Begun<'_> {
    /// It has no answer, or only half of one.
    fn failed(&self, how: &str) -> bool {
        self.shared.fault(Kind::Failed, &format!("{}: {how}", self.what), None);
        false
    }

    /// The answer isn't what it should be.
    fn wrong(&self, come: &[u8], expected: &[u8], head: Option<(u16, &HeaderMap)>) -> bool {
        let what = format!("{}: {} instead of {}", self.what, excerpt(come), excerpt(expected));
        self.shared.fault(Kind::Wrong, &what, head);
        false
    }

    /// Whether the head of the answer is what it should be. Says so if it is stale.
    fn check_head(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
        let head = Some((status, headers));
        if status != 200 {
            self.shared.fault(Kind::Failed, &format!("{}: {status} {}", self.what, excerpt(body)), head);
            return false;
        }
        for (stamper, oldest) in &self.oldest {
            // What isn't stamped is what the host was started with.
            let stamp = stamper.stamp(headers).unwrap_or_default();
            self.shared.seen[*stamper as usize].fetch_max(stamp, SeqCst);
            if stamp < *oldest {
                let what = format!("{}: revision {stamp} of {stamper:?}, {oldest} was acknowledged", self.what);
                self.shared.fault(Kind::Stale, &what, head);
            }
        }
        true
    }

    /// Whether the answer is what it should be.
    fn check(&self, reply: Option<Reply>, expected: &[u8]) -> bool {
        let Some(reply) = reply else { return self.failed("the connection was closed") };
        if !self.check_head(reply.status, &reply.headers, &reply.body) {
            return false;
        }
        reply.body == expected || self.wrong(&reply.body, expected, Some((reply.status, &reply.headers)))
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

/// Does it again and again, on one connection as long as that works.
fn repeat(shared: &Shared, mut work: impl FnMut(&mut Wire, u64) -> bool) {
    let mut wire = Wire::connect(&shared.url);
    for round in 0.. {
        if shared.stopped.load(SeqCst) {
            return;
        }
        if work(&mut wire, round) {
            shared.long.fetch_add(1, SeqCst);
        } else {
            wire = Wire::connect(&shared.url);
        }
    }
}

/// Writes and echoes in turn, and looks in the end whether what was written is there.
fn short(shared: &Shared, client: u64) {
    let mut wire = Wire::connect(&shared.url);
    let mut written = [None; KEYS as usize];
    for sequence in 0.. {
        if shared.stopped.load(SeqCst) {
            break;
        }
        let right = if sequence % 2 == 0 {
            let slot = sequence / 2 % KEYS;
            let key = format!("load/{client}/{slot}");
            let body = json!({ "key": key, "value": payload(client, sequence) }).to_string();
            written[usize::try_from(slot).expect("a few")] = Some(sequence);
            let begun = shared.begin(format!("set {key} #{sequence}"), STORED);
            let reply = wire.send(post("/api/set", "application/json", &body)).reply();
            begun.check(reply, stored(&key).as_bytes())
        } else {
            let body = payload(client, sequence);
            let path = format!("/services/echo/{client}/{sequence}");
            let begun = shared.begin(format!("echo {client} #{sequence}"), ECHOED);
            let reply = wire.send(post(&path, "text/plain", &body)).reply();
            begun.check(reply, body.as_bytes())
        };
        if right {
            shared.answers.fetch_add(1, SeqCst);
        } else {
            wire = Wire::connect(&shared.url);
        }
        std::thread::sleep(shared.pause);
    }
    for (slot, sequence) in written.into_iter().enumerate() {
        let Some(sequence) = sequence else { continue };
        let key = format!("load/{client}/{slot}");
        let expected = json!({ "key": key, "value": payload(client, sequence) }).to_string();
        let begun = shared.begin(format!("get {key}"), STORED);
        let reply = wire.send(format!("GET /api/get?key={key} HTTP/1.1\r\nhost: a\r\n\r\n")).reply();
        begun.check(reply, expected.as_bytes());
    }
}

/// One request to the guest `stamped`. What went wrong costs its connection only if there was no answer.
fn ask_guest(shared: &Shared, wire: &mut Option<Wire>, path: &str) {
    let begun = shared.begin(path, &[Stamper::Guest]);
    let connection = wire.get_or_insert_with(|| Wire::connect(&shared.url));
    let reply = connection.send(post(path, "text/plain", "")).reply();
    if reply.is_none() {
        *wire = None;
    }
    let stamp = reply.as_ref().and_then(|reply| Stamper::Guest.stamp(&reply.headers)).unwrap_or_default();
    let expected = format!(r#"{{"revision":"{stamp:06}","target":"{path}","greeting":"{}"}}"#, shared.greeting);
    if begun.check(reply, expected.as_bytes()) {
        shared.answers.fetch_add(1, SeqCst);
    }
}

/// Sends numbered lines through echo, one at a time, each when the one before has come back.
fn stream(shared: &Shared, wire: &mut Wire, name: &str, lines: u64) -> bool {
    let begun = shared.begin(format!("stream {name}"), ECHOED);
    wire.send("POST /services/echo/stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for line in 0..lines {
        if lines == u64::MAX && shared.stopped.load(SeqCst) {
            break;
        }
        let sent = format!("stream {name} line {line} {}\n", payload(line, line));
        wire.send(format!("{:x}\r\n{sent}\r\n", sent.len()));
        if line == 0 {
            let Some(head) = wire.head() else { return begun.failed("closed before an answer") };
            if !begun.check_head(head.status, &head.headers, b"") {
                return false;
            }
        }
        let mut come = Vec::new();
        while come.len() < sent.len() {
            match wire.chunk() {
                Ok(Some(chunk)) => come.extend(chunk),
                Ok(None) | Err(_) => return begun.failed(&format!("broke off in line {line}")),
            }
        }
        if come != sent.as_bytes() {
            return begun.wrong(&come, sent.as_bytes(), None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    wire.send("0\r\n\r\n");
    matches!(wire.chunk(), Ok(None)) || begun.failed("broke off at its end")
}

/// Reads an answer that takes some seconds.
fn download(shared: &Shared, wire: &mut Wire, chunks: u64) -> bool {
    let begun = shared.begin("download", PASSED_ON);
    let path = format!("/services/poll/stream?chunks={chunks}&delay_ms=50");
    let reply = wire.send(post(&path, "text/plain", "")).reply();
    let expected: String = (0..chunks).map(|number| format!("chunk {number}\n")).collect();
    begun.check(reply, expected.as_bytes())
}

/// Writes a value that takes a second to send.
fn upload(shared: &Shared, wire: &mut Wire, name: &str) -> bool {
    let begun = shared.begin(format!("upload {name}"), STORED);
    let key = format!("upload/{name}");
    let body = json!({ "key": key, "value": "u".repeat(64 << 10) }).to_string();
    let request = post("/api/set", "application/json", &body);
    for piece in request.as_bytes().chunks(request.len().div_ceil(20)) {
        wire.send(piece);
        std::thread::sleep(Duration::from_millis(50));
    }
    begun.check(wire.reply(), stored(&key).as_bytes())
}

/// Waits for an answer that comes late.
fn poll(shared: &Shared, wire: &mut Wire, ms: u64) -> bool {
    let begun = shared.begin("poll", PASSED_ON);
    let reply = wire.send(post(&format!("/services/poll/slow?ms={ms}"), "text/plain", "")).reply();
    begun.check(reply, b"ok")
}

fn post(path: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn stored(key: &str) -> String {
    json!({ "key": key, "status": "stored" }).to_string()
}

/// Up to 4 KiB that no other request of the load has.
fn payload(client: u64, sequence: u64) -> String {
    let length = usize::try_from((client * 131 + sequence * 37) % 4096).expect("small");
    let unit = format!("{client}:{sequence}:");
    unit.repeat(length / unit.len() + 1)
}
