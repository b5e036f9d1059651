//! The README's example for WASI 0.2.

#![cfg(target_family = "wasm")]
#![allow(dead_code, reason = "wstd's macro leaves a `main` that only a binary needs")]

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    Ok(Response::new(format!("Hello from {path}\n").into()))
}
