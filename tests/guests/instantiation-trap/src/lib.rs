//! A guest that traps before it can take a request. For tests only.
//!
//! The panic is in a constructor, which the first call of any export runs.

#![cfg(target_family = "wasm")]
#![allow(dead_code, reason = "wstd's macro leaves a `main` that only a binary needs")]
#![allow(unsafe_code, reason = "a constructor is a function in a link section")]

use wstd::http::{Body, Error, Request, Response};

extern "C" fn trap() {
    std::arch::wasm32::unreachable();
}

#[used]
#[unsafe(link_section = ".init_array")]
static TRAP: extern "C" fn() = trap;

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new("never".into()))
}
