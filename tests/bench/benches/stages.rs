//! The stages of a request, each by itself and without sockets, so that a regression is seen where it happens.
//!
//! `just bench-stages` builds it and the components it runs. Times are those of one thread that does nothing else: a request
//! under load costs more, as its neighbours take the caches from it.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use mimalloc::MiMalloc;
use registry::{Address, Config, Name, Namespace, Registry};
use runtime::{
    Buckets, Code, Compiler, ComponentSpec, HealthCheck, Hop, Limits, OutboundPolicy, Runtime, Target, Worker,
};
use store::{Bucket, MemoryStore, Store};
use trace::{TRACEPARENT, TraceContext};

/// As in the host.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The host's own, as the host is no library.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../host/src/metrics"]
mod metrics {
    pub(crate) mod exposition;
    pub(crate) mod histogram;
    pub(crate) mod http;

    use std::hint::black_box;
    use std::time::Instant;

    use criterion::Criterion;

    /// All that a request leaves in the metrics, with the two readings of the clock.
    pub(crate) fn record(criterion: &mut Criterion) {
        let requests = http::Http::new(2);
        criterion.bench_function("metrics/record a request", |bencher| {
            bencher.iter(|| {
                requests.came(0);
                let begun = Instant::now();
                let handler = requests.handler(black_box("data"));
                requests.left(0);
                handler.record(0, &::http::Method::GET, black_box(200), begun.elapsed());
            });
        });
    }
}

fn read_a_traceparent(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    headers.insert(TRACEPARENT, value);
    criterion.bench_function("trace/read a traceparent", |bencher| {
        bencher.iter(|| TraceContext::of_headers(black_box(&headers)));
    });
}

fn pick_an_instance(criterion: &mut Criterion) {
    let storage = Namespace::try_from("storage").expect("a name");
    for count in [3, 1000] {
        let registry = Registry::new(Config::default());
        for number in 0..count {
            let name = Name::try_from(format!("storage-{number}")).expect("a name");
            let address = Address::try_from("http://127.0.0.1:1").expect("an address");
            registry.register(&storage, &name, address, Instant::now()).expect("there is room");
        }
        criterion.bench_function(&format!("registry/pick one of {count}"), |bencher| {
            bencher.iter(|| {
                let snapshot = registry.snapshot();
                registry.retry_budget().request(Instant::now());
                let group = snapshot.namespace(black_box("storage")).expect("it is registered");
                black_box(group.pick().map(|member| member.name().clone()))
            });
        });
    }
}

fn read_and_write(criterion: &mut Criterion) {
    let (store, bucket) = (MemoryStore::new(store::Limits::default()), Bucket::default());
    let value = Bytes::from(vec![b'x'; 64]);
    let keys: Vec<_> = (0..100_000).map(|number| format!("key-{number:06}")).collect();
    for key in &keys {
        at_once(store.set(&bucket, key, value.clone())).expect("there is room");
    }
    let mut key = keys.iter().cycle();
    let mut next = || key.next().expect("they come again");
    criterion.bench_function("store/get", |bencher| bencher.iter(|| at_once(store.get(&bucket, next()))));
    criterion.bench_function("store/set, in memory", |bencher| {
        bencher.iter(|| at_once(store.set(&bucket, next(), value.clone())));
    });
}

/// What a store in memory answers: it waits for nobody.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("it waits"),
    }
}

/// Requests through the dispatcher and guests, as the edge would hand them over.
fn serve(criterion: &mut Criterion) {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let bench = built.join("bench");
    let gateway = built.join("guests/wasm32-wasip2/release/gateway.wasm");
    let fresh = Limits { max_instance_reuse_count: 1, ..Limits::default() };
    let components = vec![
        component("storage", bench.join("storage-0.2.wasm"), Limits::default()),
        component("storage-0-3", bench.join("storage-0.3.wasm"), Limits::default()),
        component("fresh", bench.join("storage-0.2.wasm"), fresh),
        component("gateway", gateway, Limits::default()),
    ];
    let config = runtime::Config { workers: 1, tracer: None };
    let compiler = Compiler::new(None, config.workers).expect("this machine runs the engine");
    let store = Arc::new(MemoryStore::new(store::Limits::default()));
    let runtime =
        Runtime::start(compiler, &config, Registry::new(Config::default()), store).expect("a thread can be started");
    let revisions = runtime.load(components).into_iter().collect::<Result<_, _>>().expect("they can be run");
    runtime.publish_first(revisions).expect("their names differ");

    let worker = &runtime.workers()[0];
    criterion.bench_function("runtime/route a path", |bencher| {
        bencher.iter(|| worker.view().route(black_box("/gateway/data")));
    });
    for (namespace, what) in [
        ("storage", "a 0.2 guest"),
        ("storage-0-3", "a 0.3 guest"),
        ("fresh", "a fresh 0.2 guest"),
        ("gateway", "gateway and storage"),
    ] {
        criterion.bench_function(&format!("runtime/{what}"), |bencher| {
            bencher.iter_custom(|rounds| on_worker(worker, namespace, rounds));
        });
    }
}

fn component(name: &str, file: PathBuf, limits: Limits) -> (ComponentSpec, Code) {
    let bytes =
        std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run `just bench-stages`", file.display()));
    let spec = ComponentSpec {
        name: name.to_owned(),
        route: Some(format!("/{name}")),
        handlers: Vec::new(),
        namespace: Namespace::try_from(name).expect("a name"),
        instances: vec![Name::try_from(name).expect("a name")],
        environment: Vec::new(),
        config: Vec::new(),
        outbound: OutboundPolicy::default(),
        buckets: Buckets::default(),
        directories: Vec::new(),
        sockets: Vec::new(),
        limits,
        health: HealthCheck::default(),
    };
    (spec, Code::new(bytes))
}

/// How long so many requests take, one after another.
fn on_worker(worker: &Worker, namespace: &str, rounds: u64) -> Duration {
    let (tell, told) = mpsc::channel();
    let (this, target) = (worker.clone(), Target::Namespace(namespace.into()));
    worker.spawn(async move {
        let begun = Instant::now();
        for _ in 0..rounds {
            let request = Request::get("http://a/data").body(runtime::empty()).expect("a request");
            let answer = this.dispatch(&target, Box::new(request), Hop::new(1, None)).await;
            assert!(answer.status().is_success(), "{}", answer.status());
            answer.into_body().collect().await.expect("a whole answer");
        }
        let _ = tell.send(begun.elapsed());
    });
    told.recv().expect("every request is answered")
}

criterion_group!(stages, metrics::record, read_a_traceparent, pick_an_instance, read_and_write, serve);
criterion_main!(stages);
