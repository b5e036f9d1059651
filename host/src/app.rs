//! `host run`: puts the pieces together, runs them until a signal, and takes them apart.
//!
//! The order matters. Signals are heard first, and give up a start that isn't done. Whatever can be wrong with the manifest,
//! the data or a component is found before anything listens. The two lines on stdout come last, when both addresses answer.
//! The main thread is the control plane's: it accepts connections and answers the internal address, while the workers serve.
//! The store is closed after the last request.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use registry::Registry;
use runtime::{Compiler, Runtime};
use store::{Bucket, Limits, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use trace::Tracer;

use crate::cli::{Exit, RunArgs, exit};
use crate::control::{self, Components, Control, Kv, Readiness, Streams};
use crate::data::{self, Data, LAST_WORDS};
use crate::edge::{self, Edge};
use crate::facts::{Failures, Observer};
use crate::join::Joiner;
use crate::manifest::{self, Environment, Manifest};
use crate::memory;
use crate::metrics::{Commits, Metrics, Sources};
use crate::stop::Stop;
use crate::swap::Swapper;
use crate::telemetry::{self, Flush, Log};
use crate::traces::{Exporter, Settings};
use crate::watch::Watch;

/// How long a thread that has blocked waits for more such work. Until it ends it keeps what it has freed. Shorter than the
/// pauses of the file watch, which would keep all of them.
const BLOCKING_THREADS: Duration = Duration::from_millis(100);

/// What there is from the beginning to the end, whatever is run.
struct Process {
    log: Log,
    stop: Stop,
}

/// Runs the assembly until it is told to stop.
///
/// # Errors
/// Each carries its exit code, see [`exit`].
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let stop = Stop::listen().context("signals can't be heard")?;
    let environment = Environment::of_process();
    let manifest = manifest::load(args, &environment).map_err(|error| Exit::new(exit::USAGE, error))?;
    let traces = Settings::of_process().map_err(|error| Exit::new(exit::USAGE, error))?;
    let watch = Watch::new(args, environment, &manifest);
    let log = telemetry::start(manifest.run.log_format, manifest.run.log_level);
    stop.finish_first(give_up(log.flush(), || exit::OK));
    let process = Process { log, stop };
    for note in &manifest.notes {
        tracing::warn!("{note}");
    }
    let commits = Arc::<Commits>::default();
    let cache = data::prepare(&manifest.run.data_dir)?;
    // The engine takes as long as an empty store does: one waits for the processor, the other for the disk.
    let (data, compiler) = std::thread::scope(|scope| {
        let compiler = scope.spawn(|| Compiler::new(Some(&cache), manifest.run.workers));
        let data = Data::open(&manifest.run.data_dir, &manifest.store, process.log.flush(), commits.clone());
        (data, compiler.join().expect("to make an engine doesn't panic"))
    });
    let data = data?;
    process.stop.finish_first(give_up(process.log.flush(), data.closing()));
    let compiler = compiler?;
    let ended = assemble(manifest, compiler, watch, traces, &data, commits, &process);
    if let Err(error) = &ended
        && error.downcast_ref::<Exit>().is_some_and(|exit| exit.code == exit::INTERRUPTED)
    {
        // At once means now: what is acknowledged is as safe as `store.sync` says.
        std::mem::forget(data);
        return ended;
    }
    ended.and(data.close())
}

/// What a signal does before the start is done: finishes what is to be finished, and says so.
fn give_up(log: Flush, finish: impl FnOnce() -> u8 + Send + 'static) -> impl FnOnce() -> u8 + Send + 'static {
    move || {
        tracing::info!("a signal came before the start was done, which is given up");
        let code = finish();
        log.wait(LAST_WORDS);
        code
    }
}

/// Loads the components and serves them until it is told to stop.
fn assemble(
    mut manifest: Manifest,
    compiler: Compiler,
    watch: Watch,
    traces: Option<Settings>,
    data: &Data,
    commits: Arc<Commits>,
    process: &Process,
) -> anyhow::Result<()> {
    let registry = Registry::new(registry::Config::default());
    let tracer = traces.as_ref().map(|traces| Tracer::new(traces.sampler, traces.capacity));
    let config = runtime::Config { workers: manifest.run.workers, tracer: tracer.clone() };
    let runtime = Arc::new(Runtime::start(compiler, &config, registry.clone(), data.store.clone())?);
    let components = std::mem::take(&mut manifest.components);
    let failures = Failures::default();
    let swapper = Swapper::start(runtime.clone(), data.revisions.clone(), components, failures.clone())?;

    let metrics = Metrics::new(
        manifest.run.workers,
        Sources {
            registry,
            runtime: runtime.clone(),
            swapper: swapper.clone(),
            store: data.store.clone(),
            durable: data.durable.clone(),
            commits,
            dropped: process.log.dropped(),
            tracer: tracer.clone(),
        },
    );
    let control_plane =
        tokio::runtime::Builder::new_current_thread().enable_all().thread_keep_alive(BLOCKING_THREADS).build()?;
    let exporter = tracer.zip(traces).map(|(tracer, traces)| Exporter::new(tracer, traces)).transpose()?;
    let observer = Observer::new(metrics, Readiness::new(), failures);
    let served =
        control_plane.block_on(serve(manifest, watch, data.store.clone(), swapper, observer, exporter, process));
    // Threads that still look up a name, for example, are not waited for: the store is to be closed now.
    control_plane.shutdown_background();
    served
}

/// Listens on both addresses until a signal comes, and then drains.
async fn serve(
    manifest: Manifest,
    watch: Watch,
    store: Arc<dyn Store>,
    swapper: Swapper,
    observer: Observer,
    exporter: Option<Exporter>,
    process: &Process,
) -> anyhow::Result<()> {
    let runtime = swapper.runtime().clone();
    let registry = runtime.registry().clone();
    let signals = process.stop.counted();
    let public = edge::Listener::bind(manifest.public.listen)
        .map_err(|error| Exit::new(exit::BIND, cannot_bind("public", manifest.public.listen, &error, "--listen")))?;
    let internal = TcpListener::bind(manifest.internal.listen).await.map_err(|error| {
        Exit::new(exit::BIND, cannot_bind("internal", manifest.internal.listen, &error, "--internal-listen"))
    })?;
    let (public_address, internal_address) = (public.address(), internal.local_addr()?);

    let readiness = observer.readiness().clone();
    let borrowed = matches!(manifest.store, manifest::Store::Remote { .. });
    if borrowed {
        let store = store.clone();
        // So that the log says at once if it can't be used; it says so itself.
        tokio::spawn(async move { store.list(&Bucket::default(), None, 1).await });
    }
    let control = Control {
        registry: registry.clone(),
        kv: Kv::new(store, Limits::default(), borrowed),
        readiness: readiness.clone(),
        token: manifest.internal.token.clone(),
        public: public_address,
        internal: internal_address,
        components: Components::new(swapper.clone()),
        metrics: observer.metrics().clone(),
        tracer: runtime.tracer().cloned(),
        log_level: process.log.level(),
        observer: observer.clone(),
        streams: Streams::new(),
    };
    let patience = manifest.run.drain_timeout;
    let (stopping, _) = watch::channel(0);
    let mut tasks = JoinSet::new();
    let last = {
        let (signal, last) = (reached(signals.clone(), 1), reached(stopping.subscribe(), 1));
        async move {
            signal.await;
            let begun = Instant::now();
            last.await;
            patience.saturating_sub(begun.elapsed())
        }
    };
    tasks.spawn(control::serve(internal, control, last));
    if let Some(join) = &manifest.join {
        for joiner in Joiner::of_manifest(join, &registry)? {
            let stop = reached(signals.clone(), 1);
            tasks.spawn(async move {
                if let Err(refused) = joiner.run(stop).await {
                    tracing::error!("{refused}");
                }
            });
        }
    }
    for worker in runtime.workers() {
        worker.spawn(async { memory::open_magazines() });
    }
    tokio::spawn(memory::keep_giving_back());
    tasks.spawn(watch.run(swapper.clone(), reached(signals.clone(), 1)));
    let sampling = tokio::spawn({
        let swapper = swapper.clone();
        async move { swapper.keep_sampling().await }
    });
    let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(reached(stopping.subscribe(), 2))));
    let edge = edge_of(&manifest, &observer, &process.log);
    process.stop.started();
    readiness.serving();
    announce(public_address, internal_address)?;

    let drain = async {
        reached(signals.clone(), 1).await;
        tracing::info!("draining for at most {patience:?}; a second signal stops at once");
        readiness.draining();
        swapper.stop();
        sampling.abort();
    };
    let drained = async {
        let cut_off = public.serve(&edge, runtime.workers(), drain, patience).await;
        if cut_off > 0 {
            tracing::warn!("{cut_off} connections were still open after {patience:?} and are cut off");
        }
        // The internal address answers until now, so that the drain can be watched.
        stopping.send_replace(1);
        while tasks.join_next().await.is_some() {}
        let _settled = swapper.settle().await;
        // After the last request has ended.
        stopping.send_replace(2);
        match exporting {
            Some(exporting) => exporting.await.context("traces were not exported"),
            None => Ok(()),
        }
    };
    tokio::select! {
        drained = drained => drained,
        () = reached(signals.clone(), 2) => Err(Exit::new(exit::INTERRUPTED, "stopped at once by a second signal").into()),
    }
}

/// What the edge is to do.
fn edge_of(manifest: &Manifest, observer: &Observer, log: &Log) -> Edge {
    let metrics = observer.metrics().clone();
    let public = &manifest.public;
    Edge {
        limits: edge::Limits {
            connections: public.max_connections,
            head_timeout: public.header_timeout,
            head_bytes: public.max_header_bytes,
            headers: public.max_headers,
            body_idle: public.body_idle_timeout,
            body_bytes: public.max_body,
        },
        trusted_proxies: public.trusted_proxies.clone(),
        unrouted: metrics.handler("unrouted"),
        metrics_handler: public.metrics.then(|| metrics.handler("metrics")),
        access: manifest.run.access_log.then(|| log.access()),
        failures: observer.failures().clone(),
        metrics,
    }
}

/// Tells whoever started the process that both addresses answer.
fn announce(public: SocketAddr, internal: SocketAddr) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "public   http://{public}\ninternal http://{internal}")
        .and_then(|()| stdout.flush())
        .context("the addresses can't be written to stdout")
}

fn cannot_bind(which: &str, address: SocketAddr, error: &std::io::Error, flag: &str) -> String {
    format!("the {which} address {address} can't be bound: {error}; choose another one with {flag}")
}

/// Resolves when so many were counted, or when nobody counts any more.
async fn reached(mut counted: watch::Receiver<u32>, goal: u32) {
    let _ = counted.wait_for(|count| *count >= goal).await;
}
