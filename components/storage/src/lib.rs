//! The storage component: `/data`, health, and a key-value store over HTTP.
//!
//! What it answers is decided in [`service`], which knows nothing of WASI and is tested natively. Around it are a thin
//! shell for each HTTP flavour, chosen by the feature `wasi-0-3`, and the values in a standard `wasi:keyvalue` bucket.
//!
//! A guest lives as long as its host reuses it. It holds its name, two prepared answers and one open bucket; nothing
//! grows with the number of requests.

pub mod service;

#[cfg(target_family = "wasm")]
mod bucket;
#[cfg(all(target_family = "wasm", not(feature = "wasi-0-3")))]
mod wasi_0_2;
#[cfg(all(target_family = "wasm", feature = "wasi-0-3"))]
mod wasi_0_3;

/// Bindings to `wasi:keyvalue`, which has no crate of its own.
#[cfg(target_family = "wasm")]
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "storage", generate_all });
}
