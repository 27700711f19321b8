"""Process mode: instances are sandboxed processes that a spawner forks ahead of need.

Starting one takes a ready spare, one packet to the spawner and one frame to the spare; nothing is
awaited. Without a spare the instance waits in line until the spawner has made one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict, deque
from typing import Any

from hearth.config import Settings
from hearth.errors import IsolationUnavailable
from hearth.linux import cgroup_v1, cgroup_v2
from hearth.linux.cgroups import Group
from hearth.linux.mechanisms import MECHANISMS
from hearth.model import Limits, Version
from hearth.sandbox.base import InstanceListener, Usage
from hearth.sandbox.process_instance import ProcessInstance
from hearth.sandbox.spawner import SpawnerLink

_OPEN_FILES = 4096
_NO_LIMIT = 1 << 40
_MANY_PIDS = 4096
_TRIES = 3
"""Spares that an instance may take and find dead, before its start fails."""
_RESTART_S = (0.05, 0.5, 2.0, 5.0)
"""Pauses before the spawner is started again, by the number of tries in a row."""

_WEAKER = {
    "memory": "Without the control group controller `memory` the limit holds for each process of an"
    " instance, not for all of them together.",
    "cpu": "Without the control group controller `cpu` no weight and no quota is enforced.",
    "pids": "Without the control group controller `pids` processes are counted by RLIMIT_NPROC.",
}
"""What is left of each of `cgroups.REQUIRED` that cannot be used; `io` is nobody's promise."""

_ADVICE = "`hearth doctor` says how to get it; `process.isolation_level: lightweight` does without"

Spare = tuple[int, tuple[int, int, int]]


class ProcessBackend:
    """Implements `hearth.sandbox.base.Backend` with one spawner, restarted if it dies."""

    name = "process"

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        run_dir: str,
        *,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """Keep the settings; `run_dir` is a directory of the node for sockets and mount points.

        `without` is for the escape suite alone, which shows by it that each of the walls named in
        `hearth.linux.mechanisms` stops something. Nothing a user can set leads to it.
        """
        if unknown := without - MECHANISMS.keys():
            raise ValueError(f"no such mechanism: {', '.join(sorted(unknown))}")
        self._without = without
        self._settings = settings
        self._loop = loop
        self._run_dir = os.path.abspath(run_dir)
        self._link: SpawnerLink | None = None
        self._cgroups: dict[str, Any] = {}
        self._spares: dict[str, deque[Spare]] = defaultdict(deque)
        self._waiting: dict[str, deque[ProcessInstance]] = defaultdict(deque)
        self._instances: dict[int, ProcessInstance] = {}
        self._ids = itertools.count(1)
        self._first: asyncio.Future[None] | None = None
        self._failures = 0
        self._closing = False
        self._restart: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the spawner is there to make instances."""
        return self._link is not None and self._failures == 0

    # --- what the engine does ------------------------------------------------------------------

    async def open(self) -> None:
        """Start the spawner and wait for a first spare: it has tried every mechanism for real.

        Raises:
            IsolationUnavailable: the host cannot enforce what the settings ask for.
        """
        os.makedirs(self._run_dir, exist_ok=True)
        self._first = self._loop.create_future()
        self._launch()
        try:
            async with asyncio.timeout(self._settings.execution.cold_start_timeout):
                await self._first
        except (IsolationUnavailable, TimeoutError) as error:
            await self.close()
            if isinstance(error, IsolationUnavailable):
                raise
            raise IsolationUnavailable(
                "no sandbox became ready in time; run `hearth doctor`"
            ) from None

    def start(self, version: Version, code: str, listener: InstanceListener) -> ProcessInstance:
        """Begin to start an instance of `version` whose unpacked bundle is the directory `code`."""
        instance = ProcessInstance(
            f"process-{next(self._ids)}",
            self,
            version=version,
            code=os.path.abspath(code),
            stock=_stock(version.preload, version.network),
            listener=listener,
            loop=self._loop,
        )
        self._place(instance)
        return instance

    def missing(self, version: Version) -> tuple[str, ...]:
        """Name what `version` asks for and this backend cannot enforce, one sentence each."""
        roots = self._cgroups.get("roots", {})
        missing = [text for name, text in _WEAKER.items() if name not in roots]
        if os.geteuid() != 0:
            missing.append("Instances share one host uid, because the node does not run as root.")
        if version.network == "host" and version.isolation_level == "strict":
            missing.append("Network `host` needs isolation_level `lightweight`.")
        return tuple(missing)

    async def close(self) -> None:
        """Stop all instances and remove every trace."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()
        self._lose_all("the node is shutting down")

    # --- what instances ask for ----------------------------------------------------------------

    def kill(self, number: int) -> None:
        """Have the sandbox killed."""
        if self._link is not None:
            self._link.send({"kill": number})

    def abandon(self, instance: ProcessInstance) -> None:
        """Take an instance off the waiting list that has no sandbox yet."""
        self._waiting[instance.stock].remove(instance)
        self._loop.call_soon(instance.gone, {"error": "stopped before it had a sandbox"})

    def usage(self, number: int) -> Usage:
        """Measure a sandbox by its control group."""
        group = self._group(number)
        if group is None:
            return Usage()
        measure = group.measure()
        return Usage(
            memory_now=group.memory_now(), memory_peak=measure.memory_peak, cpu_ns=measure.cpu_ns
        )

    def _group(self, number: int) -> Group | None:
        roots, token = self._cgroups.get("roots", {}), self._cgroups.get("token")
        paths = {name: f"{root}/{token}/{number}" for name, root in roots.items()}
        if self._cgroups.get("cgroups") == "v1":
            return cgroup_v1.V1Group(paths)
        if self._cgroups.get("cgroups") == "v2":
            return cgroup_v2.V2Group(next(iter(paths.values())), frozenset(paths))
        return None

    # --- what the spawner says -----------------------------------------------------------------

    def on_hello(self, description: dict[str, Any]) -> None:
        """Remember where the control groups are; order what is waited for."""
        self._cgroups = description
        self._demand(_stock((), "none"), at_least=0 if self._settings.process.spares else 1)
        for stock, waiting in self._waiting.items():
            if waiting:
                self._demand(stock)

    def on_spare(self, number: int, stock: str, fds: tuple[int, int, int]) -> None:
        """Give a new spare to who waits for it, or keep it."""
        self._failures = 0
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        if self._waiting[stock]:
            self._assign(self._waiting[stock].popleft(), (number, fds))
        else:
            self._spares[stock].append((number, fds))

    def on_gone(self, number: int, report: dict[str, Any]) -> None:
        """Pass the end on to the instance, or forget a spare that died."""
        instance = self._instances.pop(number, None)
        if instance is not None:
            if instance.leave(report, _TRIES):
                self._place(instance, first=True)
            else:
                instance.gone(report)
            return
        spares = self._spares[report["stock"]]
        for spare in [spare for spare in spares if spare[0] == number]:
            spares.remove(spare)
            _close(spare)

    def on_stock_failed(self, stock: str, message: str) -> None:
        """Fail who waits: what they need cannot be made."""
        if self._first is not None and not self._first.done():
            self._first.set_exception(IsolationUnavailable(f"a sandbox cannot be made: {message}"))
        waiting, self._waiting[stock] = self._waiting[stock], deque()
        for instance in waiting:
            instance.gone({"error": f"a sandbox cannot be made: {message}"})

    def on_lost(self, reason: str) -> None:
        """Settle every instance, then start a new spawner."""
        self._lose_all(reason)
        if self._first is not None and not self._first.done():
            strict = self._settings.process.isolation_level == "strict"
            self._first.set_exception(
                IsolationUnavailable(f"{reason}; {_ADVICE}" if strict else reason)
            )
        elif not self._closing:
            self._restart = self._loop.create_task(self._relaunch())

    # --- inside --------------------------------------------------------------------------------

    def _place(self, instance: ProcessInstance, *, first: bool = False) -> None:
        """Give it a spare, or have it wait for one, behind others or `first`."""
        spares, waiting = self._spares[instance.stock], self._waiting[instance.stock]
        if spares:
            self._assign(instance, spares.popleft())
            return
        if first:
            waiting.appendleft(instance)
        else:
            waiting.append(instance)
        self._demand(instance.stock)

    def _assign(self, instance: ProcessInstance, spare: Spare) -> None:
        number, fds = spare
        self._instances[number] = instance
        if self._link is not None:
            self._link.send(
                {
                    "assign": number,
                    "code": instance.code,
                    **_duty(instance.version.limits, self._without),
                }
            )
        instance.take(number, fds)

    def _demand(self, stock: str, at_least: int = 0) -> None:
        if self._link is not None:
            network, preload = stock.split("|")
            self._link.send(
                {
                    "demand": stock,
                    "preload": preload.split(",") if preload else [],
                    "network": network,
                    "waiting": max(at_least, len(self._waiting[stock])),
                }
            )

    def _launch(self) -> None:
        process = self._settings.process
        config = {
            "run_dir": self._run_dir,
            "strict": process.isolation_level == "strict",
            "spares": process.spares,
            "uid_base": process.uid_base,
            "lease_grace": float(process.lease_grace),
            "tmp_bytes": Limits().tmp_bytes,
            "memory": int(process.memory_limit),
            "pids": Limits().pids,
            "nofile": _OPEN_FILES,
            "without": sorted(self._without),
        }
        self._link = SpawnerLink(self._loop, config, self)

    async def _relaunch(self) -> None:
        pause = _RESTART_S[min(self._failures, len(_RESTART_S) - 1)]
        self._failures += 1
        if self._link is not None:
            await self._link.wait()
        await asyncio.sleep(pause)
        self._launch()

    def _lose_all(self, reason: str) -> None:
        for spares in self._spares.values():
            for spare in spares:
                _close(spare)
            spares.clear()
        instances, self._instances = list(self._instances.values()), {}
        if self._closing:
            for waiting in self._waiting.values():
                instances += waiting
                waiting.clear()
        for instance in instances:
            instance.gone({"error": reason})


def _stock(preload: tuple[str, ...], network: str) -> str:
    return f"{network}|{','.join(preload)}"


def _duty(limits: Limits, without: frozenset[str]) -> dict[str, Any]:
    return {
        "memory": limits.memory_bytes if "memory" not in without else _NO_LIMIT,
        "pids": limits.pids if "pids" not in without else _MANY_PIDS,
        "cpu": limits.cpu,
        "tmp_bytes": limits.tmp_bytes,
    }


def _close(spare: Spare) -> None:
    for fd in spare[1]:
        os.close(fd)
