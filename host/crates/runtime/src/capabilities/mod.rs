//! What guests can do: one file per capability, all linked here.

#[allow(unreachable_pub, reason = "the generated code names these types publicly")]
mod bindings;
pub(crate) mod keyvalue;
pub(crate) mod logging;
pub(crate) mod outgoing;
pub(crate) mod registry;
mod response;

use wasmtime::component::Linker;
use wasmtime_wasi_config::WasiConfig;

pub use keyvalue::store_error_code;
pub(crate) use keyvalue::store_error_detail;

use crate::state::GuestState;

/// Links everything a component may import.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    response::link(linker)?;
    wasmtime_wasi_config::add_to_linker(linker, |state: &mut GuestState| WasiConfig::from(&*state.config))?;
    keyvalue::link(linker)?;
    registry::link(linker)
}
