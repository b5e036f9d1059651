"""The cases: what is measured against what, and the ratio to be reached. Each is a generator of rows of the table.

Contenders of one case run at the same time, but only one is loaded at a time, in turns.
"""

import base64
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import peers
from peers import GUESTS, REUSE, Redis, free_port, load, paced

CASES = []


def case(function):
    CASES.append(function)
    return function


@dataclass
class Bench:
    """How much is measured, and where files may be."""
    directory: Path
    rounds: int
    seconds: int

    def folder(self):
        return Path(tempfile.mkdtemp(dir=self.directory))

    def in_turns(self, measures):
        """Measures everything once, to warm up, and then so often as there are rounds. By name, what each has found."""
        found = {name: [] for name in measures}
        for measure in measures.values():
            measure(1)
        for _ in range(self.rounds):
            for name, measure in measures.items():
                found[name].append(measure(self.seconds))
        return found


@dataclass
class Row:
    """A ratio: of the median of ours to that of theirs."""
    case: str
    against: str
    goal: float
    unit: str
    ours: list
    theirs: list
    less_is_better: bool = False
    # Requests that failed on either side.
    failed: int = 0
    # What else was seen, by contender: CPU time for a request, memory.
    seen: dict = field(default_factory=dict)

    @property
    def ratio(self):
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def met(self):
        return not self.failed and (self.ratio <= self.goal if self.less_is_better else self.ratio >= self.goal)


def seen(found):
    median = lambda runs, what: round(statistics.median(getattr(run, what) for run in runs), 1)
    return {name: {"cpu_us_per_request": median(runs, "cpu"), "resident_mib": median(runs, "resident")}
            for name, runs in found.items()}


def rates(title, found, goals, unit="requests/s", scale=1.0):
    """The first of what was found against each of the others that has a goal."""
    ours = next(iter(found))
    of = lambda name: [run.rate * scale for run in found[name]]
    failed = lambda name: sum(run.failed for run in found[name])
    for name, goal in goals.items():
        yield Row(title, name, goal, unit, of(ours), of(name), failed=failed(ours) + failed(name),
                  seen=seen({key: found[key] for key in (ours, name)}))


def loads(servers, **options):
    return {name: lambda seconds, server=server: load(server, seconds, **options) for name, server in servers.items()}


def storage(flavour):
    return GUESTS / f"storage-{flavour}.wasm"


def alone(component, more=""):
    """A manifest with one component, on everything."""
    return f'[components.guest]\nsource = "{component}"\nroute = "/"\n{more}\n'


def script(folder, name, text):
    file = folder / f"{name}.lua"
    file.write_text(text)
    return file


@case
def direct(bench):
    for flavour, goal in (("0.2", 2.0), ("0.3", 2.5)):
        with (peers.host(bench.folder(), alone(storage(flavour)), "/data") as ours,
              peers.wasmtime(storage(flavour), "/data", REUSE[flavour]) as theirs,
              peers.native() as native):
            found = bench.in_turns(loads({"host": ours, "wasmtime serve": theirs, "native": native}))
            yield from rates(f"storage `/data` directly, WASI {flavour}", found, {"wasmtime serve": goal, "native": 0.7})


@case
def gateway(bench):
    with peers.native() as native:
        folder = bench.folder()
        with (peers.host(folder, None, "/data") as ours, peers.nginx(folder, native) as nginx,
              peers.haproxy(folder, native) as haproxy):
            found = bench.in_turns(loads({"host": ours, "nginx -> native": nginx, "HAProxy -> native": haproxy}))
            yield from rates("`/data` through gateway -> storage", found,
                             {"nginx -> native": 1.2, "HAProxy -> native": 1.1})


ONLY_GATEWAY = '[components.gateway]\nsource = "builtin:gateway"\nroute = "/"\n'


@contextlib.contextmanager
def with_remotes(bench, backend, count):
    """A gateway in front of a storage elsewhere that is registered under so many names, all sending heartbeats."""
    internal = free_port()
    names = [f"storage-{number}" for number in range(1, count + 1)]
    address = f"http://127.0.0.1:{backend.port}"
    with peers.host(bench.folder(), ONLY_GATEWAY, "/health", internal) as server, peers.Heart(internal) as heart:
        for name in names:
            status = peers.ask(internal, "POST", "/register", json.dumps({"name": name, "address": address}))
            assert status == 201, f"registering {name}: {status}"
        done = threading.Event()

        def beat():
            while True:
                for number, name in enumerate(names):
                    heart.beat(name)
                    if done.wait(5 / len(names)):
                        return

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            server.path = "/data"
            yield server
        finally:
            done.set()
            thread.join()


@case
def remote(bench):
    with (peers.native() as native, with_remotes(bench, native, 3) as ours,
          peers.nginx(bench.folder(), native) as nginx):
        found = bench.in_turns(loads({"host": ours, "nginx -> the same": nginx}))
        yield from rates("`/data` through gateway -> remote storage", found, {"nginx -> the same": 0.8})


@case
def standalone(bench):
    gateway = GUESTS / "gateway-standalone.wasm"
    with peers.native() as native:
        services = f"http://127.0.0.1:{native.port}"
        more = (f'environment = {{ STORAGE_SERVICES = "{services}" }}\n'
                f'allowed-outbound-hosts = ["{services}"]')
        with (peers.host(bench.folder(), alone(gateway, more), "/data") as ours,
              peers.wasmtime(gateway, "/data", REUSE["0.3"], [f"STORAGE_SERVICES={services}"]) as theirs):
            found = bench.in_turns(loads({"host": ours, "wasmtime serve": theirs}))
            yield from rates("gateway-standalone -> remote storage", found, {"wasmtime serve": 3.0})


@case
def echo(bench):
    folder = bench.folder()
    body = script(folder, "echo", 'wrk.method, wrk.body = "POST", string.rep("x", 1048576)')
    with (peers.host(folder, alone(GUESTS / "echo.wasm"), "/") as ours,
          peers.wasmtime(GUESTS / "echo.wasm", "/", REUSE["0.3"]) as theirs):
        found = bench.in_turns(loads({"host": ours, "wasmtime serve": theirs}, script=body))
        yield from rates("echo of 1 MiB", found, {"wasmtime serve": 1.5}, unit="MiB/s")


@case
def fixed_rate(bench):
    with peers.native() as native:
        folder = bench.folder()
        with peers.host(folder, None, "/data") as ours, peers.nginx(folder, native) as nginx:
            half = load(ours, bench.seconds).rate / 2
            at_half = lambda server: lambda seconds: paced(server, half, seconds)
            found = bench.in_turns({"host": at_half(ours), "nginx -> native": at_half(nginx)})
            for percentile in ("p99", "p99.9"):
                of = lambda name: [run.latency[percentile] * 1000 for run in found[name]]
                yield Row(f"{percentile} at half the maximum ({half:.0f}/s)", "nginx -> native", 1.5, "ms", of("host"),
                          of("nginx -> native"), less_is_better=True, seen=seen(found),
                          failed=sum(run.failed for runs in found.values() for run in runs))


@case
def flavours(bench):
    with (peers.host(bench.folder(), alone(storage("0.3")), "/data") as new,
          peers.host(bench.folder(), alone(storage("0.2")), "/data") as old):
        yield from rates("storage for WASI 0.3", bench.in_turns(loads({"0.3": new, "0.2": old})), {"0.2": 0.9})


@case
def fresh(bench):
    once = "max-instance-reuse-count = 1"
    with (peers.host(bench.folder(), alone(storage("0.2"), once), "/data") as ours,
          peers.wasmtime(storage("0.2"), "/data") as theirs):
        found = bench.in_turns(loads({"host": ours, "wasmtime serve, default flags": theirs}))
        yield from rates("a fresh 0.2 guest for each request", found, {"wasmtime serve, default flags": 2.0})


@case
def starting(bench):
    component = storage("0.2")
    theirs_at = bench.folder()
    config = theirs_at / "cache.toml"
    config.write_text(f'[cache]\ndirectory = "{theirs_at}/cache"\n')
    start = {"cold": ([], []), "warm": ([], [])}

    def ours(folder):
        with peers.host(folder, alone(component), "/data") as server:
            return server.start * 1000

    def theirs(folder):
        flags = ["-C", "cache", "-C", f"cache-config={folder / 'cache.toml'}"]
        with peers.wasmtime(component, "/data", flags) as server:
            return server.start * 1000

    warm = bench.folder(), theirs_at
    ours(warm[0]), theirs(warm[1])
    for _ in range(bench.rounds):
        cold = bench.folder(), bench.folder()
        (cold[1] / "cache.toml").write_text(f'[cache]\ndirectory = "{cold[1]}/cache"\n')
        for name, (mine, other) in (("cold", cold), ("warm", warm)):
            start[name][0].append(ours(mine))
            start[name][1].append(theirs(other))
    for name, (mine, other) in start.items():
        yield Row(f"start to first 200, {name} cache", "wasmtime serve", 1.0, "ms", mine, other, less_is_better=True)


@case
def crowd(bench):
    with peers.native() as native:
        found = {"1,000 instances": [], "3 instances": []}
        for _ in range(bench.rounds):
            for name, count in (("1,000 instances", 1000), ("3 instances", 3)):
                with with_remotes(bench, native, count) as server:
                    load(server, 2)
                    found[name].append(load(server, bench.seconds))
        yield from rates("1,000 instances, all sending heartbeats", found, {"3 instances": 0.95})


@case
def memory(bench):
    component = storage("0.2")
    idle = {"host": [], "wasmtime serve": []}
    found = {"host": [], "wasmtime serve": []}
    for _ in range(bench.rounds):
        for name, start in (("host", lambda: peers.host(bench.folder(), alone(component), "/data")),
                            ("wasmtime serve", lambda: peers.wasmtime(component, "/data", REUSE["0.2"]))):
            with start() as server:
                time.sleep(1)
                idle[name].append(server.resident())
                found[name].append(load(server, bench.seconds, connections=1000))
    yield Row("resident memory, idle", "wasmtime serve", 1.5, "MiB", *idle.values(), less_is_better=True)
    of = lambda name: [run.resident for run in found[name]]
    yield Row("resident memory, 1,000 connections", "wasmtime serve", 1.5, "MiB", of("host"), of("wasmtime serve"),
              less_is_better=True, failed=sum(run.failed for run in found["host"]))


@case
def lightly(bench):
    with peers.native() as native:
        folder = bench.folder()
        with peers.host(folder, None, "/data") as ours, peers.nginx(folder, native) as nginx:
            at = {}
            for name, server in (("", ours), ("nginx, ", nginx)):
                tenth = load(server, bench.seconds).rate / 10
                at[name + "at 10 %"] = lambda seconds, server=server, tenth=tenth: paced(server, tenth, seconds)
                at[name + "at 100 %"] = lambda seconds, server=server: load(server, seconds)
            found = bench.in_turns(at)
            of = lambda name: [run.cpu for run in found[name]]
            # What nginx costs then says how much of it is the machine's: processors that sleep and caches that are cold.
            yield Row("CPU time for a request at 10 % load", "at 100 %", 1.3, "µs", of("at 10 %"), of("at 100 %"),
                      less_is_better=True, seen=seen(found))


@case
def recording(bench):
    """The lines of requests, which are on by default. What metrics cost can't be left out: `just bench-stages` has it."""
    with (peers.host(bench.folder(), None, "/data", log="info") as logging,
          peers.host(bench.folder(), None, "/data") as silent):
        found = bench.in_turns(loads({"with the access log": logging, "without": silent}))
        yield from rates("`/data`, with the access log", found, {"without": 0.97})


# So few that a second's writes reach all of them: what is read then is there.
KEYS = 5_000
VALUE = "x" * 64
STORE_CONNECTIONS = 64

# Requests for all keys in some order, made beforehand: to format one costs wrk as much as to send it.
LUA = """
local requests, next = {}, 0
function init()
  for i = 1, %(keys)d do
    local key = string.format("key-%%06d", i)
    table.insert(requests, math.random(i), %(request)s)
  end
end
function request()
  next = next %% %(keys)d + 1
  return requests[next]
end
"""


@case
def store(bench):
    """On one disk: the host with `sync = "always"`, Redis with `appendfsync always`, etcd as it is."""
    folder = bench.folder()
    prepared = lambda name, request: script(folder, name, LUA % {"keys": KEYS, "request": request})
    value64 = base64.b64encode(VALUE.encode()).decode()
    # Lua has no base64. The keys of etcd are therefore the text as it is, padded to a valid encoding of something.
    key64 = 'string.gsub(key, "-", "/") .. "00"'
    json_type = '{["content-type"] = "application/json"}'
    post = lambda path, body: f'wrk.format("POST", "{path}", {json_type}, \'{body}\')'
    ours_in = {"set": prepared("set", post("/api/set", f'{{"key":"\' .. key .. \'","value":"{VALUE}"}}')),
               "get": prepared("get", 'wrk.format("GET", "/api/get?key=" .. key)')}
    etcd_in = {"set": prepared("etcd-set", post("/v3/kv/put", f'{{"key":"\' .. {key64} .. \'","value":"{value64}"}}')),
               "get": prepared("etcd-get", post("/v3/kv/range", f'{{"key":"\' .. {key64} .. \'"}}'))}
    with peers.host(folder, None, "/data") as ours, Redis(folder) as redis, peers.etcd(folder) as etcd:
        for which, goal in (("set", 0.5), ("get", 0.45)):
            over_http = lambda server, file: lambda seconds: load(server, seconds, STORE_CONNECTIONS, file)

            def over_redis(seconds):
                measure = lambda count: redis.benchmark(which, count, STORE_CONNECTIONS, len(VALUE), KEYS)
                # As many requests as take about as long.
                rate = measure(int(measure(20_000) * seconds))
                return peers.Run(rate, 0, 0, 0, {})

            found = bench.in_turns({"host": over_http(ours, ours_in[which]), "Redis": over_redis,
                                    "etcd": over_http(etcd, etcd_in[which])})
            yield from rates(f"{which.upper()} through gateway -> storage", found, {"Redis": goal, "etcd": 1.0})
