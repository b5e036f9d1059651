//! A template: everything it takes to start a guest of one instance.
//!
//! Made once with a revision; every guest is made from it alike.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::HeaderValue;
use registry::Name;
use tokio::sync::Notify;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};

use crate::capabilities::keyvalue::KeyValue;
use crate::capabilities::logging::LogStream;
use crate::capabilities::outgoing::Outgoing;
use crate::counters::{Counters, Fault, Shed};
use crate::guest::Guest;
use crate::held::Policy;
use crate::limiter::Limiter;
use crate::rehearsal::Stage;
use crate::spec::{Buckets, Directory, Limits, SocketRule};
use crate::state::GuestState;
use crate::worker::Worker;

/// What all instances of a revision share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) component: Arc<str>,
    pub(crate) pre: ProxyPre<GuestState>,
    pub(crate) config: Arc<WasiConfigVariables>,
    pub(crate) outbound: Arc<crate::OutboundPolicy>,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) sockets: Arc<[SocketRule]>,
    pub(crate) limits: Limits,
    /// Nothing that its guests do may be seen outside.
    pub(crate) isolated: bool,
    /// Whether its guests may go on while their writes are under way.
    pub(crate) go_on: Policy,
    /// Requests waiting in the queues of all its pools.
    pub(crate) queued: AtomicUsize,
    /// Those of the component.
    pub(crate) counters: Arc<Counters>,
    /// Told when a pool that is retired has no guests any more.
    pub(crate) drained: Notify,
}

/// Makes the guests of one instance on one worker.
pub(crate) struct Template {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Name,
    /// The same, as a header's value.
    pub(crate) served_by: HeaderValue,
    /// `{instance}` already replaced.
    pub(crate) environment: Arc<[(String, String)]>,
    pub(crate) worker: Worker,
}

impl Template {
    /// The component's name, for the log.
    pub(crate) fn component(&self) -> &str {
        &self.shared.component
    }

    /// The instance's name, for the log.
    pub(crate) fn instance(&self) -> &str {
        self.name.as_str()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// How many requests a guest serves at once. One of WASI 0.2 can't do more than one.
    pub(crate) fn at_once(&self) -> usize {
        match self.shared.pre {
            ProxyPre::P2(_) => 1,
            ProxyPre::P3(_) => self.shared.limits.max_instance_concurrent_reuse_count,
        }
    }

    pub(crate) fn count_fault(&self, fault: Fault) {
        self.shared.counters.fault(fault);
    }

    pub(crate) fn count_shed(&self, reason: Shed) {
        self.shared.counters.shed(reason);
    }

    /// Counts a request into the component's queue, unless it is full.
    pub(crate) fn enqueue(&self) -> bool {
        let queued = &self.shared.queued;
        let fits = queued.fetch_add(1, Relaxed) < self.shared.limits.queue;
        if !fits {
            queued.fetch_sub(1, Relaxed);
        }
        fits
    }

    /// Counts a request out of the component's queue.
    pub(crate) fn dequeue(&self) {
        self.shared.queued.fetch_sub(1, Relaxed);
    }

    /// Starts a guest.
    ///
    /// # Errors
    /// The component trapped or took longer than a request may while it started, a directory has gone, or there is no
    /// room for another guest (`PoolConcurrencyLimitError`).
    pub(crate) async fn instantiate(&self, guest: &Arc<Guest>) -> wasmtime::Result<(Store<GuestState>, Proxy)> {
        self.shared.counters.start();
        let limits = self.limits();
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.resources);
        let mut state = GuestState {
            table,
            wasi: self.wasi(guest)?,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(
                self.worker.clone(),
                self.shared.outbound.clone(),
                guest.clone(),
                self.shared.component.clone(),
                self.name.clone(),
            ),
            limiter: Limiter::new(limits.memory, limits.table_elements),
            config: self.shared.config.clone(),
            key_value: KeyValue {
                store: self.worker.store().clone(),
                shared: self.shared.clone(),
                guest: guest.clone(),
                instance: self.name.clone(),
                tracer: self.worker.tracer().cloned(),
            },
            registry: self.worker.registry().clone(),
        };
        if self.shared.isolated {
            state.enter(Stage::empty(self.worker.store().clone()));
        }
        let mut store = Store::new(&self.shared.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let started = self.shared.pre.instantiate_async(&mut store);
        match tokio::time::timeout(limits.request_timeout, started).await {
            Ok(proxy) => Ok((store, proxy?)),
            Err(_) => Err(wasmtime::format_err!("it was not ready after {:?}", limits.request_timeout)),
        }
    }

    fn wasi(&self, guest: &Arc<Guest>) -> wasmtime::Result<WasiCtx> {
        let (stdout, stderr) = LogStream::both(self.shared.component.clone(), self.name.clone(), guest.clone());
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&self.environment).stdout(stdout).stderr(stderr);
        for Directory { host, guest, writable } in &self.shared.directories {
            let permissions = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(host, guest, permissions)?;
        }
        let sockets = self.shared.sockets.clone();
        let any = !sockets.is_empty();
        wasi.allow_tcp(any).allow_udp(any).socket_addr_check(move |address, usage| {
            let allowed = allows_socket(&sockets, address, usage);
            Box::pin(async move { allowed })
        });
        Ok(wasi.build())
    }
}

/// Whether a guest may use a socket so: it may exchange data with the addresses of the manifest, from a port that the
/// system chooses. It can't listen.
fn allows_socket(rules: &[SocketRule], address: SocketAddr, usage: SocketAddrUse) -> bool {
    match usage {
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => address.ip().is_unspecified() && address.port() == 0,
        SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
            rules.iter().any(|rule| rule.allows(address))
        }
        SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
    }
}
