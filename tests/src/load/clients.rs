//! What each client does, until the load is stopped.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::json;

use super::begun::Begun;
use super::{Shared, Stamper};
use crate::Wire;

/// Short requests of a client go round so many keys.
const KEYS: u64 = 8;

/// Who stamps the answers of the storage, of echo, and of what doesn't stamp them itself.
const STORED: &[Stamper] = &[Stamper::Gateway, Stamper::Storage];
const ECHOED: &[Stamper] = &[Stamper::Gateway, Stamper::Echo];
const PASSED_ON: &[Stamper] = &[Stamper::Gateway];

/// Does it again and again, on one connection as long as that works.
pub(super) fn repeat(shared: &Shared, mut work: impl FnMut(&mut Wire, u64) -> bool) {
    let mut wire = Wire::connect(&shared.url);
    for round in 0.. {
        if shared.is_stopped() {
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
pub(super) fn short(shared: &Shared, client: u64) {
    let mut wire = Wire::connect(&shared.url);
    let mut written = [None; KEYS as usize];
    for sequence in 0.. {
        if shared.is_stopped() {
            break;
        }
        let right = if sequence % 2 == 0 {
            let slot = sequence / 2 % KEYS;
            let key = format!("load/{client}/{slot}");
            let body = json!({ "key": key, "value": payload(client, sequence) }).to_string();
            written[usize::try_from(slot).expect("a few")] = Some(sequence);
            let begun = Begun::now(shared, format!("set {key} #{sequence}"), STORED);
            let reply = wire.send(post("/api/set", "application/json", &body)).reply();
            begun.check(reply, stored(&key).as_bytes())
        } else {
            let body = payload(client, sequence);
            let path = format!("/services/echo/{client}/{sequence}");
            let begun = Begun::now(shared, format!("echo {client} #{sequence}"), ECHOED);
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
        let begun = Begun::now(shared, format!("get {key}"), STORED);
        let reply = wire.send(format!("GET /api/get?key={key} HTTP/1.1\r\nhost: a\r\n\r\n")).reply();
        begun.check(reply, expected.as_bytes());
    }
}

/// Asks the guest `stamped`. A request that goes wrong costs the connection only if there was no answer.
pub(super) fn ask(shared: &Shared, client: u64) {
    let mut connection: Option<Wire> = None;
    for sequence in 0.. {
        if shared.is_stopped() {
            return;
        }
        let path = format!("/work/{client}/{sequence}");
        let begun = Begun::now(shared, path.as_str(), &[Stamper::Guest]);
        let wire = connection.get_or_insert_with(|| Wire::connect(&shared.url));
        let reply = wire.send(post(&path, "text/plain", "")).reply();
        if reply.is_none() {
            connection = None;
        }
        let stamp = reply.as_ref().and_then(|reply| Stamper::Guest.stamp(&reply.headers)).unwrap_or_default();
        let expected = format!(r#"{{"revision":"{stamp:06}","target":"{path}","greeting":"{}"}}"#, shared.greeting);
        if begun.check(reply, expected.as_bytes()) {
            shared.answers.fetch_add(1, SeqCst);
        }
        std::thread::sleep(shared.pause);
    }
}

/// Sends numbered lines through echo, one at a time, each when the one before has come back.
pub(super) fn stream(shared: &Shared, wire: &mut Wire, name: &str, lines: u64) -> bool {
    let begun = Begun::now(shared, format!("stream {name}"), ECHOED);
    wire.send("POST /services/echo/stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for line in 0..lines {
        if lines == u64::MAX && shared.is_stopped() {
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
pub(super) fn download(shared: &Shared, wire: &mut Wire, chunks: u64) -> bool {
    let begun = Begun::now(shared, "download", PASSED_ON);
    let path = format!("/services/poll/stream?chunks={chunks}&delay_ms=50");
    let reply = wire.send(post(&path, "text/plain", "")).reply();
    let expected: String = (0..chunks).map(|number| format!("chunk {number}\n")).collect();
    begun.check(reply, expected.as_bytes())
}

/// Writes a value that takes a second to send.
pub(super) fn upload(shared: &Shared, wire: &mut Wire, name: &str) -> bool {
    let begun = Begun::now(shared, format!("upload {name}"), STORED);
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
pub(super) fn poll(shared: &Shared, wire: &mut Wire, ms: u64) -> bool {
    let begun = Begun::now(shared, "poll", PASSED_ON);
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
