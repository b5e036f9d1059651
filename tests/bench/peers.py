"""What the benchmarks share: servers that are ended by their pid, and the load on them."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "target/release/host"
CONNECTIONS = 32


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


class Server:
    """A process that listens on a port. Ended, by pid, when the context is left."""

    def __init__(self, command, port, path, cwd=None, env=None):
        self.port, self.path = port, path
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = self.begun + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(port, path) == 200:
                    break
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command} doesn't answer {path}")
            time.sleep(0.001)
        self.start = time.monotonic() - self.begun

    def resident(self):
        """Resident memory of the process and its children, in MiB."""
        total = 0
        pids = [self.process.pid] + [int(pid) for pid in subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()]
        for pid in pids:
            with contextlib.suppress(FileNotFoundError):
                match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                total += int(match[1]) if match else 0
        return total / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def load(server, seconds, connections=CONNECTIONS, script=None):
    """Requests per second, and failed requests. `script` is one of wrk's, in Lua."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    if script:
        command += ["-s", str(script)]
    out = subprocess.run([*command, f"http://127.0.0.1:{server.port}{server.path}"],
                         capture_output=True, text=True, check=True).stdout
    failed = sum(int(match) for match in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    failed += sum(int(n) for line in re.findall(r"Socket errors: (.*)", out) for n in re.findall(r"\d+", line))
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), failed


def host(directory, manifest, path):
    port = free_port()
    command = [HOST, "run", "--listen", f"127.0.0.1:{port}", "--internal-listen", "127.0.0.1:0",
               "--data-dir", directory / "data", "--log-level", "error"]
    if manifest:
        file = directory / f"{port}.toml"
        file.write_text(manifest)
        command += ["-f", file]
    return Server(command, port, path)
