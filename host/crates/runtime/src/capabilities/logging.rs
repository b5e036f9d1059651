//! What guests print: each line on stdout or stderr becomes one event in the host's log, with the component, the
//! instance and the requests the guest serves at that moment.
//!
//! Bounded for each guest: [`BURST`] lines at once and [`RATE`] a second in the long run. What is more is dropped and
//! counted, and the count logged before the next line, or at the guest's end.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use registry::Name;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::guest::Guest;

/// Bytes of a line that are kept; a longer one becomes several events.
const MAX_LINE: usize = 8 << 10;

/// Lines a second that a guest may print.
const RATE: u32 = 100;

/// Lines that it may print at once.
const BURST: u32 = 1000;

/// Which of the two streams a line was printed on.
#[derive(Clone, Copy, Debug)]
enum Stream {
    Stdout,
    Stderr,
}

/// One of a guest's two streams.
#[derive(Clone)]
pub(crate) struct LogStream(Arc<Inner>);

struct Inner {
    stream: Stream,
    component: Arc<str>,
    instance: Name,
    guest: Arc<Guest>,
    allowance: Arc<Mutex<Allowance>>,
    /// The beginning of a line that hasn't ended yet, at most `MAX_LINE` bytes.
    line: Mutex<Vec<u8>>,
}

impl LogStream {
    /// The stdout and stderr of a guest.
    pub(crate) fn both(component: Arc<str>, instance: Name, guest: Arc<Guest>) -> (Self, Self) {
        let allowance = Arc::new(Mutex::new(Allowance::new(Instant::now())));
        let new = |stream| {
            let (component, instance, guest, allowance) =
                (component.clone(), instance.clone(), guest.clone(), allowance.clone());
            Self(Arc::new(Inner { stream, component, instance, guest, allowance, line: Mutex::default() }))
        };
        (new(Stream::Stdout), new(Stream::Stderr))
    }

    fn print(&self, mut bytes: &[u8]) {
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&mut line, &bytes[..end]);
            self.emit(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.extend(&mut line, bytes);
    }

    fn extend(&self, line: &mut Vec<u8>, mut bytes: &[u8]) {
        while line.len() + bytes.len() > MAX_LINE {
            let (now, later) = bytes.split_at(MAX_LINE - line.len());
            line.extend_from_slice(now);
            self.emit(line);
            bytes = later;
        }
        line.extend_from_slice(bytes);
    }

    fn emit(&self, line: &mut Vec<u8>) {
        self.0.emit(line, Some(&*self.0.guest));
        line.clear();
    }
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Inner {
    /// Logs a line, for the requests that `guest` serves; none of them if it has come to its end.
    fn emit(&self, line: &[u8], guest: Option<&Guest>) {
        let Some(dropped) = self.allowance().take(Instant::now()) else { return };
        self.report(dropped);
        let (component, instance, stream) = (&*self.component, self.instance.as_str(), self.stream.name());
        // Only for lines that are logged: a guest that floods the log may print any number.
        let request_id = guest.map(Guest::request_ids).unwrap_or_default();
        let trace_id = guest.and_then(Guest::trace_ids);
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        tracing::info!(target: "guest", component, instance, request_id, trace_id, stream, "{text}");
    }

    fn report(&self, lines: u64) {
        if lines > 0 {
            let (component, instance) = (&*self.component, self.instance.as_str());
            tracing::warn!(
                component,
                instance,
                lines,
                "lines of a guest were dropped: it prints more than {RATE} a second"
            );
        }
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines a guest may print now.
#[derive(Debug)]
struct Allowance {
    lines: u32,
    /// When lines were last added: a whole number of them.
    filled: Instant,
    dropped: u64,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, filled: now, dropped: 0 }
    }

    /// Allows one line, and says how many were dropped before it; or drops it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let interval = Duration::from_secs(1) / RATE;
        let earned = now.saturating_duration_since(self.filled).as_nanos() / interval.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.filled += interval.saturating_mul(earned);
        self.lines = self.lines.saturating_add(earned).min(BURST);
        match self.lines.checked_sub(1) {
            Some(left) => {
                self.lines = left;
                Some(std::mem::take(&mut self.dropped))
            }
            None => {
                self.dropped += 1;
                None
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let line = std::mem::take(self.line.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !line.is_empty() {
            self.emit(&line, None);
        }
        let dropped = std::mem::take(&mut self.allowance().dropped);
        self.report(dropped);
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_LINE)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let allowed = |allowance: &mut Allowance, now| (0..2 * BURST).filter(|_| allowance.take(now).is_some()).count();
        assert_eq!(allowed(&mut allowance, start), BURST as usize);
        assert_eq!(allowed(&mut allowance, start + Duration::from_secs(1)), RATE as usize);
        let nearly = start + Duration::from_millis(2005);
        assert_eq!(allowed(&mut allowance, nearly), RATE as usize);
        // What was over is not lost.
        assert_eq!(allowed(&mut allowance, start + Duration::from_millis(2010)), 1);
        assert_eq!(allowed(&mut allowance, start + Duration::from_secs(3600)), BURST as usize);
    }

    #[test]
    fn what_was_dropped_is_told_once() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for _ in 0..BURST + 7 {
            allowance.take(start);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!((allowance.take(later), allowance.take(later)), (Some(7), Some(0)));
    }
}
