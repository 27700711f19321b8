"""A node's process backend for tests: real spawner, real sandboxes, one event loop per test."""

from __future__ import annotations

import asyncio
import itertools
import os
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hearth.config import Execution, Process, Settings
from hearth.model import Limits, Version
from hearth.sandbox.base import CallRequest, Exit
from hearth.sandbox.process import ProcessBackend
from pace import SLOW

BOUND_S = 20.0 * SLOW
ROOT = os.geteuid() == 0
LEVEL = "strict" if ROOT else "lightweight"
UID_BASE = 1_500_000_000 + os.getpid() % 10_000 * 2_000
UIDS = range(UID_BASE, UID_BASE + 2_000) if ROOT else range(os.geteuid(), os.geteuid() + 1)
"""Host uids of sandboxes. Other nodes may run on this machine: look at no processes but our own."""

# Root tries the others as an ordinary user; in the guest that account has a run of its own.
collect_ignore = ["test_weaker.py"] if ROOT else ["test_process_as_user.py"]
if "HEARTH_TEST_GUEST" in os.environ:
    collect_ignore.append("test_process_as_user.py")

HELLO = """
def handle(request):
    return {"hello": request.json["name"]}
"""


class Ended(Exception):  # noqa: N818 - an outcome, not an error
    """The call was lost with its instance."""

    def __init__(self, end: Exit) -> None:
        self.end = end


class Call:
    """Collects what becomes of one call."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()
        self.output: list[tuple[str, bytes]] = []

    def on_output(self, stream, data):
        self.output.append((stream, data))

    def on_reply(self, status, headers, body):
        self.answer.set_result((status, body))

    def on_error(self, error_type, message, stack):
        self.answer.set_result((error_type, message))

    def on_lost(self, end):
        if not self.answer.cancelled():  # the test gave up waiting
            self.answer.set_exception(Ended(end))


class Started:
    """One instance and its listener."""

    def __init__(self, driver: Driver, version: Version) -> None:
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.end: Exit | None = None
        self.output: list[tuple[str, bytes]] = []
        self.instance = driver.backend.start(version, str(driver.code), self)

    def on_ready(self, instance, init_ns):
        self.ready.set()

    def on_output(self, instance, stream, data):
        self.output.append((stream, data))

    def on_gone(self, instance, end):
        self.end = end
        self.ready.set()
        self.gone.set()

    def begin(self, body: bytes = b'{"name": "x"}') -> Call:
        call = Call()
        request = CallRequest("id", b"POST", b"/", b"", b"", body, time.time() + BOUND_S)
        self.instance.call(request, call)
        return call

    async def call(self, body: bytes = b'{"name": "x"}') -> tuple[Any, ...]:
        return await asyncio.wait_for(self.begin(body).answer, BOUND_S)

    async def ended(self) -> Exit:
        await asyncio.wait_for(self.gone.wait(), BOUND_S)
        assert self.end is not None
        return self.end


class Driver:
    """The backend and what is started in it."""

    def __init__(self, backend: ProcessBackend, directory: Path) -> None:
        self.backend = backend
        self.directory = directory
        self.code = directory
        self._codes = itertools.count()

    def begin(self, source: str, *, limits: Limits | None = None, **fields: Any) -> Started:
        self.code = self.directory / f"code{next(self._codes)}"
        self.code.mkdir()
        self.code.chmod(0o755)
        (self.code / "handler.py").write_text(textwrap.dedent(source))
        (self.code / "handler.py").chmod(0o644)
        values = {
            "function_id": "f",
            "function": "hello",
            "number": 1,
            "label": "",
            "digest": "",
            "artifact": "",
            "runtime": "python3.11",
            "entry": "handler.py",
            "handler": "handle",
            "contract": "handler",
            "isolation_level": LEVEL,
            "limits": limits or Limits(),
        }
        return Started(self, Version(**{**values, **fields}))

    async def start(self, source: str, **fields: Any) -> Started:
        started = self.begin(source, **fields)
        await asyncio.wait_for(started.ready.wait(), BOUND_S)
        assert started.end is None, started.end
        return started

    @property
    def controllers(self) -> frozenset[str]:
        """The control group controllers that limit sandboxes here; root has all that are needed."""
        controllers = frozenset(self.backend._cgroups["roots"])
        assert controllers >= {"memory", "cpu", "pids"} or not ROOT
        return controllers

    @property
    def groups(self) -> list[Path]:
        """The groups of sandboxes that exist now, in every hierarchy."""
        hello = self.backend._cgroups
        roots = {Path(root, hello["token"]) for root in hello["roots"].values()}
        return [path for root in roots if root.exists() for path in root.iterdir() if path.is_dir()]


def sandboxed_processes() -> list[int]:
    """Host pids of processes that live in a pid namespace below that of a spawner of ours."""
    depth = len(_status("self")["NSpid"]) + 2
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = _status(name)
            except OSError:
                continue  # gone while we looked
            alive = status["State"][0] != "Z"
            if alive and int(status["Uid"][0]) in UIDS and len(status["NSpid"]) >= depth:
                found.append(int(name))
    return found


def _status(pid: str) -> dict[str, list[str]]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        key: value.split() for key, _, value in (row.partition(":") for row in text.split("\n"))
    }


async def eventually(condition: Callable[[], bool], bound_s: float = BOUND_S) -> None:
    """Wait until `condition` holds; for facts of the kernel that send no event."""
    until = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < until, f"not within {bound_s} s"
        await asyncio.sleep(0.005)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run an async test body with an open backend: `run(body, spares=2, …)`.

    What needs a control group controller says which; an ordinary user may have none.
    """

    def runner(
        body: Callable[[Driver], Awaitable[None]], *, needs: str = "", **process: Any
    ) -> None:
        async def main() -> None:
            defaults = {"spares": 2, "uid_base": UID_BASE, "isolation_level": LEVEL}
            settings = Settings(
                process=Process(**{**defaults, **process}),
                execution=Execution(cold_start_timeout=BOUND_S),
            )
            loop = asyncio.get_running_loop()
            backend = ProcessBackend(settings, loop, str(tmp_path / "run"))
            await backend.open()
            driver = Driver(backend, tmp_path)
            try:
                if needs and not ROOT and needs not in driver.controllers:
                    pytest.skip(f"no control group controller {needs} for this account")
                await body(driver)
            finally:
                await backend.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
            loop_runner.run(main())

    return runner


@pytest.fixture
def tools() -> Any:
    """What test modules share, as importlib mode gives them no package to import from."""

    class Tools:
        root = ROOT
        level = LEVEL
        bound_s = BOUND_S
        hello = HELLO
        ended = Ended
        wait = staticmethod(eventually)
        processes = staticmethod(sandboxed_processes)

    return Tools
