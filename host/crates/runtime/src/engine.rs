//! The wasmtime engine: how components are compiled and where their guests' memory comes from.
//!
//! One for the process, alive as long as it. What bounds it: the pooling allocator has a fixed number of slots, so
//! guests beyond them fail to start instead of eating the machine; the epoch thread ends with the engine.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running guest gives the worker back to its neighbours.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Guests that can live at once, for each worker; and for the whole process at least and at most. Each reserves address
/// space (not memory) for its linear memories: at two memories of 4 GiB a guest, 4,000 guests reserve 32 TiB of the 128 TiB
/// a process has. And each has a stack, whose guard page is set when the process starts: 2 µs apiece. A quarter more are for
/// guests that call a synchronous function in one task and go on in another.
const GUESTS_PER_WORKER: u32 = 500;
const GUESTS: RangeInclusive<u32> = 1_000..=4_000;
/// Core instances a component may consist of on average. Those built by `wit-component` have three to five.
const CORE_INSTANCES_PER_GUEST: u32 = 8;
const MEMORIES_PER_GUEST: u32 = 2;
const TABLES_PER_GUEST: u32 = 4;
/// Elements a table may hold: the largest that a manifest can allow.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;
/// Bytes of VM context a module may need: what `componentize-py` and the like produce, several times over.
const MAX_INSTANCE_SIZE: usize = 4 << 20;
/// Memory that a freed slot keeps, so that the next guest in it starts without page faults. Of linear memories these are the
/// pages that were written to, wherever they are, if the kernel can tell which (Linux 6.7); else the first ones.
const KEEP_RESIDENT: usize = 64 << 10;

/// Guests that can live at once in a process with so many workers.
pub fn most_guests(workers: usize) -> u32 {
    let guests = u32::try_from(workers).unwrap_or(u32::MAX).saturating_mul(GUESTS_PER_WORKER);
    guests.clamp(*GUESTS.start(), *GUESTS.end())
}

/// Makes the engine, with compiled components kept in `cache` (and found there again) if there is one, and starts its
/// epoch thread.
pub(crate) fn new(cache: Option<&Path>, workers: usize) -> wasmtime::Result<Engine> {
    let guests = most_guests(workers);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(guests)
        .total_core_instances(guests * CORE_INSTANCES_PER_GUEST)
        .total_memories(guests * MEMORIES_PER_GUEST)
        .total_tables(guests * TABLES_PER_GUEST)
        .total_stacks(guests + guests / 4)
        .total_gc_heaps(guests / 4)
        .max_core_instance_size(MAX_INSTANCE_SIZE)
        .max_component_instance_size(MAX_INSTANCE_SIZE)
        .max_tables_per_module(16)
        .max_memories_per_module(4)
        .table_elements(MAX_TABLE_ELEMENTS)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .async_stack_keep_resident(KEEP_RESIDENT);

    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    if let Some(directory) = cache {
        let mut cache = CacheConfig::new();
        cache.with_directory(directory);
        config.cache(Some(Cache::new(cache)?));
    }
    let engine = Engine::new(&config)?;
    start_epochs(&engine);
    Ok(engine)
}

/// Compiles a component, or takes it from the cache. Blocks for as long as that takes: milliseconds from the cache, up
/// to seconds for megabytes of wasm.
pub(crate) fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    Component::new(engine, bytes)
}

/// Raises the epoch every tick from a thread of its own, so that no guest can keep a worker to itself.
fn start_epochs(engine: &Engine) {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epochs".into())
        .spawn(move || {
            loop {
                std::thread::sleep(EPOCH_TICK);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })
        .expect("a thread can be started while the process starts");
}
