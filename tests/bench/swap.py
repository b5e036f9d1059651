#!/usr/bin/env python3
"""Measures hot swaps on this machine: what requests notice of them, and how long they take.

Usage: tests/bench/swap.py [--swaps N] [--rate N] [--rehearse N] [--only WORD]

Needs the release builds that `just bench-swap` makes: target/release/host (or HOST_BIN), target/release/bench-latency, and
the stamped guests of the tests. Latencies are those of `POST`s at a fixed rate, each counted from when it was due. Everything
listens on loopback and is ended by its pid.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from peers import HOST, ROOT, Server, free_port, load

LATENCY = ROOT / "target/release/bench-latency"
GUESTS = ROOT / "target/guests/wasm32-wasip2/release"
MARK = b"hostler-stamp:"
CONNECTIONS = 32
SET = ("/api/set", json.dumps({"key": "bench", "value": "x" * 64}))
ECHO = ("/services/echo/bench", "x" * 64)
ASSEMBLY = """
[store]
sync = "100ms"
[components.gateway]
source = "builtin:gateway"
route = "/"
health-check = { path = "/health" }
[components.storage]
source = "builtin:storage"
instances = ["storage-1", "storage-2", "storage-3"]
environment = { STORAGE_NAME = "{instance}" }
health-check = { path = "/healthz" }
[components.echo]
source = "builtin:echo"
instances = ["echo-1", "echo-2", "echo-3"]
[components.spare]
source = "%(spare)s"
health-check = { path = "/healthz" }
"""


def stamped(guest, number, kind=""):
    """A revision of a guest of the family `stamped`; see tests/guests/stamp."""
    code = bytearray((GUESTS / f"{guest}.wasm").read_bytes())
    at = code.index(MARK) + len(MARK)
    text = f"{kind:.<8}:{number:06}".encode()
    code[at:at + len(text)] = text
    return bytes(code)


def leb(number):
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def signed(number):
    """Signed LEB128 of a number that isn't negative."""
    out = bytearray()
    while True:
        low = number & 0x7F
        number >>= 7
        done = number == 0 and not low & 0x40
        out.append(low if done else low | 0x80)
        if done:
            return bytes(out)


def padded(code, size, seed):
    """The component with a core module of so many bytes behind it, which is compiled like all others and never run."""
    def section(number, *items):
        body = leb(len(items)) + b"".join(items)
        return bytes([number]) + leb(len(body)) + body

    function, functions, length, number = [], [], 0, seed
    while length < size:
        # One parameter, and a long row of arithmetic with it, each with other constants.
        steps = bytearray(b"\x20\x00")
        for _ in range(120):
            number = (number * 1103515245 + 12345) & 0x3FFFFFFF
            steps += b"\x41" + signed(number) + bytes([(0x6A, 0x6B, 0x6C, 0x73)[number & 3]]) + b"\x20\x00\x6A"
        body = b"\x00" + bytes(steps) + b"\x0b"
        functions.append(leb(len(body)) + body)
        function.append(b"\x00")
        length += len(functions[-1])
    module = (b"\0asm\x01\0\0\0" + section(1, b"\x60\x01\x7f\x01\x7f") + section(3, *function) + section(10, *functions))
    return code + b"\x01" + leb(len(module)) + module


class Host(Server):
    """A host with an internal address that is known beforehand."""

    def __init__(self, directory, manifest, path, arguments=()):
        public, self.internal = free_port(), free_port()
        file = directory / f"{public}.toml"
        file.write_text(manifest)
        super().__init__([HOST, "run", "-f", file, "--listen", f"127.0.0.1:{public}", "--internal-listen",
                          f"127.0.0.1:{self.internal}", "--data-dir", directory / f"data-{public}", "--log-level", "error",
                          *arguments], public, path)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.internal, timeout=600)
        connection.request(method, path, body)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            sys.exit(f"{method} {path}: {answer.status} {document}")
        return document

    def put(self, component, code):
        """Swaps. Returns when that began and when it was acknowledged."""
        begun = time.time()
        self.ask("PUT", f"/components/{component}", code)
        return begun, time.time()

    def swap(self, component, file):
        """The seconds that `host swap` takes, from its start to its end."""
        begun = time.monotonic()
        subprocess.run([HOST, "swap", component, file, "--internal", f"http://127.0.0.1:{self.internal}"],
                       check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begun


class Latency:
    """Times requests in the background."""

    def __init__(self, server, rate, seconds, target):
        self.process = subprocess.Popen(
            [LATENCY, f"127.0.0.1:{server.port}", str(CONNECTIONS), str(rate), str(seconds), *target],
            stdout=subprocess.PIPE, text=True)
        time.sleep(1)

    def samples(self):
        """Each request's due time, seconds it took, and status, in order of due time."""
        lines = self.process.communicate()[0].splitlines()
        rows = (line.split() for line in lines)
        return sorted((float(due), float(took), int(status)) for due, took, status in rows)


def p99(samples):
    times = sorted(took for _, took, _ in samples)
    return times[int(len(times) * 0.99)] if times else float("nan")


def within(samples, begin, end):
    return [sample for sample in samples if begin <= sample[0] < end]


def failed(samples):
    return sum(status != 200 for _, _, status in samples)


def median_of(values, unit=1000, digits=0):
    return f"{statistics.median(values) * unit:.{digits}f} ({min(values) * unit:.{digits}f} to {max(values) * unit:.{digits}f})"


def around(directory, args):
    """p99 in the second around a swap over p99 in the steady state."""
    for name, target in (("gateway -> storage", SET), ("gateway -> echo", ECHO)):
        with Host(directory, ASSEMBLY % {"spare": GUESTS / "stamped.wasm"}, "/data") as host:
            load(host, 2)
            latency = Latency(host, args.rate, args.swaps * 4 + 4, target)
            swaps = []
            for number in range(1, args.swaps + 1):
                begun = time.monotonic()
                component = ("gateway", "storage", "echo")[number % 3]
                swaps.append(host.put(component, stamped(f"stamped_{component}", number + 1000 * (target is ECHO))))
                time.sleep(max(0, 4 - (time.monotonic() - begun)))
            samples = latency.samples()
        near = lambda due: any(begin - 1 <= due < end + 1 for begin, end in swaps)
        steady = p99([sample for sample in samples if not near(sample[0])])
        windows = [p99(within(samples, end - 0.5, end + 0.5)) for _, end in swaps]
        compiling = p99([sample for begin, end in swaps for sample in within(samples, begin, end)])
        print(f"{name}: {len(samples)} requests, {failed(samples)} failed, {args.rate} a second; steady p99 "
              f"{steady * 1000:.2f} ms")
        print(f"  p99 in the second around a swap: {median_of(windows, digits=2)} ms; over steady: "
              f"{statistics.median(windows) / steady:.2f} (worst {max(windows) / steady:.2f}), goal 2")
        print(f"  p99 from the bytes' arrival to the answer: {compiling / steady:.2f} of steady", flush=True)


@contextmanager
def saturated(host):
    wrk = subprocess.Popen(["wrk", "-t1", "-c64", "-d600s", f"http://127.0.0.1:{host.port}/data"],
                           stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield
    finally:
        wrk.terminate()
        wrk.wait()


@contextmanager
def paced(host, rate):
    latency = Latency(host, rate, 600, SET)
    try:
        yield
    finally:
        latency.process.terminate()
        latency.process.wait()


@contextmanager
def idle():
    yield


def duration(directory, args):
    """From the start of `host swap` to its end, which is after the publication."""
    size = len(stamped("stamped_storage", 0))
    number = 2000
    with Host(directory, ASSEMBLY % {"spare": GUESTS / "stamped.wasm"}, "/data") as host:
        load(host, 2)
        for name, under in (("idle", idle), (f"{args.rate} requests a second", lambda: paced(host, args.rate)),
                            ("64 clients as fast as they can", lambda: saturated(host))):
            fresh, cached = [], []
            with under():
                for _ in range(max(3, args.swaps // 2)):
                    files = []
                    for _ in range(2):
                        number += 1
                        files.append(directory / f"{number}.wasm")
                        files[-1].write_bytes(stamped("stamped_storage", number))
                        fresh.append(host.swap("storage", files[-1]))
                    for file in files:
                        cached.append(host.swap("storage", file))
            print(f"host swap, {size // 1000} KB, {name}: fresh {median_of(fresh)} ms, goal 300; compiled before "
                  f"{median_of(cached)} ms, goal 50", flush=True)


def rollback(directory, args):
    """From the moment that more than 5 % have failed until the last request that fails."""
    manifest = f'[components.guest]\nsource = "{GUESTS / "stamped.wasm"}"\nroute = "/"\nmax-guests = 1\n' \
               'health-check = { path = "/healthz" }\n'
    taken = []
    for number in range(5):
        with Host(directory, manifest, "/", ["--workers", "1"]) as host:
            latency = Latency(host, 1000, 12, ("/bench", ""))
            _, published = host.put("guest", stamped("stamped", 3000 + number, "tires"))
            samples = [(due + took, status) for due, took, status in latency.samples() if due >= published]
            samples.sort()
            crossed = last = None
            for index, (time_of, status) in enumerate(samples):
                if status == 200:
                    continue
                last = time_of
                if crossed is None:
                    seen = [earlier for earlier in samples[:index + 1] if earlier[0] > time_of - 2]
                    bad = sum(one != 200 for _, one in seen)
                    crossed = time_of if bad >= 3 and bad > 0.05 * len(seen) else None
            if crossed is None or samples[-1][1] != 200:
                sys.exit("it was not rolled back")
            taken.append(last - crossed)
    print(f"from the threshold to the last failure: {median_of(taken)} ms, goal 2000", flush=True)


def large(directory, args):
    """p99 of the neighbours while a large component compiles."""
    code = padded((GUESTS / "stamped.wasm").read_bytes(), 20_000_000, int(time.time()))
    with Host(directory, ASSEMBLY % {"spare": GUESTS / "stamped.wasm"}, "/data") as host:
        load(host, 2)
        latency = Latency(host, args.rate, 60, SET)
        before = time.time()
        time.sleep(10)
        begin, end = host.put("spare", code)
        samples = latency.samples()
    steady, busy = within(samples, before, before + 10), within(samples, begin, end)
    print(f"{len(code) / 1e6:.0f} MB compile and are published in {end - begin:.1f} s; the neighbours' p99 meanwhile: "
          f"{p99(busy) * 1000:.2f} ms, {p99(busy) / p99(steady):.2f} of the {p99(steady) * 1000:.2f} ms before, goal 2; "
          f"{failed(samples)} failed", flush=True)


def rehearse(directory, args):
    """p99 while live requests are rehearsed over p99 in the seconds before, at a quarter of what the host can do."""
    phases, compared = {"before": [], "rehearsing": [], "after": []}, []
    with Host(directory, ASSEMBLY % {"spare": GUESTS / "stamped.wasm"}, "/data") as host:
        rate = most(directory, host, SET) // 4
        for number in range(5):
            latency = Latency(host, rate, 30 + args.rehearse // 10, SET)
            before = time.time()
            time.sleep(5)
            document, begun, end = rehearsed(host, "storage", stamped("stamped_storage", 4000 + number), args.rehearse)
            samples = latency.samples()
            if samples[-1][0] < end + 6:
                sys.exit(f"the rehearsal took {end - begun:.0f} s, longer than there were requests")
            if failed(samples):
                sys.exit(f"{failed(samples)} of {len(samples)} requests failed")
            # Not from when the bytes arrived: they are compiled first.
            rehearsal = end - document["rehearsal"]["took_ms"] / 1000
            for phase, begin, until in (("before", before, begun), ("rehearsing", rehearsal, end),
                                        ("after", end + 1, end + 6)):
                phases[phase].append(p99(within(samples, begin, until)))
            compared.append(document["rehearsal"])
    ratios = [rehearsing / steady for rehearsing, steady in zip(phases["rehearsing"], phases["before"])]
    counts = ", ".join(f"{report['compared']} in {report['took_ms'] / 1000:.1f} s" for report in compared)
    print(f"rehearsals at {rate} requests a second, a quarter of the most: compared {counts}")
    for phase, values in phases.items():
        print(f"  p99 {phase}: {median_of(values, digits=2)} ms")
    print(f"  rehearsing over before: {median_of(ratios, 1, 2)}, goal 1.2", flush=True)


def most(directory, server, target):
    """How many requests a second it answers at most."""
    path, body = target
    script = directory / "most.lua"
    script.write_text(f"wrk.method, wrk.path, wrk.body = 'POST', '{path}', '{body}'\n"
                      "wrk.headers['content-type'] = 'application/json'\n")
    found = load(server, 5, script=script)
    if found.failed:
        sys.exit(f"{found.failed} requests failed")
    return int(found.rate)


def rehearsed(host, component, code, requests):
    """Swaps with a rehearsal. Returns the answer, and when that began and when it was acknowledged."""
    begun = time.time()
    document = host.ask("PUT", f"/components/{component}?rehearse={requests}", code)
    return document, begun, time.time()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=12)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--rehearse", type=int, default=200, help="how many requests are rehearsed at a time")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, {CONNECTIONS} connections")
    with tempfile.TemporaryDirectory() as name:
        for measure in (around, duration, rollback, large, rehearse):
            if args.only in measure.__name__:
                measure(Path(name), args)


if __name__ == "__main__":
    main()
