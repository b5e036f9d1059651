//! Writes log lines on a thread of its own.
//!
//! Lives from `start` until the guard is dropped, which writes what is queued and waits at most [`FLUSH`] for it. Lines
//! gather in one buffer, which the thread takes as a whole: at once for events, after [`LINGER`] for the lines of requests,
//! so that many of them cost one system call.
//!
//! Bounded by [`BYTES`], and as much again in the thread's hands: when the reader of stderr is slower than that, lines are
//! dropped, counted, and the count is written as soon as there is room again. Lines of requests leave half of it to events.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::LogFormat;

/// Most bytes that wait to be written.
const BYTES: usize = 8 << 20;

/// How long lines of requests wait for others.
const LINGER: Duration = Duration::from_millis(20);

/// Bytes that are written without waiting for more.
const BATCH: usize = 64 << 10;

/// Room that the buffers keep when there is nothing to write.
const KEPT: usize = 256 << 10;

/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// Where lines are put. Clones are the same.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Tells the thread that there is something to do.
    wake: Condvar,
    /// Lines that were dropped since the start.
    dropped: Dropped,
}

#[derive(Default)]
struct Queue {
    /// Whole lines.
    text: Vec<u8>,
    /// Lines that were dropped since this was last written.
    dropped: u64,
    /// Whether what there is must not wait for more.
    urgent: bool,
    /// Who wants to know that what there is was written.
    flushes: Vec<SyncSender<()>>,
    stopped: bool,
}

/// Keeps the writing thread alive.
#[must_use = "dropping it ends the log"]
pub(super) struct Guard {
    lines: Lines,
    ended: Receiver<()>,
}

/// Has what was logged so far written, from any thread: for one that is about to end the process.
#[derive(Clone)]
pub(crate) struct Flush(Lines);

/// How many lines were dropped.
#[derive(Clone, Default)]
pub(crate) struct Dropped(Arc<AtomicU64>);

/// Starts the writing thread.
pub(super) fn start(output: impl Write + Send + 'static, format: LogFormat) -> (Lines, Guard) {
    let shared = Shared { queue: Mutex::default(), wake: Condvar::new(), dropped: Dropped::default() };
    let lines = Lines(Arc::new(shared));
    let (finished, ended) = sync_channel(1);
    let thread = {
        let lines = lines.clone();
        move || {
            lines.0.write_lines(output, format);
            // The guard may have given up waiting.
            let _ = finished.try_send(());
        }
    };
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(thread)
        .expect("the first thread of a process can be started");
    (lines.clone(), Guard { lines, ended })
}

impl Shared {
    /// Returns when it is stopped. A log that can't be written can't be reported either, so errors are passed over.
    fn write_lines(&self, mut output: impl Write, format: LogFormat) {
        let mut text = Vec::new();
        loop {
            let mut queue = self.wait();
            std::mem::swap(&mut queue.text, &mut text);
            let (dropped, flushes) = (std::mem::take(&mut queue.dropped), std::mem::take(&mut queue.flushes));
            let stopped = queue.stopped;
            queue.urgent = false;
            drop(queue);

            let _ = output.write_all(&text);
            if dropped > 0 {
                let _ = output.write_all(told(dropped, format).as_bytes());
            }
            let _ = output.flush();
            for flushed in flushes {
                // Whoever asked may have given up waiting.
                let _ = flushed.try_send(());
            }
            if stopped {
                return;
            }
            text.clear();
            text.shrink_to(KEPT);
        }
    }

    /// Waits until something is to be written.
    fn wait(&self) -> MutexGuard<'_, Queue> {
        let idle = |queue: &mut Queue| queue.text.is_empty() && !queue.must_go();
        let queue = self.wake.wait_while(self.queue(), idle).unwrap_or_else(PoisonError::into_inner);
        let gathering = |queue: &mut Queue| !queue.must_go();
        self.wake.wait_timeout_while(queue, LINGER, gathering).unwrap_or_else(PoisonError::into_inner).0
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line that says how many were dropped, as `tracing` would write it: the thread can't wait for its own queue.
fn told(dropped: u64, format: LogFormat) -> String {
    let mut time = String::new();
    super::now(&mut time);
    let (message, target) = ("log lines were dropped", module_path!());
    match format {
        LogFormat::Json => format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{message}\",\"lines\":{dropped},\"target\":\"{target}\"}}\n"
        ),
        LogFormat::Text => format!("{time}  WARN {target}: {message} lines={dropped}\n"),
    }
}

impl Queue {
    /// Whether the thread is to write now, and not wait for more.
    fn must_go(&self) -> bool {
        self.urgent || self.stopped || !self.flushes.is_empty() || self.text.len() >= BATCH
    }
}

impl Lines {
    /// Adds the line of a request, which may wait for others.
    pub(super) fn push(&self, line: &[u8]) {
        self.add(line, BYTES / 2, false);
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> Dropped {
        self.0.dropped.clone()
    }

    /// Adds a line if it fits into `most` bytes.
    fn add(&self, line: &[u8], most: usize, urgent: bool) {
        let mut queue = self.0.queue();
        if queue.text.len() + line.len() > most {
            queue.dropped += 1;
            drop(queue);
            self.0.dropped.0.fetch_add(1, Relaxed);
            return;
        }
        let (idle, could_wait) = (queue.text.is_empty(), !queue.must_go());
        queue.text.extend_from_slice(line);
        queue.urgent |= urgent;
        // It waits for the first line, and for one that can't wait.
        let wake = idle || could_wait && queue.must_go();
        drop(queue);
        if wake {
            self.0.wake.notify_one();
        }
    }
}

impl Guard {
    /// To write what is queued before the guard is dropped.
    pub(super) fn flush(&self) -> Flush {
        Flush(self.lines.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lines.0.queue().stopped = true;
        self.lines.0.wake.notify_one();
        let _ = self.ended.recv_timeout(FLUSH);
    }
}

impl Flush {
    /// Returns when all lines that are queued now are written, or when it has waited so long for it.
    pub(crate) fn wait(&self, at_most: Duration) {
        let (flushed, done) = sync_channel(1);
        self.0.0.queue().flushes.push(flushed);
        self.0.0.wake.notify_one();
        let _ = done.recv_timeout(at_most);
    }
}

impl Dropped {
    /// So many until now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
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
        self.add(line, BYTES, true);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tracing_subscriber::prelude::*;

    use super::*;

    /// Collects what is written; its first write waits until the test lets go of `gate`.
    struct Slow {
        gate: Option<Receiver<()>>,
        written: Arc<Mutex<Vec<u8>>>,
        writes: Arc<AtomicU64>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if let Some(gate) = self.gate.take() {
                let _ = gate.recv();
            }
            self.writes.fetch_add(1, Relaxed);
            self.written.lock().expect("no panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Stalled {
        lines: Lines,
        guard: Guard,
        open: Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
        writes: Arc<AtomicU64>,
    }

    impl Stalled {
        fn start() -> Self {
            let (open, gate) = channel();
            let (written, writes) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicU64>::default());
            let output = Slow { gate: Some(gate), written: written.clone(), writes: writes.clone() };
            let (lines, guard) = start(output, LogFormat::Json);
            Self { lines, guard, open, written, writes }
        }

        fn end(self) -> String {
            drop(self.open);
            drop(self.guard);
            String::from_utf8(self.written.lock().expect("no panics").clone()).expect("text")
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_not_time_and_the_rest_arrives() {
        let stalled = Stalled::start();
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        let total = 3 * BYTES / line.len();
        for _ in 0..total {
            (&stalled.lines).write_all(&line).expect("never fails");
        }
        // One buffer, and one in the thread's hands.
        let dropped = stalled.lines.dropped().get() as usize;
        assert!(
            (total - 2 * BYTES / line.len()..total - BYTES / line.len() + 1).contains(&dropped),
            "{dropped} dropped"
        );
        let written = stalled.end();
        assert_eq!(written.lines().filter(|line| line.len() == 1023).count() + dropped, total);
        assert!(written.contains(&format!("\"lines\":{dropped}")), "{dropped}");
    }

    #[test]
    fn what_was_dropped_is_told_as_everything_else_is() {
        /// What `tracing` writes of the same event.
        fn written(format: LogFormat) -> String {
            let output = Arc::<Mutex<Vec<u8>>>::default();
            let writer = {
                let output = output.clone();
                move || Slow { gate: None, written: output.clone(), writes: Arc::default() }
            };
            let subscriber = tracing_subscriber::registry().with(crate::telemetry::layer(format, false, writer));
            tracing::subscriber::with_default(subscriber, || tracing::warn!(lines = 3_u64, "log lines were dropped"));
            String::from_utf8(output.lock().expect("no panics").clone()).expect("text")
        }
        // The same but for the moment.
        let timeless = |line: &str| line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
        for format in [LogFormat::Json, LogFormat::Text] {
            let here = written(format).replace("writer::tests", "writer");
            assert_eq!(timeless(&told(3, format)), timeless(&here));
        }
    }

    #[test]
    fn requests_leave_room_for_events() {
        let stalled = Stalled::start();
        let line = vec![b'x'; BYTES / 16];
        for _ in 0..64 {
            stalled.lines.push(&line);
        }
        let dropped = stalled.lines.dropped().get();
        assert!(dropped > 0);
        (&stalled.lines).write_all(b"\nimportant\n").expect("never fails");
        assert_eq!(stalled.lines.dropped().get(), dropped);
        assert!(stalled.end().lines().any(|line| line == "important"));
    }

    #[test]
    fn requests_are_written_many_at_a_time() {
        let stalled = Stalled::start();
        for _ in 0..1000 {
            stalled.lines.push(b"request\n");
        }
        let writes = stalled.writes.clone();
        assert_eq!(stalled.end().lines().count(), 1000);
        // The first one may have been alone, and each further batch is larger than what is left.
        assert!(writes.load(Relaxed) <= 2, "{writes:?}");
    }

    #[test]
    fn a_flush_waits_for_what_was_logged_before_and_not_for_ever() {
        let stalled = Stalled::start();
        (&stalled.lines).write_all(b"before\n").expect("never fails");
        let flush = stalled.guard.flush();
        flush.wait(Duration::from_millis(1));
        assert_eq!(*stalled.written.lock().expect("no panics"), b"", "stderr is stalled");
        stalled.open.send(()).expect("it waits");
        flush.wait(Duration::from_secs(60));
        assert_eq!(*stalled.written.lock().expect("no panics"), b"before\n");
    }
}
