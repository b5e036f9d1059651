//! Compiles components: at the start on all cores, and later in the background, where it takes the time that the workers
//! leave.
//!
//! Either happens on threads that end when nothing is left to compile. Those of an idle pool would keep what they have freed:
//! some ten megabytes for each component.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::select;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::time::timeout;
use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::handler::ProxyPre;

use crate::check::{self, LoadError, Report};
use crate::priority::Priority;
use crate::runtime::StartError;
use crate::state::GuestState;
use crate::{capabilities, engine};

/// How long whoever wants something compiled waits for idle time, besides the time for its size.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes of all that is to be compiled go with a second more: where there is idle time, that takes half a second.
const BYTES_A_SECOND: f64 = (1 << 20) as f64;

/// Compiles components. Cheap to clone.
#[derive(Clone)]
pub struct Compiler(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<GuestState>,
    /// Compiles in idle time.
    idle: Background,
    /// Compiles what would take too long in idle time, as there is hardly any.
    low: Background,
    /// The bytes that are to be compiled in the background.
    ordered: AtomicUsize,
}

impl Compiler {
    /// Makes the engine, with room for the guests of so many workers: takes some milliseconds. In `cache`, if there is one,
    /// compiled components are kept from one start to the next. It must be as trustworthy as the binary itself: what is
    /// found there is executed.
    ///
    /// # Errors
    /// The cache directory can't be used, or the machine can't run the engine.
    pub fn new(cache: Option<&std::path::Path>, workers: usize) -> Result<Self, StartError> {
        let engine = engine::new(cache, workers).map_err(StartError::Engine)?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker).map_err(StartError::Engine)?;
        let (idle, low) = (Background::new(Priority::Idle), Background::new(Priority::Low));
        Ok(Self(Arc::new(Inner { engine, linker, idle, low, ordered: AtomicUsize::new(0) })))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// What a file is, what it imports, and whether it can be run here. Compiles it: blocks.
    ///
    /// # Errors
    /// It isn't a component.
    pub fn check(&self, bytes: &[u8]) -> Result<Report, LoadError> {
        check::check(&self.0.engine, &self.0.linker, bytes)
    }

    /// Compiles a component and makes it ready to be instantiated: blocks, and uses all cores.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub(crate) fn compile(&self, bytes: &[u8]) -> Result<ProxyPre<GuestState>, LoadError> {
        check::prepare(&self.0.engine, &self.0.linker, bytes)
    }

    /// Runs what compiles several components at once, on as many threads as there are cores.
    pub(crate) fn on_all_cores<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        threads(0, || {}).install(work)
    }

    /// The same as [`Compiler::compile`], without holding up anybody: in idle time. Where there is too little of that, it begins
    /// once more with a small share of the processors, so that it ends.
    pub(crate) async fn compile_in_background(&self, bytes: Bytes) -> Result<ProxyPre<GuestState>, LoadError> {
        let order = Order::new(self, bytes);
        let ordered = self.0.ordered.load(Relaxed) as f64;
        let patience = PATIENCE + Duration::from_secs_f64(ordered / BYTES_A_SECOND);
        order.compiled(patience).await
    }
}

/// A component that somebody waits for. Threads that haven't begun with it don't keep it: when nobody waits any more, they
/// needn't.
struct Order {
    compiler: Compiler,
    bytes: Bytes,
}

impl Order {
    fn new(compiler: &Compiler, bytes: Bytes) -> Arc<Self> {
        compiler.0.ordered.fetch_add(bytes.len(), Relaxed);
        Arc::new(Self { compiler: compiler.clone(), bytes })
    }

    async fn compiled(self: &Arc<Self>, patience: Duration) -> Result<ProxyPre<GuestState>, LoadError> {
        let Inner { idle, low, .. } = &*self.compiler.0;
        let mut leisurely = pin!(idle.compile(self));
        if let Ok(compiled) = timeout(patience, &mut leisurely).await {
            return compiled;
        }
        tracing::info!("there is no idle time to compile in: a component is compiled at low priority instead");
        select(leisurely, pin!(low.compile(self))).await.factor_first().0
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.compiler.0.ordered.fetch_sub(self.bytes.len(), Relaxed);
    }
}

/// Threads that compile beside the workers, while there is something to compile.
struct Background {
    priority: Priority,
    pool: Mutex<Weak<ThreadPool>>,
}

impl Background {
    fn new(priority: Priority) -> Self {
        Self { priority, pool: Mutex::default() }
    }

    async fn compile(&self, order: &Arc<Order>) -> Result<ProxyPre<GuestState>, LoadError> {
        let (done, compiled) = oneshot::channel();
        let pool = self.pool();
        let (order, needed) = (Arc::downgrade(order), pool.clone());
        pool.spawn(move || {
            if let Some(order) = order.upgrade() {
                // A thread of the pool that panics ends the process.
                let compiled = catch_unwind(AssertUnwindSafe(|| order.compiler.compile(&order.bytes)));
                // So that it doesn't count any more when whoever asked goes on.
                drop(order);
                // Whoever asked may be gone.
                let _ = done.send(compiled.unwrap_or_else(|_| {
                    Err(LoadError::Invalid(wasmtime::Error::msg(
                        "the compiler gave up on it, which is a mistake of its own",
                    )))
                }));
            }
            // With the last one to let go of it, its threads end: this may be one of them.
            drop(needed);
        });
        compiled.await.expect("as long as somebody waits, it is compiled and an answer sent")
    }

    /// What wasmtime does in parallel, it does on the threads of the pool it is called on. They are as many as half of the
    /// cores: the others are left to requests and to what the kernel does for these.
    fn pool(&self) -> Arc<ThreadPool> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pool.upgrade() {
            return pool;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let priority = self.priority;
        let new = Arc::new(threads((cores / 2).max(1), move || priority.take("compilation")));
        *pool = Arc::downgrade(&new);
        new
    }
}

/// So many threads, or 0 for as many as there are cores, each of which begins with `start`.
fn threads(count: usize, start: impl Fn() + Send + Sync + 'static) -> ThreadPool {
    let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|id| format!("compiler-{id}"));
    pool.start_handler(move |_| start()).build().expect("threads can be started")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_idle_time_is_compiled_nevertheless() {
        let compiler = Compiler::new(None, 1).unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let idle = compiler.0.idle.pool();
        for _ in 0..idle.current_num_threads() {
            let released = Arc::clone(&released);
            // An error when the sender is gone, and that is what is waited for.
            idle.spawn(move || assert!(released.lock().unwrap().recv().is_err()));
        }
        let order = Order::new(&compiler, Bytes::from_static(b"no component"));
        assert!(matches!(order.compiled(Duration::ZERO).await, Err(LoadError::NotWasm { .. })));
        // What still lies there for the idle time to come is given up.
        drop(order);
        assert_eq!(compiler.0.ordered.load(Relaxed), 0);
        drop(release);
    }
}
