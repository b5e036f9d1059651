//! The runtime: the engine, the workers and what they serve. One for the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use registry::{Name, Namespace, RegisterError, Registry};
use store::Store;
use trace::Tracer;

use crate::check::LoadError;
use crate::compiler::Compiler;
use crate::counters::ComponentStats;
use crate::health;
use crate::rehearsal::{self, Backstage, RehearsalOptions, RehearsalReport};
use crate::revision::Revision;
use crate::spec::{Code, ComponentSpec};
use crate::worker::{Assembly, Commons, Publication, Worker};

/// How to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads of the data plane, at least one.
    pub workers: usize,
    /// What records traces, if anybody wants them.
    pub tracer: Option<Tracer>,
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

/// Why a revision can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It can't be compiled or linked.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// A guest of it trapped or took too long while it started, or failed its first health check.
    #[error("{0}")]
    Trial(String),
}

/// What is published in one step.
#[derive(Default)]
pub struct Change {
    /// Those that are served from now on, each in the place of the one of its component.
    pub revisions: Vec<Arc<Revision>>,
    /// Names of components that are not served any more.
    pub removed: Vec<String>,
}

/// The engine, the workers and what they serve.
pub struct Runtime {
    compiler: Compiler,
    commons: Arc<Commons>,
    workers: Box<[Worker]>,
    /// How many revisions were published. Held while one is.
    publications: Mutex<u64>,
    /// The thread that rehearsed guests run on, once there was a rehearsal.
    backstage: Mutex<Option<Backstage>>,
}

impl Runtime {
    /// Starts the workers. They serve nothing yet. `compiler` has room for the guests of so many.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(
        compiler: Compiler,
        config: &Config,
        registry: Registry,
        store: Arc<dyn Store>,
    ) -> Result<Self, StartError> {
        let commons = Commons::new(registry, store, config.tracer.clone());
        let workers = (0..config.workers).map(|id| Worker::start(id, commons.clone()));
        let workers = workers.collect::<Result<_, _>>().map_err(StartError::Thread)?;
        let (publications, backstage) = Default::default();
        Ok(Self { compiler, commons, workers, publications, backstage })
    }

    /// The instances, its own and others.
    pub fn registry(&self) -> &Registry {
        &self.commons.registry
    }

    /// What records traces, if anybody wants them.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.commons.tracer.as_ref()
    }

    /// The threads of the data plane.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// The revisions that are being served, in order of the components' names.
    pub fn revisions(&self) -> Vec<Arc<Revision>> {
        let assembly = self.commons.assembly.load();
        assembly.components().values().map(|publication| publication.revision.clone()).collect()
    }

    /// How all components are doing that were ever served, in order of name.
    pub fn stats(&self) -> Vec<ComponentStats> {
        self.commons.stats()
    }

    /// Compiles components for the start of the process, all at once on as many threads as there are cores. They are not
    /// tried: at the start there is nothing better to serve. Blocks until the last one is compiled.
    ///
    /// # Errors
    /// For each component that can't be loaded, in the place of its revision.
    pub fn load(&self, components: Vec<(ComponentSpec, Code)>) -> Vec<Result<Arc<Revision>, LoadError>> {
        let load = |(spec, code): (_, Code)| {
            let pre = self.compiler.compile(code.bytes())?;
            Ok(Revision::new(self.compiler.engine().clone(), pre, code.digest(), spec, &self.workers))
        };
        self.compiler.on_all_cores(|| components.into_par_iter().map(load).collect())
    }

    /// Makes a revision that can be published at once: compiled in the background, linked, a guest started and a health
    /// check passed, and a guest ready in each of its pools. What fails leaves nothing behind.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub async fn prepare(&self, spec: ComponentSpec, code: Code) -> Result<Arc<Revision>, PrepareError> {
        let digest = code.digest();
        let pre = self.compiler.compile_in_background(code.bytes().clone()).await?;
        drop(code);
        let revision = Revision::new(self.compiler.engine().clone(), pre, digest, spec, &self.workers);
        match revision.try_and_warm().await {
            Ok(()) => Ok(revision),
            Err(error) => {
                revision.retire(Duration::ZERO).await;
                Err(PrepareError::Trial(error.to_string()))
            }
        }
    }

    /// Runs requests that the active revision gets once more on one that is ready to be published in its place, and compares
    /// the answers. Clients notice nothing of it, and neither does anything outside. One at a time for each component.
    ///
    /// # Errors
    /// The thread for it, or the guests for it, could not be started.
    pub async fn rehearse(
        &self,
        active: &Arc<Revision>,
        new: &Revision,
        options: RehearsalOptions,
    ) -> Result<RehearsalReport, PrepareError> {
        let not_started = |error| PrepareError::Trial(format!("the rehearsal could not be started: {error}"));
        let backstage = self.backstage().map_err(|error| not_started(error.to_string()))?;
        let store = self.commons.store.clone();
        let rehearsed = rehearsal::rehearse(active, new, &self.workers, store, &backstage, options).await;
        rehearsed.map_err(|error| not_started(error.to_string()))
    }

    fn backstage(&self) -> std::io::Result<Backstage> {
        let mut backstage = self.backstage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*backstage {
            Some(started) => Ok(started.clone()),
            None => Ok(backstage.insert(Backstage::start()?).clone()),
        }
    }

    /// Serves revisions in the place of those that were served. Every request that begins after this has returned goes to
    /// the new ones; their instances are available, and checked from now on. The old ones still have requests and their
    /// guests: they are for the caller to [`retire`](Revision::retire), or to publish again.
    ///
    /// # Errors
    /// A remote instance has the name of a new one, or there are too many instances. Then nothing has changed.
    pub async fn publish(&self, change: Change) -> Result<(), RegisterError> {
        let gone = self.replace(change)?;
        if gone.is_empty() {
            return Ok(());
        }
        // Requests that were routed by the old assembly have found their instances when a task has run on each worker. Only
        // then may instances that are gone be forgotten: first by the registry, which names them, then by the assembly.
        self.settle().await;
        self.commons.registry.replace_in_process(&gone, &[], Instant::now(), || {})?;
        self.settle().await;
        let _publications = self.publications.lock().unwrap_or_else(PoisonError::into_inner);
        let components = self.commons.assembly.load().components().clone();
        self.commons.assembly.store(Arc::new(Assembly::new(components)));
        Ok(())
    }

    /// Waits until each worker has let go of what it was doing.
    async fn settle(&self) {
        for worker in &self.workers {
            worker.run(async {}).await;
        }
    }

    /// The same for the start of the process, when there are no requests yet.
    ///
    /// # Errors
    /// As those of [`Runtime::publish`].
    pub fn publish_first(&self, revisions: Vec<Arc<Revision>>) -> Result<(), RegisterError> {
        self.replace(Change { revisions, removed: Vec::new() }).map(|_| ())
    }

    /// Serves what is new beside what is gone. Returns the instances that are gone.
    fn replace(&self, change: Change) -> Result<Vec<(Namespace, Name)>, RegisterError> {
        let mut publications = self.publications.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.commons.assembly.load_full();
        let mut components: BTreeMap<_, _> = old.components().clone();
        let mut gone = Vec::new();
        let mut new = Vec::new();
        let names = change.revisions.iter().map(|revision| &revision.spec().name).chain(&change.removed);
        for publication in names.filter_map(|name| components.remove(name)) {
            let namespace = publication.revision.namespace();
            let names = publication.revision.instances().iter().map(|instance| instance.name.clone());
            gone.extend(names.map(|name| (namespace.clone(), name)));
        }
        let first = *publications + 1;
        for revision in &change.revisions {
            *publications += 1;
            let publication = Publication { revision: revision.clone(), number: *publications };
            components.insert(revision.spec().name.clone(), publication);
            for instance in revision.instances() {
                new.push((revision.namespace().clone(), instance.name.clone(), revision.health_policy()));
            }
        }
        gone.retain(|(namespace, name)| !new.iter().any(|(new, other, _)| new == namespace && other == name));
        let assembly = Assembly::new(components).with_those_of(&old);
        let publish = || self.commons.assembly.store(Arc::new(assembly));
        self.commons.registry.replace_in_process(&[], &new, Instant::now(), publish)?;
        for (revision, number) in change.revisions.iter().zip(first..) {
            self.start_checking(revision, number);
        }
        Ok(gone)
    }

    fn start_checking(&self, revision: &Arc<Revision>, publication: u64) {
        for index in 0..revision.instances().len() {
            let worker = &self.workers[index % self.workers.len()];
            worker.spawn(health::keep_checking(
                self.commons.clone(),
                Arc::downgrade(revision),
                index,
                worker.id(),
                publication,
            ));
        }
    }
}
