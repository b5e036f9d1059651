//! `bench-latency ADDRESS CONNECTIONS RATE SECONDS PATH BODY`: how long each of many requests takes, and when.
//!
//! Sends `POST PATH` with that body so many times a second, spread evenly over kept-alive connections, whether or not the
//! answers keep up: the time of a request counts from when it was due, so that none is left out because the one before it
//! was slow. Prints a line for each: when it was due in seconds since 1970, how long it took in seconds, and the status,
//! 0 for none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is known of one request: when it was due, how long it took, its status.
type Sample = (Duration, Duration, u16);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, rate, seconds, path, body] = arguments.as_slice() else {
        eprintln!("usage: bench-latency ADDRESS CONNECTIONS RATE SECONDS PATH BODY");
        std::process::exit(2);
    };
    let number = |text: &str| -> u32 { text.parse().expect("CONNECTIONS, RATE and SECONDS are numbers") };
    let (connections, rate, seconds) = (number(connections), number(rate), number(seconds));
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let period = Duration::from_secs(1) * connections / rate;
    let (begun, epoch) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970"));
    let samples: Vec<Sample> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|client| {
                let request = &request;
                let first = period * client / connections;
                let last = Duration::from_secs(seconds.into());
                scope.spawn(move || measure(address, request, begun, epoch, first, period, last))
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client doesn't panic")).collect()
    });
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (due, took, status) in samples {
        let written = writeln!(out, "{:.6} {:.6} {status}", due.as_secs_f64(), took.as_secs_f64());
        written.expect("whoever wants the lines reads them");
    }
}

fn measure(
    address: &str,
    request: &str,
    begun: Instant,
    epoch: Duration,
    first: Duration,
    period: Duration,
    last: Duration,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut stream = None;
    let mut due = first;
    while due < last {
        std::thread::sleep((begun + due).saturating_duration_since(Instant::now()));
        let status = ask(&mut stream, address, request).unwrap_or_else(|_| {
            stream = None;
            0
        });
        samples.push((epoch + due, begun.elapsed().saturating_sub(due), status));
        due += period;
    }
    samples
}

/// Sends a request and reads its whole answer, which must have a length or be chunked.
fn ask(stream: &mut Option<TcpStream>, address: &str, request: &str) -> std::io::Result<u16> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let connected = TcpStream::connect(address)?;
            connected.set_nodelay(true)?;
            connected.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.insert(connected)
        }
    };
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..read]);
        if let Some(status) = complete(&answer) {
            return Ok(status);
        }
    }
}

/// The status, if the answer is whole.
fn complete(answer: &[u8]) -> Option<u16> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let whole = match head.split("content-length: ").nth(1) {
        Some(rest) => answer.len() - end >= rest.split("\r\n").next()?.parse().ok()?,
        None => answer.ends_with(b"0\r\n\r\n"),
    };
    head.split(' ').nth(1).filter(|_| whole)?.parse().ok()
}
