//! A guest with effects, of which its revisions have different ones. For tests only.
//!
//! | request | what happens |
//! |---|---|
//! | `POST /count` | adds 1 to the key `count`, puts the body under `last`, answers with the sum and what was there: `{"count","last"}` |
//! | `GET /fetch?URL` | answers with what is at the URL, or a 502 with the reason |
//! | anything else | 200 `ok` |
//!
//! | kind | what is different |
//! |---|---|
//! | `other` | the answer to `/count` has a header `x-mood`, and the number is called `sum` |
//! | `leaks` | `/count` also writes the key `leak`, deletes `keep`, and sends a `POST` to the URL in `LEAK`, with the same answer |
//! | `odd` | `/count` traps if the body begins with `odd` |
//! | `slow` | `/count` waits for 200 ms first |

#![cfg(target_family = "wasm")]
#![allow(dead_code, reason = "wstd's macro leaves a `main` that only a binary needs")]

use bindings::wasi::keyvalue::{atomics, store};
use serde_json::json;
use wstd::http::{Body, Client, Error, Method, Request, Response};

/// Bindings to the store.
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit/deps/wasi-keyvalue-0.2.0-draft2", "wit"],
        world: "test:understudy/understudy",
        generate_all,
    });
}

#[wstd::http_server]
async fn main(mut request: Request<Body>) -> Result<Response<Body>, Error> {
    let uri = request.uri().clone();
    match uri.path() {
        "/count" => {
            let body = request.body_mut().contents().await?.to_vec();
            Ok(count(&body).await)
        }
        "/fetch" => match send(Method::GET, uri.query().unwrap_or_default()).await {
            Ok(text) => Ok(Response::new(text.into())),
            Err(error) => Ok(answer(502, error.to_string())),
        },
        _ => Ok(Response::new("ok".to_owned().into())),
    }
}

async fn count(body: &[u8]) -> Response<Body> {
    let kind = stamp::kind();
    if kind == "odd" && body.starts_with(b"odd") {
        std::arch::wasm32::unreachable();
    }
    if kind == "slow" {
        wstd::task::sleep(wstd::time::Duration::from_millis(200)).await;
    }
    let bucket = store::open("").expect("the default bucket is allowed");
    let count = atomics::increment(&bucket, "count", 1).expect("a number");
    let last = bucket.get("last").expect("the store is there").unwrap_or_default();
    bucket.set("last", body).expect("the store is there");
    if kind == "leaks" {
        bucket.set("leak", body).expect("the store is there");
        bucket.delete("keep").expect("the store is there");
        let url = std::env::var("LEAK").expect("the test says where");
        // That it is refused is the point.
        let _ = send(Method::POST, &url).await;
    }
    let last = String::from_utf8_lossy(&last);
    if kind == "other" {
        let mut response = answer(200, json!({ "sum": count, "last": last }).to_string());
        response.headers_mut().insert("x-mood", wstd::http::HeaderValue::from_static("other"));
        return response;
    }
    answer(200, json!({ "count": count, "last": last }).to_string())
}

async fn send(method: Method, url: &str) -> Result<String, Error> {
    let request = Request::builder().method(method).uri(url).body(Body::empty())?;
    let mut response = Client::new().send(request).await?;
    let bytes = response.body_mut().contents().await?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn answer(status: u16, text: String) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = wstd::http::StatusCode::from_u16(status).expect("a valid status");
    response
}
