//! What guests print: each line on stdout or stderr becomes one event in the host's log, with the component, the
//! instance and the requests the guest serves at that moment.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use registry::Name;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::guest::Guest;

/// Bytes of a line that are kept; a longer one becomes several events.
const MAX_LINE: usize = 8 << 10;

/// Which of the two streams a line was printed on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
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
    /// The beginning of a line that hasn't ended yet, at most `MAX_LINE` bytes.
    line: Mutex<Vec<u8>>,
}

impl LogStream {
    pub(crate) fn new(stream: Stream, component: Arc<str>, instance: Name, guest: Arc<Guest>) -> Self {
        Self(Arc::new(Inner { stream, component, instance, guest, line: Mutex::default() }))
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
        let Inner { stream, component, instance, guest, .. } = &*self.0;
        let (component, instance) = (&**component, instance.as_str());
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        let request_id = guest.request_ids();
        match stream {
            Stream::Stdout => {
                tracing::info!(target: "guest", component, instance, request_id, stream = "stdout", "{text}")
            }
            Stream::Stderr => {
                tracing::info!(target: "guest", component, instance, request_id, stream = "stderr", "{text}")
            }
        }
        line.clear();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let line = std::mem::take(self.line.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !line.is_empty() {
            let (component, instance) = (&*self.component, self.instance.as_str());
            tracing::info!(target: "guest", component, instance, stream = ?self.stream, "{}", String::from_utf8_lossy(&line));
        }
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
