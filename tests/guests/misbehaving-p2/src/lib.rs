//! The misbehaving guest for WASI 0.2. For tests only; what it does is in the crate `misbehaving`.

#![cfg(target_family = "wasm")]

use misbehaving::{Deed, act, chunk, spin, trap};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

struct Misbehaving;

wasip2::http::proxy::export!(Misbehaving);

impl wasip2::exports::http::incoming_handler::Guest for Misbehaving {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match act(&request.path_with_query().unwrap_or_default()) {
            Deed::Answer(status, text) => answer(out, status, text.as_bytes()),
            Deed::Block | Deed::BlockSync => loop {
                sleep(u64::MAX / 2_000_000);
            },
            Deed::Stream { chunks, delay_ms, traps } => stream(out, chunks, delay_ms, traps),
            Deed::Slow(ms) => {
                sleep(ms);
                answer(out, 200, b"ok");
            }
            Deed::Outbound(url) => {
                match send(&Method::Get, &url, None).and_then(|response| Ok((response.status(), body(&response)?))) {
                    Ok((status, body)) => answer(out, status, &body),
                    Err(error) => answer(out, 502, error.as_bytes()),
                }
            }
            Deed::UploadTrap(url) => match send(&Method::Post, &url, Some(&chunk(0))) {
                Ok(_) => trap(),
                Err(error) => answer(out, 502, error.as_bytes()),
            },
            Deed::PostReturnLoop => {
                answer(out, 200, b"ok");
                spin();
            }
        }
    }
}

fn sleep(ms: u64) {
    subscribe_duration(ms * 1_000_000).block();
}

fn answer(out: ResponseOutparam, status: u16, body: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("the status is valid");
    let outgoing = response.body().expect("the body was not taken yet");
    ResponseOutparam::set(out, Ok(response));
    let stream = outgoing.write().expect("the stream was not taken yet");
    for piece in body.chunks(4096) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(outgoing, None);
}

fn stream(out: ResponseOutparam, chunks: u64, delay_ms: u64, traps: bool) {
    let response = OutgoingResponse::new(Fields::new());
    let outgoing = response.body().expect("the body was not taken yet");
    ResponseOutparam::set(out, Ok(response));
    let stream = outgoing.write().expect("the stream was not taken yet");
    for n in 0..chunks {
        if n > 0 && delay_ms > 0 {
            sleep(delay_ms);
        }
        if stream.blocking_write_and_flush(&chunk(n)).is_err() {
            return;
        }
    }
    if traps {
        trap();
    }
    drop(stream);
    let _ = OutgoingBody::finish(outgoing, None);
}

/// The response to a request, or the text of what went wrong. With `first`, it has a body that begins so and never ends.
fn send(method: &Method, url: &str, first: Option<&[u8]>) -> Result<IncomingResponse, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme is not valid")?;
    request.set_authority(Some(authority)).map_err(|()| "the authority is not valid")?;
    request.set_path_with_query(Some(path)).map_err(|()| "the path is not valid")?;
    request.set_method(method).map_err(|()| "the method is not valid")?;
    let begun = first.map(|first| (request.body().expect("the body was not taken yet"), first));
    let future = outgoing_handler::handle(request, None).map_err(|error| text(&error))?;
    if let Some((outgoing, first)) = begun {
        let stream = outgoing.write().expect("the stream was not taken yet");
        stream.blocking_write_and_flush(first).map_err(|error| format!("{error:?}"))?;
        // To drop them would be to say that it broke off.
        std::mem::forget((stream, outgoing));
    }
    future.subscribe().block();
    future.get().expect("it is ready").expect("it was not taken yet").map_err(|error| text(&error))
}

fn body(response: &IncomingResponse) -> Result<Vec<u8>, String> {
    let body = response.consume().expect("the body was not taken yet");
    let stream = body.stream().expect("the stream was not taken yet");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn text(error: &ErrorCode) -> String {
    format!("{error:?}")
}
