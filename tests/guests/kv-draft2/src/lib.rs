//! Uses every function of `wasi:keyvalue@0.2.0-draft2`, and `wasi:config/store`. For tests only.
//!
//! `GET /?bucket=B` (default: the default bucket) does each operation once and answers with a JSON object of what they
//! returned: an error is `{"error": text}`. `GET /?pages=B` lists many keys while they change. It leaves the keys `e1`, `e2` and `e3`. `config` is the configuration.
//!
//! `GET /?store=K` sets the key K, and then: reads it back (`&then=read`), traps (`&then=trap`), or asks for a URL
//! (`&then=URL`). It answers with what the last of these returned.

#![cfg(target_family = "wasm")]
#![allow(dead_code, reason = "wstd's macro leaves a `main` that only a binary needs")]

use std::collections::BTreeMap;

use bindings::wasi::config::store as config;
use bindings::wasi::keyvalue::{atomics, batch, store};
use serde_json::{Value, json};
use wstd::http::{Body, Client, Error, Request, Response};

/// Bindings to the interfaces under test.
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit/deps/wasi-keyvalue-0.2.0-draft2", "wit"],
        world: "test:kv-draft2/kv-draft2",
        generate_all,
    });
}

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let query = request.uri().query().unwrap_or_default();
    if let Some(name) = query.strip_prefix("pages=") {
        return Ok(Response::new(pages(name).unwrap_or_else(failed).to_string().into()));
    }
    if let Some(what) = query.strip_prefix("store=") {
        let (key, then) = what.split_once("&then=").unwrap_or((what, ""));
        return Ok(Response::new(store_and(key, then).await.unwrap_or_else(failed).to_string().into()));
    }
    let mut report = exercise(query.strip_prefix("bucket=").unwrap_or_default()).unwrap_or_else(failed);
    let all = config::get_all().expect("the configuration can be read");
    report["config"] = json!({
        "all": all.into_iter().collect::<BTreeMap<_, _>>(),
        "absent": config::get("no such key").expect("the configuration can be read"),
    });
    Ok(Response::new(report.to_string().into()))
}

fn exercise(name: &str) -> Result<Value, store::Error> {
    let bucket = store::open(name)?;
    for key in ["e1", "e2", "e3", "n"] {
        bucket.delete(key)?;
    }
    let absent = bucket.get("e1")?;
    bucket.set("e1", b"one")?;
    batch::set_many(&bucket, &[("e2".to_owned(), b"two".to_vec()), ("gone".to_owned(), b"x".to_vec())])?;
    batch::delete_many(&bucket, &["gone".to_owned(), "never-was".to_owned()])?;
    let many = batch::get_many(&bucket, &["e2".to_owned(), "gone".to_owned(), "e1".to_owned()])?;
    let incremented = atomics::increment(&bucket, "n", 5)?;
    let decremented = atomics::increment(&bucket, "n", -7)?;
    bucket.delete("n")?;

    let first = atomics::Cas::new(&bucket, "e3")?;
    let before = first.current()?;
    let late = atomics::Cas::new(&bucket, "e3")?;
    let swapped = atomics::swap(first, b"first").is_ok();
    let (conflicted, retried) = match atomics::swap(late, b"late") {
        Err(atomics::CasError::CasFailed(fresh)) => {
            let current = fresh.current()?;
            (json!(current), atomics::swap(fresh, b"second").is_ok())
        }
        Err(atomics::CasError::StoreError(error)) => (failed(error), false),
        Ok(()) => (json!("no conflict"), false),
    };

    let keys = bucket.list_keys(None)?.keys;
    Ok(json!({
        "absent": absent,
        "get": bucket.get("e1")?,
        "exists": [bucket.exists("e1")?, bucket.exists("gone")?],
        "get-many": many,
        "increment": [incremented, decremented],
        "not-a-number": atomics::increment(&bucket, "e1", 1).map_or_else(failed, |sum| json!(sum)),
        "cas": {
            "before": before,
            "swapped": swapped,
            "conflicted": conflicted,
            "retried": retried,
            "after": bucket.get("e3")?,
        },
        "empty-key": bucket.set("", b"x").map_or_else(failed, |()| json!(null)),
        "keys": keys,
    }))
}

/// Sets a key to a value of 4 KiB, and goes on.
async fn store_and(key: &str, then: &str) -> Result<Value, store::Error> {
    let bucket = store::open("")?;
    bucket.set(key, &[b'v'; 4096])?;
    Ok(match then {
        "" => json!("stored"),
        "read" => json!(bucket.get(key)?.map(|value| value.len())),
        "trap" => core::arch::wasm32::unreachable(),
        url => {
            let request = Request::get(url).body(Body::empty()).expect("the URL is valid");
            let told = Client::new().send(request).await;
            json!(told.map_or_else(|error| error.to_string(), |answer| answer.status().to_string()))
        }
    })
}

/// Lists more keys than fit on a page, while some are written and deleted.
fn pages(name: &str) -> Result<Value, store::Error> {
    let bucket = store::open(name)?;
    let key = |number: usize| format!("key-{number:04}");
    for hundred in 0..25 {
        let entries: Vec<_> = (0..100).map(|number| (key(hundred * 100 + number), Vec::new())).collect();
        batch::set_many(&bucket, &entries)?;
    }
    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        // The key that the next page begins after goes, and new ones come, before and behind it.
        if let Some(last) = page.keys.last() {
            bucket.delete(last)?;
            bucket.set("a-new-one", b"")?;
            bucket.set(&format!("{last}-and-a-half"), b"")?;
        }
        pages.push(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let keys = pages.concat();
    Ok(json!({
        "pages": pages.len(),
        "in-order": keys.is_sorted_by(|left, right| left < right),
        "old": (0..2500).filter(|number| keys.contains(&key(*number))).count(),
    }))
}

fn failed(error: store::Error) -> Value {
    json!({ "error": match error {
        store::Error::NoSuchStore => "no-such-store".to_owned(),
        store::Error::AccessDenied => "access-denied".to_owned(),
        store::Error::Other(text) => text,
    } })
}
