//! The access log: one line for each request at the public address, when its answer has ended.
//!
//! A line says nothing that could be a secret: no header but the request's id, and no query. What clients and components
//! choose freely is cut to [`LONGEST`] and escaped, so a line stays one line. It is formatted on the worker, without
//! allocating, and written with others of the same moment.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::Duration;

use trace::TraceId;

use super::writer::Lines;
use super::{Level, LogFormat, LogLevel, now};

/// Bytes of a path, a method or a name that are written.
const LONGEST: usize = 256;

/// Where requests are logged. Clones write to the same place.
#[derive(Clone)]
pub(crate) struct AccessLog {
    format: LogFormat,
    level: Level,
    lines: Lines,
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// The request's method.
    pub(crate) method: &'a str,
    /// Its path, without the query.
    pub(crate) path: &'a str,
    /// Its id.
    pub(crate) request_id: &'a [u8],
    /// The trace it belongs to, if any.
    pub(crate) trace: Option<TraceId>,
    /// The component it was routed to, if any.
    pub(crate) component: Option<&'a str>,
    /// Who answered, as the answer says.
    pub(crate) instance: Option<&'a [u8]>,
    /// The route that matched.
    pub(crate) handler: &'a str,
    /// Why the answer is a failure, if it is one.
    pub(crate) reason: Option<&'a str>,
    /// The answer's status; 499 if the client didn't wait for one.
    pub(crate) status: u16,
    /// Until the last byte of the answer.
    pub(crate) duration: Duration,
    /// Bytes of the answer's body that have left.
    pub(crate) bytes: u64,
    /// Whether the whole answer has left.
    pub(crate) complete: bool,
}

thread_local! {
    /// The line that is being written.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl AccessLog {
    pub(super) fn new(format: LogFormat, level: Level, lines: Lines) -> Self {
        Self { format, level, lines }
    }

    /// Writes the line of a request that has ended, if the level allows.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        if !self.level.allows(LogLevel::Info) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            match self.format {
                LogFormat::Json => entry.json(line),
                LogFormat::Text => entry.text(line),
            }
            self.lines.push(line.as_bytes());
        });
    }
}

impl Entry<'_> {
    fn json(&self, line: &mut String) {
        line.push_str(r#"{"timestamp":""#);
        now(line);
        line.push_str(r#"","level":"INFO","message":""#);
        self.message(line);
        self.field(line, r#"","request_id":""#, Some(self.request_id));
        self.field(line, r#"","trace_id":""#, self.trace.map(TraceId::to_digits).as_ref().map(|digits| &digits[..]));
        self.field(line, r#"","component":""#, self.component.map(str::as_bytes));
        self.field(line, r#"","instance":""#, self.instance);
        self.field(line, r#"","handler":""#, Some(self.handler.as_bytes()));
        self.field(line, r#"","reason":""#, self.reason.map(str::as_bytes));
        let (status, seconds, bytes) = (self.status, Seconds(self.duration), self.bytes);
        let _ = write!(line, r#"","status":{status},"duration":{seconds},"bytes":{bytes}"#);
        if !self.complete {
            line.push_str(r#","complete":false"#);
        }
        line.push_str(",\"target\":\"access\"}\n");
    }

    fn text(&self, line: &mut String) {
        now(line);
        line.push_str("  INFO access: ");
        self.message(line);
        let (status, seconds, bytes) = (self.status, Seconds(self.duration), self.bytes);
        let _ = write!(line, " status={status} duration={seconds} bytes={bytes}");
        self.field(line, " request_id=", Some(self.request_id));
        self.field(line, " trace_id=", self.trace.map(TraceId::to_digits).as_ref().map(|digits| &digits[..]));
        self.field(line, " component=", self.component.map(str::as_bytes));
        self.field(line, " instance=", self.instance);
        self.field(line, " handler=", Some(self.handler.as_bytes()));
        self.field(line, " reason=", self.reason.map(str::as_bytes));
        if !self.complete {
            line.push_str(" complete=false");
        }
        line.push('\n');
    }

    fn message(&self, line: &mut String) {
        escape(line, self.method.as_bytes());
        line.push(' ');
        escape(line, self.path.as_bytes());
    }

    fn field(&self, line: &mut String, label: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            line.push_str(label);
            escape(line, value);
        }
    }
}

/// A duration in seconds, to the microsecond. Without floating point, which takes longer.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// Writes text that came from outside, as it is within a JSON string. The same for people: no control characters, so no
/// new lines and no colours.
fn escape(line: &mut String, text: &[u8]) {
    let cut = &text[..text.len().min(LONGEST)];
    let plain = |byte: &u8| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\');
    if cut.iter().all(plain)
        && let Ok(plain) = std::str::from_utf8(cut)
    {
        // Nearly always so.
        line.push_str(plain);
        return;
    }
    for chunk in cut.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => line.extend(['\\', character]),
                control if control.is_control() => {
                    let _ = write!(line, "\\u{:04x}", control as u32);
                }
                other => line.push(other),
            }
        }
        if !chunk.invalid().is_empty() {
            line.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use trace::TraceContext;

    use super::*;

    fn entry<'a>(path: &'a str, instance: Option<&'a [u8]>) -> Entry<'a> {
        Entry {
            method: "GET",
            path,
            request_id: b"id-1",
            trace: TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").map(|at| at.trace),
            component: Some("gateway"),
            instance,
            handler: "data",
            reason: None,
            status: 200,
            duration: Duration::from_micros(1234),
            bytes: 56,
            complete: true,
        }
    }

    fn json(entry: &Entry<'_>) -> Value {
        let mut line = String::new();
        entry.json(&mut line);
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    #[test]
    fn a_line_is_an_object() {
        let mut line = json(&entry("/data", Some(b"storage-1")));
        let time = line.as_object_mut().and_then(|line| line.remove("timestamp")).expect("a time");
        assert!(time.as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')), "{time}");
        let expected = serde_json::json!({
            "level": "INFO", "message": "GET /data", "request_id": "id-1",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "component": "gateway", "instance": "storage-1", "handler": "data", "status": 200, "duration": 0.001234, "bytes": 56,
            "target": "access",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let line = json(&Entry { component: None, trace: None, complete: false, ..entry("/", None) });
        for name in ["component", "instance", "reason", "trace_id"] {
            assert_eq!(line.get(name), None, "{name}");
        }
        assert_eq!(line["complete"], false);
    }

    #[test]
    fn a_failure_says_why() {
        let failed = Entry { reason: Some("overloaded"), status: 503, ..entry("/data", None) };
        assert_eq!(json(&failed)["reason"], "overloaded");
        let mut text = String::new();
        failed.text(&mut text);
        assert!(text.contains(" handler=data reason=overloaded\n"), "{text}");
    }

    #[test]
    fn whatever_comes_from_outside_stays_in_its_place() {
        let path = "/\"}\n\\\u{1b}[31mé";
        let line = json(&entry(path, Some(b"\xff\"")));
        assert_eq!(line["message"], format!("GET {path}"));
        assert_eq!(line["instance"], "\u{fffd}\"");
        let long = "/x".repeat(10_000);
        assert!(json(&entry(&long, None)).to_string().len() < 1000);
        let mut text = String::new();
        entry(path, None).text(&mut text);
        assert!(text.ends_with('\n') && !text.trim_end().contains(char::is_control), "{text:?}");
    }

    #[test]
    fn text_is_for_people() {
        let mut line = String::new();
        entry("/data", Some(b"storage-1")).text(&mut line);
        let (_, rest) = line.split_once(' ').expect("a time, and more");
        let expected = " INFO access: GET /data status=200 duration=0.001234 bytes=56 request_id=id-1 \
                        trace_id=4bf92f3577b34da6a3ce929d0e0e4736 component=gateway \
                        instance=storage-1 handler=data\n";
        assert_eq!(rest, expected);
    }
}
