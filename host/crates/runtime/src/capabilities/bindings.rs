//! The bindings of the world `host` in `wit/`.

#![allow(missing_docs, reason = "documented in wit/")]

pub use super::keyvalue::{Bucket, Cas};

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "hostler:assembly/host",
    imports: {
        "hostler:assembly/registry.instances": async | store | trappable,
        "hostler:assembly/registry": trappable,
        default: async | trappable,
    },
    with: {
        "wasi:keyvalue/store@0.2.0-draft.bucket": Bucket,
        "wasi:keyvalue/store@0.2.0-draft2.bucket": Bucket,
        "wasi:keyvalue/atomics@0.2.0-draft2.cas": Cas,
    },
});
