"""A real node for the time of one measurement: started by the CLI, spoken to over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import processes
from client import Answer, Client, encode

READY_S = 60.0
STOP_S = 60.0


class NodeError(RuntimeError):
    """The node did not start, answer or stop as it should; the end of its log is included."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """`hearth up` on a free port; a context manager that also checks how it ends."""

    def __init__(
        self, hearth: Sequence[str], data_dir: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            hearth: the command without its verb.
            data_dir: kept between nodes, so that a restarted one is cold but has its functions.
            settings: extra environment, e.g. `HEARTH_PROCESS_SPARES`.
        """
        self.hearth, self.data_dir = hearth, data_dir
        self.settings = dict(settings or {})
        self.port = free_port()
        self.log = data_dir.with_suffix(".log")
        self.key_file = data_dir.with_suffix(".key")
        self.started_s = 0.0

    @property
    def key(self) -> str | None:
        """The API key, if one was created in this data directory."""
        return self.key_file.read_text() if self.key_file.exists() else None

    def __enter__(self) -> Node:
        """Start it and wait until it is ready."""
        begin = time.monotonic()
        flags = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.hearth, "up", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.settings},
            )
        try:
            self._wait_ready(begin + READY_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.started_s = time.monotonic() - begin
        return self

    def _wait_ready(self, until: float) -> None:
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise NodeError(f"hearth up ended with {self.process.returncode}\n{self.tail()}")
            try:
                if self.call("GET", "/readyz", timeout_s=2).status == 200:
                    return
            except OSError:
                time.sleep(0.02)  # not listening yet: the only signal is another attempt
        raise NodeError(f"not ready after {READY_S:.0f} s\n{self.tail()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it as an init system would, and insist that it ends well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = -9
        if code != 0 and error is None:
            raise NodeError(f"hearth up ended with {code} after SIGTERM\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of the node's log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> Answer:
        """Make one call on a connection of its own."""
        data = b"" if body is None else json.dumps(body).encode()
        client = Client(self.port, timeout_s)
        try:
            return client.exchange(encode(method, path, data, self.key))
        finally:
            client.close()

    def create_key(self) -> str:
        """Create the key that all further calls present, once per data directory."""
        if self.key is None:
            answer = self.call("POST", "/keys", {"name": "bench", "scopes": ["invoke", "admin"]})
            if answer.status != 201:
                raise NodeError(f"POST /keys: {answer.status} {answer.body[:300]!r}")
            self.key_file.touch(0o600)
            self.key_file.write_text(answer.json()["secret"])
        return self.key or ""

    def deploy(self, name: str, code: str, *, method: str = "POST", **fields: Any) -> None:
        """Deploy one source file, with `PUT` over what is there.

        Raises:
            NodeError: the node refused it.
        """
        body = {"name": name, "runtime": "python", "handler": "handle", "timeout": "120s"}
        body |= {"code": base64.b64encode(code.encode()).decode(), **fields}
        path = "/functions" if method == "POST" else f"/functions/{name}"
        answer = self.call(method, path, body)
        if answer.status not in {200, 201}:
            raise NodeError(f"deploy {name}: {answer.status} {answer.body[:500]!r}")

    def deploy_all(self, functions: Iterable[tuple[str, str]], **fields: Any) -> None:
        """Deploy many, four at a time."""
        with ThreadPoolExecutor(4) as threads:
            done = [threads.submit(self.deploy, name, code, **fields) for name, code in functions]
            for future in done:
                future.result()

    def switched_off(self) -> set[str]:
        """Return what the node says is switched off for measuring (`HEARTH_BENCH_OFF`)."""
        return set(self.call("GET", "/info").json()["details"].get("bench_off", ()))

    def cpu(self) -> dict[str, int]:
        """Return CPU microseconds used so far, by role."""
        return processes.cpu_by_role(self.process.pid)

    def sandboxes(self) -> list[int]:
        """Return every process of the tree except the node itself."""
        return [pid for pid in processes.tree(self.process.pid) if pid != self.process.pid]
