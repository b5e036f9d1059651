//! A native HTTP server that gives storage's answer to `/data`, without a sandbox: the limit for a component served
//! directly, and what nginx is put in front of. One thread per core, as the host has.
//!
//! `bench-native ADDRESS`

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header::HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ANSWER: &[u8] = b"{\"storage\":\"storage-1\",\"data\":[1,2,3]}";

fn main() -> std::io::Result<()> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8081)));
    let cores = std::thread::available_parallelism()?.get();
    let workers = (0..cores).map(|_| worker()).collect::<Result<Vec<_>, _>>()?;
    let listener = std::net::TcpListener::bind(address)?;
    println!("http://{}", listener.local_addr()?);
    for (connection, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        workers[connection % cores].spawn(serve(stream));
    }
    Ok(())
}

fn worker() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(handle)
}

async fn serve(stream: std::net::TcpStream) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let service = service_fn(async |_| {
        let mut answer = Response::new(Full::new(Bytes::from_static(ANSWER)));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok::<_, Infallible>(answer)
    });
    // Whatever ends a connection ends only it.
    let _ = http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
}
