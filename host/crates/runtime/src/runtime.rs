//! The runtime: the engine, the workers and what they serve. One for the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::HeaderValue;
use registry::{HealthPolicy, Registry};
use store::Store;
use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_config::WasiConfigVariables;

use crate::check::{self, LoadError, Report};
use crate::health;
use crate::pool::Pool;
use crate::spec::ComponentSpec;
use crate::state::GuestState;
use crate::template::{Shared, Template};
use crate::worker::{Assembly, Commons, Instance, Worker};
use crate::{capabilities, engine};

/// How to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads of the data plane, at least one.
    pub workers: usize,
    /// Where compiled components are kept from one start to the next. It must be as trustworthy as the binary itself:
    /// what is found there is executed.
    pub cache: Option<PathBuf>,
}

/// Why the runtime could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not be made, or its cache not be used.
    #[error("the engine could not be started: {0:#}")]
    Engine(wasmtime::Error),
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Compiles components. Cheap to clone.
#[derive(Clone)]
pub struct Compiler {
    engine: Engine,
    linker: Arc<Linker<GuestState>>,
}

/// The engine, the workers and what they serve.
pub struct Runtime {
    compiler: Compiler,
    commons: Arc<Commons>,
    workers: Box<[Worker]>,
}

impl Compiler {
    /// Makes the engine.
    ///
    /// # Errors
    /// The cache directory can't be used, or the machine can't run the engine.
    pub fn new(cache: Option<&std::path::Path>) -> Result<Self, StartError> {
        let engine = engine::new(cache).map_err(StartError::Engine)?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker).map_err(StartError::Engine)?;
        Ok(Self { engine, linker: Arc::new(linker) })
    }

    /// What a file is, what it imports, and whether it can be run here. Compiles it: blocks.
    ///
    /// # Errors
    /// It isn't a component.
    pub fn check(&self, bytes: &[u8]) -> Result<Report, LoadError> {
        check::check(&self.engine, &self.linker, bytes)
    }
}

impl Runtime {
    /// Starts the workers. They serve nothing yet.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config, registry: Registry, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let compiler = Compiler::new(config.cache.as_deref())?;
        let commons = Arc::new(Commons { registry, store, assembly: ArcSwap::default() });
        let workers = (0..config.workers).map(|id| Worker::start(id, commons.clone()));
        let workers = workers.collect::<Result<_, _>>().map_err(StartError::Thread)?;
        Ok(Self { compiler, commons, workers })
    }

    /// The threads of the data plane.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Compiles components, all at once on as many threads as there are cores, and serves them: their instances are
    /// registered, available, and checked from now on. Blocks until the last one is compiled.
    ///
    /// # Errors
    /// The first component, in order, that can't be loaded, by name. Then nothing is served.
    pub fn load(&self, specs: Vec<ComponentSpec>) -> Result<(), (String, LoadError)> {
        let prepared: Vec<_> = std::thread::scope(|scope| {
            let compiling: Vec<_> = specs
                .iter()
                .map(|spec| {
                    scope.spawn(move || check::prepare(&self.compiler.engine, &self.compiler.linker, &spec.bytes))
                })
                .collect();
            compiling.into_iter().map(|thread| thread.join().expect("compiling doesn't panic")).collect()
        });
        let mut assembly = Assembly::default();
        let mut loaded = Vec::new();
        for (spec, prepared) in specs.into_iter().zip(prepared) {
            let pre = prepared.map_err(|error| (spec.name.clone(), error))?;
            let shared = Arc::new(Shared {
                engine: self.compiler.engine.clone(),
                component: spec.name.as_str().into(),
                pre,
                config: Arc::new(spec.config.into_iter().collect::<WasiConfigVariables>()),
                outbound: Arc::new(spec.outbound),
                buckets: Arc::new(spec.buckets),
                directories: spec.directories,
                sockets: spec.sockets.into(),
                limits: spec.limits,
                queued: AtomicUsize::new(0),
            });
            let namespace = assembly.instances.entry(spec.namespace.to_string()).or_default();
            for name in spec.instances {
                let environment: Arc<[_]> = spec
                    .environment
                    .iter()
                    .map(|(key, value)| (key.clone(), value.replace("{instance}", name.as_str())))
                    .collect();
                let pool = |worker: &Worker| {
                    let template = Template {
                        shared: shared.clone(),
                        name: name.clone(),
                        environment: environment.clone(),
                        worker: worker.clone(),
                    };
                    Pool::new(template, worker.runtime().clone())
                };
                let instance = Arc::new(Instance {
                    pools: self.workers.iter().map(pool).collect(),
                    served_by: HeaderValue::from_str(name.as_str())
                        .expect("a name has no character a header can't have"),
                });
                namespace.insert(name.to_string(), instance.clone());
                loaded.push((spec.namespace.clone(), name, instance, spec.health.clone()));
            }
        }
        self.commons.assembly.store(Arc::new(assembly));
        let now = Instant::now();
        for (index, (namespace, name, instance, check)) in loaded.into_iter().enumerate() {
            let policy = HealthPolicy { unhealthy_after: check.unhealthy_after, healthy_after: check.healthy_after };
            let registry = &self.commons.registry;
            if let Err(error) = registry.add_in_process(&namespace, &name, policy, now) {
                tracing::error!(namespace = namespace.as_str(), instance = name.as_str(), "not registered: {error}");
                continue;
            }
            let worker = &self.workers[index % self.workers.len()];
            worker.spawn(health::keep_checking(registry.clone(), namespace, name, instance, worker.id(), check));
        }
        Ok(())
    }
}
