#!/usr/bin/env python3
"""Measures the key-value store beside Redis and etcd, on one disk, in one run, and prints medians and ratios.

Usage: tests/bench/store.py [--rounds N] [--seconds N]

Needs wrk, redis-server and etcd on the PATH, and the release builds that `just bench-store` makes. Everything durable is
on the disk of target/bench: the host with `sync = "always"`, Redis with `appendfsync always`, etcd as it is. Keys are out
of 100,000, values of 64 bytes. Redis is loaded by redis-benchmark without pipelining, the others by wrk over HTTP. Runs are
interleaved. Everything listens on loopback and is ended by its pid.
"""

import argparse
import base64
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import ROOT, Server, free_port, host, load

CONNECTIONS = 64
KEYS = 100_000
VALUE = "x" * 64

# Thousands of requests made beforehand: to format one costs wrk as much as to send it.
LUA = """
local requests, next = {}, 0
function init()
  math.randomseed(os.time())
  for i = 1, 4096 do
    local key = string.format("key-%%06d", math.random(0, %(keys)d - 1))
    requests[i] = %(request)s
  end
end
function request()
  next = next %% 4096 + 1
  return requests[next]
end
"""


def script(directory, name, request):
    file = directory / f"{name}.lua"
    file.write_text(LUA % {"keys": KEYS, "request": request})
    return file


class Redis:
    """Redis on a port of its own; with `benchmark`, its own load generator."""

    def __init__(self, directory):
        self.port = free_port()
        folder = directory / "redis"
        folder.mkdir()
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            if time.monotonic() > deadline:
                sys.exit("redis-server doesn't listen")
            time.sleep(0.01)

    def benchmark(self, test, count):
        out = subprocess.run(
            ["redis-benchmark", "-p", str(self.port), "-c", str(CONNECTIONS), "-n", str(count), "-t", test,
             "-d", str(len(VALUE)), "-r", str(KEYS), "-q"], capture_output=True, text=True, check=True).stdout
        return float(re.findall(r"([\d.]+) requests per second", out)[-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


def etcd(directory):
    client, peer = free_port(), free_port()
    return Server(["etcd", "--data-dir", directory / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}",
                   "--advertise-client-urls", f"http://127.0.0.1:{client}",
                   "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                   "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                   "--initial-cluster", f"default=http://127.0.0.1:{peer}", "--quota-backend-bytes", "8589934592"],
                  client, "/health")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    args = parser.parse_args()
    for tool in ("wrk", "redis-server", "redis-benchmark", "etcd"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing; `just bench-store` says how to install it")
    bench = ROOT / "target/bench"
    bench.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, {CONNECTIONS} connections, {KEYS} keys, values of "
          f"{len(VALUE)} bytes, medians of {args.rounds} runs of {args.seconds} s")
    results = {}
    failures = 0
    with tempfile.TemporaryDirectory(dir=bench) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        ours = stack.enter_context(host(directory, None, "/data"))
        redis = stack.enter_context(Redis(directory))
        theirs = stack.enter_context(etcd(directory))
        value64 = base64.b64encode(VALUE.encode()).decode()
        # Lua has no base64. The keys of etcd are therefore the text as it is, padded to a valid encoding of something.
        key64 = 'string.gsub(key, "-", "/") .. "00"'
        json_type = '{["content-type"] = "application/json"}'
        scripts = {
            "set": script(directory, "set", f'wrk.format("POST", "/api/set", {json_type}, '
                          f'\'{{"key":"\' .. key .. \'","value":"{VALUE}"}}\')'),
            "get": script(directory, "get", 'wrk.format("GET", "/api/get?key=" .. key)'),
            "etcd set": script(directory, "etcd-set", f'wrk.format("POST", "/v3/kv/put", {json_type}, '
                               f'\'{{"key":"\' .. {key64} .. \'","value":"{value64}"}}\')'),
            "etcd get": script(directory, "etcd-get", f'wrk.format("POST", "/v3/kv/range", {json_type}, '
                               f'\'{{"key":"\' .. {key64} .. \'"}}\')'),
        }

        def over_http(server, which):
            nonlocal failures
            rate, failed = load(server, args.seconds, CONNECTIONS, scripts[which])
            # A key that nobody has set yet is a 404.
            failures += failed if "set" in which else 0
            return rate

        def over_redis(test):
            # As many requests as take about as long.
            guess = redis.benchmark(test, 20_000)
            return redis.benchmark(test, int(guess * args.seconds))

        contenders = {
            "set": [("host, gateway -> storage, always", lambda: over_http(ours, "set")),
                    ("Redis, appendfsync always", lambda: over_redis("set")),
                    ("etcd, JSON gateway", lambda: over_http(theirs, "etcd set"))],
            "get": [("host, gateway -> storage", lambda: over_http(ours, "get")),
                    ("Redis", lambda: over_redis("get")),
                    ("etcd, JSON gateway", lambda: over_http(theirs, "etcd get"))],
        }
        for case, goal in (("set", 0.5), ("get", 0.45)):
            rates = {name: [] for name, _ in contenders[case]}
            for _ in range(args.rounds):
                for name, measure in contenders[case]:
                    rates[name].append(measure())
            medians = {name: statistics.median(all) for name, all in rates.items()}
            first, second, third = medians
            print(f"\n{case.upper()} (goal {goal}x Redis, and ahead of etcd)")
            for name, all in rates.items():
                print(f"  {name:44} {medians[name]:9.0f} /s   {min(all):.0f} to {max(all):.0f}")
            print(f"  ratio to Redis {medians[first] / medians[second]:.2f}, to etcd {medians[first] / medians[third]:.2f}",
                  flush=True)
            results[case] = rates
        if failures:
            print(f"FAILED WRITES: {failures}")
    (bench / "store.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
