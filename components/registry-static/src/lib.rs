//! The component registry-static: the interface `registry` over the list in `STORAGE_SERVICES`, so that a gateway runs
//! without our host.
//!
//! Leases, health, balancing and the retry budget are the crate `registry`, the same code as in our host; here is only
//! what differs: the list is fixed ([`fleet`]), and nobody sends heartbeats, so an instance that failed is given
//! another chance after a while. A guest lives as long as its host reuses it, and every guest counts for itself:
//! round robin is exact within one guest only.

pub mod fleet;

#[cfg(target_family = "wasm")]
mod provider;

/// Bindings to our interface `registry`.
#[cfg(target_family = "wasm")]
#[allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "registry-provider" });
}
