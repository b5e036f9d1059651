//! Instances outside of the host, made by the test: well-behaved ones and others.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use crate::Wire;

/// An address with something behind it. Ends when it is dropped.
pub struct Remote {
    address: SocketAddr,
    counts: Arc<Counts>,
    /// A socket that is bound and doesn't listen: connections to it are refused, and nobody else gets its port.
    _refusing: Option<rustix::fd::OwnedFd>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    stopped: AtomicBool,
}

impl Remote {
    /// Answers each request by `serve`, connections being kept alive.
    pub fn start(serve: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self::counting(move |mut wire, counts| {
            while let Some(mut exchange) = Exchange::read(&mut wire) {
                counts.requests.fetch_add(1, SeqCst);
                serve(&mut exchange);
                if exchange.closing {
                    return;
                }
            }
        })
    }

    /// Lets `serve` have each connection as it is.
    pub fn raw(serve: impl Fn(Wire) + Send + Sync + 'static) -> Self {
        Self::counting(move |wire, _| serve(wire))
    }

    fn counting(serve: impl Fn(Wire, &Counts) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("the socket is bound");
        let counts = Arc::new(Counts::default());
        let (shared, serve) = (counts.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                shared.connections.fetch_add(1, SeqCst);
                let (shared, serve) = (shared.clone(), serve.clone());
                std::thread::spawn(move || serve(Wire::new(stream), &shared));
            }
        });
        Self { address, counts, _refusing: None }
    }

    /// Answers like a storage of this name.
    pub fn storage(name: &str) -> Self {
        let body = format!(r#"{{"storage":"{name}","data":[1,2,3]}}"#);
        Self::start(move |exchange| exchange.answer(200, &[("content-type", "application/json")], body.as_bytes()))
    }

    /// Refuses connections.
    pub fn refusing() -> Self {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = getsockname(&socket).expect("the socket is bound").try_into().expect("an IP address");
        Self { address, counts: Arc::default(), _refusing: Some(socket) }
    }

    /// Accepts connections, reads requests and never answers.
    pub fn silent() -> Self {
        Self::raw(|mut wire| while wire.line().is_some() {})
    }

    /// The `http://` URL to register.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(SeqCst)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.counts.stopped.store(true, SeqCst);
        // The listener only looks when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

/// A request that came, and the connection to answer it on.
pub struct Exchange<'a> {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers by lower-case name, the last one of each.
    pub headers: HashMap<String, String>,
    /// The connection; the body, if there is one, is still to be read.
    pub wire: &'a mut Wire,
    closing: bool,
}

impl<'a> Exchange<'a> {
    /// Reads the head of a request; none at the end of the connection.
    fn read(wire: &'a mut Wire) -> Option<Self> {
        let first = wire.line()?;
        let mut parts = first.split(' ');
        let (method, target) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let line = wire.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Some(Self { method, target, headers, wire, closing: false })
    }

    /// Reads the body. None if it breaks off.
    pub fn body(&mut self) -> Option<Vec<u8>> {
        if self.headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            let mut body = Vec::new();
            while let Some(chunk) = self.wire.chunk().ok()? {
                body.extend(chunk);
            }
            return Some(body);
        }
        let length = self.headers.get("content-length").and_then(|length| length.parse().ok());
        self.wire.exactly(length.unwrap_or(0)).ok()
    }

    /// Sends a whole answer.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.wire.send(head);
        if self.method != "HEAD" {
            self.wire.send(body);
        }
    }

    /// Closes the connection after this.
    pub fn close(&mut self) {
        self.closing = true;
    }
}
