#!/usr/bin/env python3
"""Measures the host beside its peers, in one run on this machine, and prints medians and ratios.

Usage: tests/bench/figures.py [--rounds N] [--seconds N] [--only WORD]

Needs wrk, nginx and wasmtime on the PATH, and the release builds that `just bench` makes: target/release/host,
target/release/bench-native, and storage for WASI 0.2 and 0.3 under target/bench. Runs are interleaved, so that what
else happens on the machine hits all alike. Everything listens on loopback and is ended by its pid.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import CONNECTIONS, ROOT, Server, free_port, host, load

NATIVE = ROOT / "target/release/bench-native"
STORAGE = {flavour: ROOT / f"target/bench/storage-{flavour}.wasm" for flavour in ("0.2", "0.3")}


def storage_here(directory, flavour):
    manifest = f'[components.storage]\nsource = "{STORAGE[flavour]}"\nroute = "/"\n'
    return host(directory, manifest, "/data")


def storage_wasmtime(_, flavour):
    port = free_port()
    flags = ["--max-instance-reuse-count", "100000000"]
    if flavour == "0.3":
        flags += ["--max-instance-concurrent-reuse-count", "64"]
    return Server(["wasmtime", "serve", "-Scli", "-Skeyvalue", "--addr", f"127.0.0.1:{port}", *flags,
                   STORAGE[flavour]], port, "/data")


def native(_):
    port = free_port()
    return Server([NATIVE, f"127.0.0.1:{port}"], port, "/data")


def nginx(directory, backend):
    port = free_port()
    config = directory / f"nginx-{port}.conf"
    config.write_text(f"""
worker_processes auto; daemon off; pid {directory}/nginx-{port}.pid; error_log /dev/null;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream backend {{ server 127.0.0.1:{backend.port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
    return Server(["nginx", "-c", config], port, "/data")


def compare(title, goal, contenders, rounds, seconds):
    """Starts all contenders, loads them in turn, and prints medians and the ratio of the first to the last."""
    with contextlib.ExitStack() as stack:
        servers = [(name, stack.enter_context(start())) for name, start in contenders]
        results = {name: [] for name, _ in servers}
        failures = 0
        for _, server in servers:
            load(server, 1)
        for _ in range(rounds):
            for name, server in servers:
                rate, failed = load(server, seconds)
                results[name].append(rate)
                failures += failed
        first, last = servers[0][0], servers[-1][0]
        medians = {name: statistics.median(rates) for name, rates in results.items()}
        ratio = medians[first] / medians[last]
        print(f"\n{title} (goal {goal}x)")
        for name, server in servers:
            rates = results[name]
            print(f"  {name:44} {medians[name]:9.0f} req/s   {min(rates):.0f} to {max(rates):.0f}"
                  f"   {server.resident():6.1f} MiB")
        print(f"  ratio {ratio:.2f}" + (f"   FAILED REQUESTS: {failures}" if failures else ""), flush=True)
        return {"title": title, "goal": goal, "ratio": ratio, "requests_per_second": results, "failures": failures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--only", default="", help="only the cases whose title contains this")
    args = parser.parse_args()
    for tool in ("wrk", "nginx", "wasmtime"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing; `just bench` says how to install it")
    wasmtime = subprocess.run(["wasmtime", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, {wasmtime}, {CONNECTIONS} connections, "
          f"medians of {args.rounds} runs of {args.seconds} s")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        results = []

        def case(title, goal, contenders):
            if args.only in title:
                results.append(compare(title, goal, contenders, args.rounds, args.seconds))

        for flavour, goal in (("0.2", 1.5), ("0.3", 1.8)):
            case(f"storage /data directly, written for {flavour}", goal, [
                ("host", lambda flavour=flavour: storage_here(directory, flavour)),
                ("wasmtime serve, best reuse flags", lambda flavour=flavour: storage_wasmtime(directory, flavour)),
            ])
        if args.only in "/data through the gateway":
            backend = stack.enter_context(native(directory))
            case("/data through the gateway", 0.9, [
                ("host, gateway -> storage", lambda: host(directory, None, "/data")),
                ("native, without a proxy", lambda: native(directory)),
                ("nginx -> native", lambda: nginx(directory, backend)),
            ])
        if args.only in "start and memory":
            starts = []
            for _ in range(2 * args.rounds + 1):
                with host(directory, None, "/data") as server:
                    starts.append(server.start * 1000)
                    time.sleep(3)
                    idle = server.resident()
            print(f"\nstart and memory\n  start to first 200, warm cache: median {statistics.median(starts[1:]):.0f} ms, "
                  f"worst {max(starts[1:]):.0f} ms (goal 150); cold {starts[0]:.0f} ms"
                  f"\n  resident memory, idle: {idle:.1f} MiB (goal 60)")
            results.append({"title": "start and memory", "start_ms": starts, "idle_mib": idle})
        out = ROOT / "target/bench/figures.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
