//! The log of a host: its stderr, line by line, as it comes.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::eventually;

/// What a process has written to stderr so far.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    /// Reads until the other end is closed.
    pub fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
        Self { lines, reader: Some(reader) }
    }

    /// Waits for the end of the process's output.
    pub(crate) fn complete(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    /// Everything, as it was written.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The events. Lines that aren't JSON are none.
    pub fn events(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first event of which this is true.
    pub fn find(&self, mut matches: impl FnMut(&Value) -> bool) -> Option<Value> {
        self.events().into_iter().find(|event| matches(event))
    }

    /// Waits for an event whose message contains `part`.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> Value {
        eventually(&format!("a log event with {part:?} in\n{}", self.text()), || {
            self.find(|event| event["message"].as_str().is_some_and(|message| message.contains(part)))
        })
    }
}
