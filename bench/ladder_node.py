"""`hearth`, with parts left out to measure what they cost: the product itself has no such switch.

    HEARTH_BENCH_OFF=sandbox,records,metrics python bench/ladder_node.py up …

`sandbox`: functions run in plain child processes of the node. `records`: nothing is kept of a call.
`metrics`: nothing is counted. `GET /info` says under `details.bench_off` what is off.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import hearth_runtime
from hearth import node
from hearth.config import Settings
from hearth.engine.invoke import Invoker
from hearth.model import Version
from hearth.sandbox.base import InstanceListener, Usage
from hearth.sandbox.process_instance import ProcessInstance

PARTS = frozenset(("sandbox", "records", "metrics"))
OFF = frozenset(filter(None, os.environ.pop("HEARTH_BENCH_OFF", "").split(",")))
_HOST = """
import sys
sys.path.append(sys.argv[1])
from hearth_runtime import runtime_host
in_sandbox = runtime_host.Init
runtime_host.Init = lambda init: in_sandbox({**init, "root": sys.argv[3]})
runtime_host.serve(int(sys.argv[2]))
"""


class PlainBackend:
    """Runs functions in child processes that nothing confines."""

    name = "plain"
    alive = True

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, run_dir: str) -> None:
        """Take what the process backend takes."""
        self._loop = loop
        self._children: dict[int, tuple[subprocess.Popen[bytes], int, ProcessInstance]] = {}

    async def open(self) -> None:
        """Prepare nothing."""

    def missing(self, version: Version) -> tuple[str, ...]:
        """Claim to enforce all, for the sake of the measurement."""
        return ()

    def start(self, version: Version, code: str, listener: InstanceListener) -> ProcessInstance:
        """Start a host with the instance's descriptors."""
        ours, theirs = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        paths = os.path.dirname(os.path.dirname(hearth_runtime.__file__))
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOST, paths, str(theirs.fileno()), code],
            stdin=subprocess.DEVNULL, stdout=out_end, stderr=err_end, cwd=code,
            pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()
        os.close(out_end)
        os.close(err_end)
        instance = ProcessInstance(
            f"plain-{child.pid}", self, version=version, code=code, stock="",
            listener=listener, loop=self._loop,
        )  # fmt: skip
        pidfd = os.pidfd_open(child.pid)
        self._children[child.pid] = (child, pidfd, instance)
        self._loop.add_reader(pidfd, self._died, child.pid)
        instance.take(child.pid, (ours.detach(), out, err))
        return instance

    def kill(self, number: int) -> None:
        """Kill a child."""
        if number in self._children:
            self._children[number][0].send_signal(signal.SIGKILL)

    def abandon(self, instance: ProcessInstance) -> None:
        """Fail: every instance has its process at once."""
        raise AssertionError(instance.id)

    def usage(self, number: int) -> Usage:
        """Measure nothing."""
        return Usage()

    async def close(self) -> None:
        """Kill all."""
        for number in list(self._children):
            self.kill(number)
            self._children[number][0].wait()
            self._died(number)

    def _died(self, number: int) -> None:
        child, pidfd, instance = self._children.pop(number)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        child.wait()
        instance.gone({})


class BareInvoker(Invoker):
    """An invoker without what is switched off."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        """Leave out records and metrics as told."""
        if "metrics" in OFF:
            options["observer"] = None
        super().__init__(*parts, **options)
        if "records" in OFF:
            self._recorder = NoRecorder()  # type: ignore[assignment]  # takes its place for measuring


class NoRecorder:
    """Keeps nothing."""

    def add(self, invocation: Any) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Have nothing to hand on."""


class BenchNode(node.Node):
    """A node that says what it lacks."""

    def _parts(self) -> Any:
        parts = super()._parts()
        parts.extra["bench_off"] = sorted(OFF)
        return parts


def main() -> int:
    """Run `hearth` with the composition changed."""
    if unknown := OFF - PARTS:
        raise SystemExit(f"HEARTH_BENCH_OFF: there is no {', '.join(sorted(unknown))}")
    if "sandbox" in OFF:
        node.ProcessBackend = PlainBackend  # type: ignore[assignment,misc]  # for measuring only
    node.Invoker = BareInvoker  # type: ignore[misc]  # see above
    node.Node = BenchNode  # type: ignore[misc]  # see above
    from hearth.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
