//! Odd requests: a connection on which a test writes and reads byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::{PATIENCE, Reply};

/// A connection.
pub struct Wire {
    stream: TcpStream,
    /// What came and was not asked for yet.
    pending: Vec<u8>,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
}

impl Wire {
    /// Connects to an `http://host:port` URL.
    pub fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).expect("the address accepts connections");
        Self::new(stream)
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("the option can be set");
        Self { stream, pending: Vec::new() }
    }

    /// Writes as much as the other side takes. A test that writes to somebody who has hung up goes on to read why.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.try_send(bytes);
        self
    }

    /// Writes all.
    ///
    /// # Errors
    /// The other side has hung up.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Closes the connection by a reset, as a process that dies does.
    pub fn reset(self) {
        // Linux resets a connection that is closed with unread data or without time to linger.
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(std::time::Duration::ZERO))
            .expect("the option can be set");
    }

    /// Reads the head of an answer; none if the connection is closed before one.
    #[track_caller]
    pub fn head(&mut self) -> Option<Head> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut parsed = httparse::Response::new(&mut headers);
            match parsed.parse(&self.pending) {
                Ok(httparse::Status::Complete(length)) => {
                    let status = parsed.code.expect("a complete head has a status");
                    let headers = parsed.headers.iter().map(|header| {
                        let name: http::HeaderName = header.name.parse().expect("a parsed name");
                        (name, http::HeaderValue::from_bytes(header.value).expect("a parsed value"))
                    });
                    let head = Head { status, headers: headers.collect() };
                    self.pending.drain(..length);
                    return Some(head);
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => panic!("not HTTP ({error}): {:?}", String::from_utf8_lossy(&self.pending)),
            }
            if !self.fill() {
                assert!(self.pending.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.pending));
                return None;
            }
        }
    }

    /// Reads a whole answer to `GET`, `PUT` and the like; none if the connection is closed before one.
    #[track_caller]
    pub fn reply(&mut self) -> Option<Reply> {
        loop {
            let head = self.head()?;
            if head.status < 200 {
                continue;
            }
            let body = self.body(&head).expect("the body is complete");
            return Some(Reply { status: head.status, headers: head.headers, body });
        }
    }

    /// Reads the body that belongs to a head.
    ///
    /// # Errors
    /// What came of it, if the connection was closed before its end.
    pub fn body(&mut self, head: &Head) -> Result<Vec<u8>, Vec<u8>> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().map_err(|_| body.clone())? {
                body.extend(chunk);
            }
            return Ok(body);
        }
        match header("content-length").and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => self.exactly(length),
            None if matches!(head.status, 204 | 304) => Ok(Vec::new()),
            None => {
                while self.fill() {}
                Ok(std::mem::take(&mut self.pending))
            }
        }
    }

    /// Reads one chunk of a chunked body; none at its end.
    ///
    /// # Errors
    /// The connection was closed before.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let broken = || std::io::Error::from(ErrorKind::UnexpectedEof);
        let line = self.line().ok_or_else(broken)?;
        let size = line.split(';').next().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.unwrap_or_else(|| panic!("not the size of a chunk: {line:?}"));
        let chunk = self.exactly(size).map_err(|_| broken())?;
        let end = self.line().ok_or_else(broken)?;
        assert_eq!(end, "", "a chunk, or a body without trailers, ends with an empty line");
        Ok((size > 0).then_some(chunk))
    }

    /// Whether the other side has hung up and sent nothing more before.
    pub fn is_closed(&mut self) -> bool {
        self.pending.is_empty() && !self.fill()
    }

    /// Reads a line without its end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.pending[..end]).into_owned();
                self.pending.drain(..end + 2);
                return Some(line);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// What came, if the connection was closed before.
    pub(crate) fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Vec<u8>> {
        while self.pending.len() < length {
            if !self.fill() {
                return Err(std::mem::take(&mut self.pending));
            }
        }
        Ok(self.pending.drain(..length).collect())
    }

    /// Reads what there is, at least a byte. False at the end.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(read) => {
                self.pending.extend_from_slice(&buffer[..read]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}; before: {:?}", String::from_utf8_lossy(&self.pending))
            }
            Err(_) => false,
        }
    }
}
