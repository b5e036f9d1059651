//! Compiles components: at the start on all cores, and later in the background, where it takes only the time that the
//! workers leave.
//!
//! Either happens on threads that end when nothing is left to compile. Those of an idle pool would keep what they have freed:
//! some ten megabytes for each component.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::channel::oneshot;
use rayon::{ThreadPool, ThreadPoolBuilder};
use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::handler::ProxyPre;

use crate::check::{self, LoadError, Report};
use crate::runtime::StartError;
use crate::state::GuestState;
use crate::{capabilities, engine};

/// The nice value of threads that compile in the background.
const NICE: i32 = 19;

/// Compiles components. Cheap to clone.
#[derive(Clone)]
pub struct Compiler(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<GuestState>,
    /// As many threads as there are cores, while there is something to compile.
    background: Mutex<Weak<ThreadPool>>,
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
        Ok(Self(Arc::new(Inner { engine, linker, background: Mutex::default() })))
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
        threads(|_| {}).install(work)
    }

    /// The same as [`Compiler::compile`], without holding up anybody.
    pub(crate) async fn compile_in_background(&self, bytes: Bytes) -> Result<ProxyPre<GuestState>, LoadError> {
        let (done, compiled) = oneshot::channel();
        let pool = self.background();
        let (this, needed) = (self.clone(), pool.clone());
        pool.spawn(move || {
            // A thread of the pool that panics ends the process.
            let compiled = catch_unwind(AssertUnwindSafe(|| this.compile(&bytes))).unwrap_or_else(|_| {
                Err(LoadError::Invalid(wasmtime::Error::msg(
                    "the compiler gave up on it, which is a mistake of its own",
                )))
            });
            // Whoever asked may be gone.
            let _ = done.send(compiled);
            // With the last one to let go of it, its threads end: this may be one of them.
            drop(needed);
        });
        compiled.await.expect("an answer is sent whatever happens")
    }

    /// What wasmtime does in parallel, it does on the threads of the pool it is called on.
    fn background(&self) -> Arc<ThreadPool> {
        let mut background = self.0.background.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = background.upgrade() {
            return pool;
        }
        let yielding = |_| {
            if let Err(error) = rustix::process::nice(NICE) {
                tracing::warn!("components are compiled at full priority: {error}");
            }
        };
        let pool = Arc::new(threads(yielding));
        *background = Arc::downgrade(&pool);
        pool
    }
}

/// As many threads as there are cores, each of which begins with `start`.
fn threads(start: impl Fn(usize) + Send + Sync + 'static) -> ThreadPool {
    let pool = ThreadPoolBuilder::new().thread_name(|id| format!("compiler-{id}")).start_handler(start);
    pool.build().expect("threads can be started")
}
