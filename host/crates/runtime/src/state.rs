//! What a guest's store holds: its view of WASI, its limits, and the host's own capabilities.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::capabilities::keyvalue::KeyValue;
use crate::capabilities::outgoing::Outgoing;
use crate::limiter::Limiter;
use crate::rehearsal::Stage;

/// The data of a guest's store. Lives as long as the guest.
pub(crate) struct GuestState {
    pub(crate) table: ResourceTable,
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outgoing: Outgoing,
    pub(crate) limiter: Limiter,
    pub(crate) config: Arc<WasiConfigVariables>,
    pub(crate) key_value: KeyValue,
    pub(crate) registry: registry::Registry,
}

impl GuestState {
    /// What the guest does from here on belongs to a request of a rehearsal.
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.key_value.store = stage.store();
        self.outgoing.enter(stage);
    }

    /// The view that `wasi:http` works on.
    pub(crate) fn http_view(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.http_view()
    }
}
