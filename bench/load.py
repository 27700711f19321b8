"""Load from wrk, and nginx to compare with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import processes
from client import Client, encode
from node import NodeError, free_port

HERE = Path(__file__).parent


class Load(NamedTuple):
    """One run of wrk."""

    requests: int
    seconds: float
    bad_status: int
    broken: int
    p50_us: int
    p90_us: int
    p99_us: int
    max_us: int
    client_cpu_us: int

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


def wrk(url: str, body: bytes, *, connections: int, seconds: float, key: str | None = None) -> Load:
    """Drive one URL with one thread and so many connections.

    Raises:
        NodeError: wrk failed, or an answer was not a success: such a run measures nothing.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "post.lua"), url, "--", body.decode(), *([key] if key else [])]
    before = os.times()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    after = os.times()
    found = re.search(r"^RESULT ([\d ]+)$", done.stdout, re.MULTILINE)
    if not found:
        raise NodeError(f"wrk said: {done.stdout[-500:]}{done.stderr[-500:]}")
    requests, micros, *counts = map(int, found[1].split())
    used = sum(after[2:4]) - sum(before[2:4])  # user and system time of ended children
    load = Load._make([requests, micros / 1e6, *counts, round(used * 1e6)])
    if load.bad_status or load.broken or not load.requests:
        raise NodeError(f"not every call succeeded: {load}")
    return load


class Nginx:
    """nginx with the committed configuration, on a free port."""

    def __enter__(self) -> Nginx:
        """Start it and wait for its first answer."""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.directory = Path(tempfile.mkdtemp(prefix="hearth-bench-nginx-"))
        self.port = free_port()
        text = (HERE / "nginx.conf").read_text()
        text = text.replace("PORT", str(self.port)).replace("DIR", str(self.directory))
        config = self.directory / "nginx.conf"
        config.write_text(text)
        log = self.directory / "nginx.log"
        self.process = subprocess.Popen([program, "-c", str(config), "-e", str(log)])
        until = time.monotonic() + 10
        while True:
            try:
                client = Client(self.port, 2)
                client.exchange(encode("GET", "/"))
                client.close()
                return self
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    self.__exit__(None, None, None)
                    raise
                time.sleep(0.02)  # not listening yet: the only signal is another attempt

    def cpu_us(self) -> int:
        """Return the CPU microseconds used so far by master and worker."""
        return sum(processes.cpu_us(pid) for pid in processes.tree(self.process.pid))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it and remove its files."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        shutil.rmtree(self.directory)
