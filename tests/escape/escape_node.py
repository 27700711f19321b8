"""Sandboxes for the escape suite: real backends, one for each set of walls left out."""

from __future__ import annotations

import asyncio
import compileall
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop

from hearth.config import Execution, Process, Settings
from hearth.model import Limits, Version
from hearth.sandbox.base import CallRequest, Exit
from hearth.sandbox.process import ProcessBackend

BUNDLE = Path(__file__).parent / "bundle"
SLOW = float(os.environ.get("HEARTH_TEST_SLOW", "1"))
BOUND_S = 20.0 * SLOW
ROOT = os.geteuid() == 0
UID_BASE = 1_920_000_000


class Outcome(NamedTuple):
    """What became of a call: an answer, or the end of the instance."""

    answer: Any = None
    error: str | None = None
    end: Exit | None = None


class Call:
    """Collects what becomes of one call."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.output = b""
        self.streamed = 0

    def on_output(self, stream, data):
        self.output += data

    def on_reply(self, status, headers, body):
        self._settle(Outcome(answer=body))

    def on_error(self, error_type, message, stack):
        self._settle(Outcome(error=f"{error_type}: {message}\n{stack}"))

    def on_head(self, status, headers):
        pass

    def on_chunk(self, data):
        self.streamed += len(data)

    def on_end(self):
        self._settle(Outcome(answer=self.streamed))

    def on_lost(self, end):
        self._settle(Outcome(end=end))

    def _settle(self, outcome: Outcome) -> None:
        self.done.set_result(outcome)  # twice would raise: a last event comes once


class Instance:
    """One instance and its listener."""

    def __init__(self, backend: ProcessBackend, version: Version, code: Path) -> None:
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.end: Exit | None = None
        self.sandbox = backend.start(version, str(code), self)

    def on_ready(self, instance, init_ns):
        self.ready.set()

    def on_output(self, instance, stream, data):
        pass

    def on_gone(self, instance, end):
        self.end = end
        self.ready.set()
        self.gone.set()

    def begin(self, message: Any = None) -> Call:
        call, body = Call(), json.dumps(message).encode()
        self.sandbox.call(
            CallRequest("id", b"POST", b"/", b"", b"", body, time.time() + BOUND_S), call
        )
        return call

    async def call(self, message: Any = None) -> Outcome:
        return await asyncio.wait_for(self.begin(message).done, BOUND_S)

    async def stop(self) -> Exit:
        self.sandbox.stop("enough")
        await asyncio.wait_for(self.gone.wait(), BOUND_S)
        assert self.end is not None
        return self.end


class Node:
    """One backend."""

    def __init__(self, backend: ProcessBackend, directory: Path) -> None:
        self.backend = backend
        self._directory = directory
        self._codes = itertools.count()

    async def start(self, code: Path | str, limits: Limits | None = None, **fields) -> Instance:
        """Start the bundle `code`, or a handler whose source it is, and wait until it is ready."""
        if isinstance(code, str):
            source, code = code, self._directory / f"code{next(self._codes)}"
            code.mkdir(parents=True)
            (code / "handler.py").write_text(source)
        version = Version(
            function_id="f",
            function="f",
            number=1,
            label="",
            digest="",
            artifact="",
            runtime="python3.11",
            entry="handler.py",
            handler="handle",
            contract="handler",
            limits=limits or Limits(),
            isolation_level="strict" if ROOT else "lightweight",
        )
        instance = Instance(self.backend, msgspec.structs.replace(version, **fields), code)
        await asyncio.wait_for(instance.ready.wait(), BOUND_S)
        assert instance.end is None, instance.end
        return instance

    @property
    def groups(self) -> list[Path]:
        """The groups of all sandboxes that exist now, in every hierarchy."""
        hello = self.backend._cgroups
        roots = {Path(root, hello["token"]) for root in hello["roots"].values()}
        return [path for root in roots if root.exists() for path in root.iterdir() if path.is_dir()]


class Nodes:
    """Backends by the walls they lack, made when first asked for and kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._nodes: dict[frozenset[str], Node] = {}
        self.bundle = directory / "bundle"
        shutil.copytree(BUNDLE, self.bundle, ignore=shutil.ignore_patterns("__pycache__"))
        _plant_set_uid_program(self.bundle)
        compileall.compile_dir(self.bundle, quiet=1)
        for path in (self.bundle, *self.bundle.rglob("*.py")):
            path.chmod(0o777)  # that the code cannot be written must not be for its mode

    def run(self, body, without: frozenset[str] = frozenset()):
        """Run `body(node)` with the backend that lacks the walls `without`."""

        async def main():
            if without not in self._nodes:
                self._nodes[without] = await self._open(without)
            return await body(self._nodes[without])

        return self._runner.run(main())

    def try_(self, attempt, world: dict[str, Any], without: frozenset[str] = frozenset()):
        """Make one attempt in a fresh instance of its own."""

        async def body(node: Node) -> Outcome:
            instance = await node.start(self.bundle, Limits(**attempt.limits))
            limits = {"limits": [str(path) for path in _limit_files(node)]}
            try:
                return await instance.call(
                    {"name": attempt.name, "module": attempt.module, "world": world | limits}
                )
            finally:
                await instance.stop()

        return self.run(body, without)

    @property
    def limited(self) -> bool:
        """Whether there are control groups."""
        return self._nodes[frozenset()].backend._cgroups["cgroups"] is not None

    def close(self) -> None:
        for node in self._nodes.values():
            self._runner.run(node.backend.close())
        self._runner.close()

    async def _open(self, without: frozenset[str]) -> Node:
        level = "strict" if ROOT else "lightweight"
        process = Process(spares=1, uid_base=UID_BASE, isolation_level=level)
        settings = Settings(process=process, execution=Execution(cold_start_timeout=10 * SLOW))
        directory = self._directory / f"node{len(self._nodes)}"
        loop = asyncio.get_running_loop()
        backend = ProcessBackend(settings, loop, str(directory / "run"), without=without)
        await backend.open()
        return Node(backend, directory)


def _limit_files(node: Node) -> list[Path]:
    names = ("pids.max", "memory.max", "memory.limit_in_bytes")
    return [group / name for group in node.groups for name in names if (group / name).exists()]


def _plant_set_uid_program(bundle: Path) -> None:
    """A deploy never makes such a file; whoever finds a way to must gain nothing by it."""
    program = bundle / "set-uid-cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
