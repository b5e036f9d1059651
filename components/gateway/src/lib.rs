//! The gateway component: what the public address answers, and where it sends the rest.
//!
//! [`route`], [`keys`], [`hop`] and [`status`] are pure and tested natively; the guest around them joins them to WASI
//! 0.3 and to the interface `registry`. A guest lives as long as its host reuses it, and holds the digests of the API
//! keys; nothing grows with the number of requests, and no body is ever held.

pub mod hop;
pub mod keys;
pub mod route;
pub mod status;

#[cfg(target_family = "wasm")]
mod failure;
#[cfg(target_family = "wasm")]
mod forward;
#[cfg(target_family = "wasm")]
mod handler;

/// Bindings to our interface `registry`.
#[cfg(target_family = "wasm")]
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "gateway" });
}
