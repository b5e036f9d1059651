//! The misbehaving guest for WASI 0.3. For tests only; what it does is in the crate `misbehaving`.

#![cfg(target_family = "wasm")]

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderValue};
use misbehaving::{Deed, act, chunk, spin, trap};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::wit_bindgen::StreamReader;
use wasip3::{spawn_local, wit_future, wit_stream};

struct Misbehaving;

wasip3::http::service::export!(Misbehaving);

impl wasip3::exports::http::handler::Guest for Misbehaving {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let deed = act(&request.get_path_with_query().unwrap_or_default());
        drop(request);
        Ok(match deed {
            Deed::Answer(status, text) => answer(status, text),
            // Without anything to wait for, the bindings would panic.
            Deed::Block => loop {
                wait_for(u64::MAX / 2).await;
            },
            // The standard library still sleeps by WASI 0.2, in one call that blocks the guest.
            Deed::BlockSync => loop {
                std::thread::sleep(Duration::from_secs(1 << 20));
            },
            Deed::Stream { chunks, delay_ms, traps } => stream(chunks, delay_ms, traps),
            Deed::Slow(ms) => {
                sleep(ms).await;
                answer(200, "ok".to_owned())
            }
            Deed::Outbound(url) => match send(&Method::Get, &url, None).await {
                Ok(response) => response,
                Err(error) => answer(502, error),
            },
            Deed::UploadTrap(url) => {
                let (mut contents, contents_reader) = wit_stream::new();
                spawn_local(async move {
                    contents.write_all(chunk(0)).await;
                    wait_for(u64::MAX / 2).await;
                });
                match send(&Method::Post, &url, Some(contents_reader)).await {
                    Ok(_) => trap(),
                    Err(error) => answer(502, error),
                }
            }
            Deed::PostReturnLoop => {
                let response = answer(200, "ok".to_owned());
                spawn_local(async {
                    // Later than the answer's own writes.
                    sleep(50).await;
                    spin();
                });
                response
            }
        })
    }
}

async fn sleep(ms: u64) {
    wait_for(ms * 1_000_000).await;
}

fn answer(status: u16, text: String) -> Response {
    let headers = guest::fields([(CONTENT_LENGTH, HeaderValue::from(text.len()))]);
    guest::respond(status, headers, text.into_bytes())
}

fn stream(chunks: u64, delay_ms: u64, traps: bool) -> Response {
    let (mut contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(contents_reader), trailers_reader);
    spawn_local(async move {
        for n in 0..chunks {
            if n > 0 && delay_ms > 0 {
                sleep(delay_ms).await;
            }
            if !contents.write_all(chunk(n)).await.is_empty() {
                return;
            }
        }
        if traps {
            trap();
        }
        drop(contents);
        drop(trailers);
    });
    response
}

/// The response to a request, or the text of what went wrong.
async fn send(method: &Method, url: &str, contents: Option<StreamReader<u8>>) -> Result<Response, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (_trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), contents, trailers_reader, None);
    request.set_method(method).map_err(|()| "the method is not valid")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme is not valid")?;
    request.set_authority(Some(authority)).map_err(|()| "the authority is not valid")?;
    request.set_path_with_query(Some(path)).map_err(|()| "the path is not valid")?;
    client::send(request).await.map_err(|error| format!("{error:?}"))
}
