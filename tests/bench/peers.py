"""What the benchmarks share: servers that are ended by their pid, what they cost, and the load on them."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("HOST_BIN", ROOT / "target/release/host"))
NATIVE = ROOT / "target/release/bench-native"
GUESTS = ROOT / "target/bench"
CONNECTIONS = 32
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, method, path, body=None):
    """The status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, body, {"content-type": "application/json"} if body else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


class Heart:
    """Sends heartbeats over one connection, each with a single write and a single read: what it costs is not the host's."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def beat(self, name):
        body = json.dumps({"name": name}).encode()
        self.socket.sendall(b"POST /heartbeat HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                            b"content-length: %d\r\n\r\n%s" % (len(body), body))
        answer = self.socket.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 "), f"heartbeat of {name}: {answer}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Server:
    """A process that listens on a port. Ended, by pid, when the context is left."""

    def __init__(self, command, port, path, env=None):
        self.port, self.path = port, path
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command], env={**os.environ, **(env or {})},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = self.begun + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(port, "GET", path) == 200:
                    break
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                sys.exit(f"{command} doesn't answer {path}")
            time.sleep(0.001)
        self.start = time.monotonic() - self.begun

    def pids(self):
        """The process and its children: nginx and HAProxy have their workers there."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return [self.process.pid, *map(int, children.split())]

    def resident(self):
        """Resident memory in MiB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):
                match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                total += int(match[1]) if match else 0
        return total / 1024

    def cpu(self):
        """Seconds of CPU time that it has taken, in user space and in the kernel."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Run:
    """What one run of a load generator has found."""
    rate: float
    failed: int
    # Microseconds of the server's CPU time for a request.
    cpu: float
    # Most of the server's memory that was seen, in MiB.
    resident: float
    # Seconds, by percentile. Only of a load at a fixed rate.
    latency: dict


@contextlib.contextmanager
def watched(server):
    """Looks at the server's memory four times a second. Yields a list that its samples are put into."""
    samples, done = [server.resident()], threading.Event()

    def watch():
        while not done.wait(0.25):
            samples.append(server.resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def load(server, seconds, connections=CONNECTIONS, script=None):
    """As many requests as it answers. `script` is one of wrk's, in Lua."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    if script:
        command += ["-s", str(script)]
    before = server.cpu()
    with watched(server) as memory:
        out = subprocess.run([*command, f"http://127.0.0.1:{server.port}{server.path}"],
                             capture_output=True, text=True, check=True).stdout
    spent = server.cpu() - before
    failed = sum(int(match) for match in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    failed += sum(int(n) for line in re.findall(r"Socket errors: (.*)", out) for n in re.findall(r"\d+", line))
    requests = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    return Run(rate, failed, spent / max(requests, 1) * 1e6, max(memory), {})


def paced(server, rate, seconds, connections=CONNECTIONS):
    """So many requests a second. The time of each counts from when it was due."""
    before = server.cpu()
    with watched(server) as memory:
        out = subprocess.run(
            ["oha", "--no-tui", "--output-format", "json", "--latency-correction", "-q", str(int(rate)), "-c",
             str(connections), "-z", f"{seconds}s", "-w", f"http://127.0.0.1:{server.port}{server.path}"],
            capture_output=True, text=True, check=True).stdout
    spent, found = server.cpu() - before, json.loads(out)
    answered = found["statusCodeDistribution"]
    requests = sum(answered.values())
    failed = requests - answered.get("200", 0) + sum(found["errorDistribution"].values())
    return Run(requests / seconds, failed, spent / max(requests, 1) * 1e6, max(memory), found["latencyPercentiles"])


def host(directory, manifest, path, internal=None, data="data", log="error"):
    """The host; without a manifest, the built-in assembly. No peer writes an access log, so neither does it, unless its
    log level is `info`."""
    port = free_port()
    command = [HOST, "run", "--listen", f"127.0.0.1:{port}", "--internal-listen", f"127.0.0.1:{internal or 0}",
               "--data-dir", directory / data, "--log-level", log]
    if manifest:
        file = directory / f"{port}.toml"
        file.write_text(manifest)
        command += ["-f", file]
    return Server(command, port, path)


def wasmtime(component, path, flags=(), env=()):
    """Stock `wasmtime serve`. `env` is what the component sees."""
    port = free_port()
    given = [part for variable in env for part in ("--env", variable)]
    return Server(["wasmtime", "serve", "-Scli", "-Skeyvalue", "-Sconfig", "--addr", f"127.0.0.1:{port}", *flags, *given,
                   component], port, path)


# The most requests that it gives to one instance, for components of each WASI version.
REUSE = {
    "0.2": ["--max-instance-reuse-count", "100000000"],
    "0.3": ["--max-instance-reuse-count", "100000000", "--max-instance-concurrent-reuse-count", "64"],
}


def native():
    """A native server that gives storage's answer to anything."""
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


def haproxy(directory, backend):
    port = free_port()
    config = directory / f"haproxy-{port}.cfg"
    config.write_text(f"""
global
  nbthread {os.cpu_count()}
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server native 127.0.0.1:{backend.port}
""")
    return Server(["haproxy", "-db", "-f", config], port, "/data")


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

    def benchmark(self, test, count, clients, size, keys):
        """Requests a second, without pipelining."""
        out = subprocess.run(
            ["redis-benchmark", "-p", str(self.port), "-c", str(clients), "-n", str(count), "-t", test, "-d", str(size),
             "-r", str(keys), "-q"], capture_output=True, text=True, check=True).stdout
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
