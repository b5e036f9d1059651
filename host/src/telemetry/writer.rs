//! Writes log lines on a thread of its own.
//!
//! Lives from `start` until the guard is dropped, which writes what is queued and waits at most [`FLUSH`] for it.
//! Bounded by [`LINES`] and [`BYTES`]: when the reader of stderr is slower than that, lines are dropped, counted, and
//! the count is written as soon as there is room again.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait to be written.
const LINES: usize = 8192;

/// Most bytes that wait to be written.
const BYTES: usize = 16 << 20;

/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// Hands lines to the writing thread. One per subscriber.
pub(super) struct Lines {
    queue: SyncSender<Entry>,
    shared: Arc<Shared>,
}

enum Entry {
    Line(Vec<u8>),
    /// All lines before it are to be written, and this told.
    Flush(SyncSender<()>),
    Stop,
}

#[derive(Default)]
struct Shared {
    /// Bytes of the lines in the queue. Never above [`BYTES`] plus one line per logging thread.
    queued: AtomicUsize,
    dropped: AtomicU64,
}

/// Keeps the writing thread alive.
#[must_use = "dropping it ends the log"]
pub(crate) struct Guard {
    queue: SyncSender<Entry>,
    stopped: Receiver<()>,
}

/// Has what was logged so far written, from any thread: for one that is about to end the process.
#[derive(Clone)]
pub(crate) struct Flush {
    queue: SyncSender<Entry>,
}

/// Starts the writing thread.
pub(super) fn start(output: impl Write + Send + 'static) -> (Lines, Guard) {
    let (queue, entries) = sync_channel(LINES);
    let (finished, stopped) = sync_channel(1);
    let shared = Arc::new(Shared::default());
    let thread = {
        let shared = Arc::clone(&shared);
        move || {
            write_lines(&entries, &shared, output);
            // The guard may have given up waiting.
            let _ = finished.try_send(());
        }
    };
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(thread)
        .expect("the first thread of a process can be started");
    let guard = Guard { queue: queue.clone(), stopped };
    (Lines { queue, shared }, guard)
}

/// Returns at [`Entry::Stop`]. A log that can't be written can't be reported either, so errors are passed over.
fn write_lines(entries: &Receiver<Entry>, shared: &Shared, mut output: impl Write) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                shared.queued.fetch_sub(line.len(), Ordering::Relaxed);
                let _ = output.write_all(&line);
                let dropped = shared.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let _ =
                        writeln!(output, r#"{{"level":"WARN","message":"log lines were dropped","lines":{dropped}}}"#);
                }
            }
            Entry::Flush(flushed) => {
                let _ = output.flush();
                // Whoever asked may have given up waiting.
                let _ = flushed.try_send(());
            }
            Entry::Stop => break,
        }
    }
    let _ = output.flush();
}

impl Guard {
    /// To write what is queued before the guard is dropped.
    pub(crate) fn flush(&self) -> Flush {
        Flush { queue: self.queue.clone() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH;
        if enqueue(&self.queue, || Entry::Stop, deadline) {
            let _ = self.stopped.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl Flush {
    /// Returns when all lines that are queued now are written, or when it has waited so long for it.
    pub(crate) fn wait(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        let (flushed, done) = sync_channel(1);
        if enqueue(&self.queue, || Entry::Flush(flushed.clone()), deadline) {
            let _ = done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

/// Puts something behind the lines, as soon as there is room. False if there was none until `deadline`.
fn enqueue(queue: &SyncSender<Entry>, entry: impl Fn() -> Entry, deadline: Instant) -> bool {
    while let Err(TrySendError::Full(_)) = queue.try_send(entry()) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

impl Write for &Lines {
    /// Takes one whole event, which is how tracing-subscriber writes.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let room = self.shared.queued.load(Ordering::Relaxed) + line.len() <= BYTES;
        if room {
            self.shared.queued.fetch_add(line.len(), Ordering::Relaxed);
            if self.queue.try_send(Entry::Line(line.to_vec())).is_ok() {
                return Ok(line.len());
            }
            self.shared.queued.fetch_sub(line.len(), Ordering::Relaxed);
        }
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    /// Collects what is written; its first write waits until the test lets go of `gate`.
    struct Slow {
        gate: Option<Receiver<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if let Some(gate) = self.gate.take() {
                let _ = gate.recv();
            }
            self.written.lock().expect("no panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_not_time_and_the_rest_arrives() {
        let (open, gate) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (lines, guard) = start(Slow { gate: Some(gate), written: Arc::clone(&written) });
        let total = LINES * 2;
        for _ in 0..total {
            (&lines).write_all(b"line\n").expect("never fails");
        }
        let dropped = lines.shared.dropped.load(Ordering::Relaxed);
        assert!(dropped >= (LINES - 1) as u64, "{dropped} dropped");
        drop(open);
        drop(guard);
        let written = String::from_utf8(written.lock().expect("no panics").clone()).expect("text");
        let arrived = written.lines().filter(|line| *line == "line").count();
        assert_eq!(arrived as u64 + dropped, total as u64);
        assert!(written.contains(&format!("\"lines\":{dropped}")), "{dropped}");
    }

    #[test]
    fn a_flush_waits_for_what_was_logged_before_and_not_for_ever() {
        let (open, gate) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (lines, guard) = start(Slow { gate: Some(gate), written: Arc::clone(&written) });
        (&lines).write_all(b"before\n").expect("never fails");
        guard.flush().wait(Duration::from_millis(1));
        assert_eq!(*written.lock().expect("no panics"), b"", "stderr is stalled");
        drop(open);
        guard.flush().wait(Duration::from_secs(60));
        assert_eq!(*written.lock().expect("no panics"), b"before\n");
    }

    #[test]
    fn a_flood_of_long_lines_is_bounded_in_bytes() {
        let (open, gate) = channel();
        let (lines, guard) = start(Slow { gate: Some(gate), written: Arc::default() });
        let long = vec![b'x'; BYTES / 4];
        for _ in 0..12 {
            (&lines).write_all(&long).expect("never fails");
        }
        assert!(lines.shared.queued.load(Ordering::Relaxed) <= BYTES);
        assert!(lines.shared.dropped.load(Ordering::Relaxed) >= 7);
        drop(open);
        drop(guard);
    }
}
