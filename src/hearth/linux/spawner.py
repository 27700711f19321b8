"""The spawner: the privileged, single-threaded process that makes, arms and buries sandboxes.

It is pid 1 of its own pid namespace (see `launcher`), so its end is the end of all it made. The
node speaks to it over one packet socket, its lease: end of stream, plus the grace time, ends all.

Node to spawner
    {"demand": stock, "preload", "network", "waiting"}: keep spares, and as many more as wait now
    {"assign": number, "code", "memory", "pids", "cpu", "tmp_bytes"}: make a spare an instance
    {"kill": number}
Spawner to node
    {"hello": {"cgroups": "v1" | "v2" | null, "roots": {…}, "token": …}}
    {"spare": number, "stock"} and three descriptors, channel, stdout, stderr: it is ready
    {"gone": number, "stock", "status", "error", "oom", "memory_peak", "cpu_ns"}: nothing is left
    {"stock_failed": stock, "message"}: no sandbox of this stock can be made now
    {"fatal": message}
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from hearth.linux.cgroups import Limits, Node
from hearth.linux.sandboxes import Sandbox, Zygote
from hearth_runtime import packets

_QUIET_S = 0.004
"""Refill after this much quiet, so that forks do not compete with the instance just started."""
_MAKING_AT_ONCE = 8
_RETRY_S = 0.005
_BURY_TRIES = 400


class Stock:
    """Spares of one kind: same imports, same network."""

    def __init__(self, preload: list[str], network: str, spares: int) -> None:
        """Nothing is made yet; `spares` are kept beyond what is waited for."""
        self.preload = preload
        self.network = network
        self.spares = spares
        self.waiting = 0
        self.parked = 0
        self.making = 0

    def shortage(self) -> int:
        """How many to order now."""
        missing = self.spares + self.waiting - self.parked - self.making
        return max(0, min(missing, _MAKING_AT_ONCE - self.making))


class Spawner:
    """One epoll loop; every handler returns at once."""

    def __init__(self, node: socket.socket, config: dict[str, Any], groups: Node | None) -> None:
        """Hold the lease `node`; `config` is what the node told the launcher."""
        self._node = node
        self._config = config
        self._groups = groups
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._stocks: dict[str, Stock] = {}
        self._zygotes: dict[tuple[str, ...], Zygote] = {}
        self._sandboxes: dict[int, Sandbox] = {}
        self._free_slots: list[int] = []
        self._slots = itertools.count()
        self._root: bool = config["root"]
        self._limits = Limits(memory=config["memory"], pids=config["pids"], cpu=None)
        self._running = True
        self._refill_at: float | None = None

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the lease is over."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._watch(self._node.fileno(), self._obey)
        packets.send(self._node, {"hello": self._describe()})
        while self._running:
            for fd, _ in self._poll.poll(self._next_timer()):
                if (handler := self._handlers.get(fd)) is not None:
                    handler()
            self._run_timers()

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), act))

    def _next_timer(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _describe(self) -> dict[str, Any]:
        if self._groups is None:
            return {"cgroups": None, "roots": {}, "token": ""}
        hierarchies = self._groups.hierarchies
        return {
            "cgroups": hierarchies.version,
            "roots": hierarchies.roots,
            "token": self._groups.token,
        }

    # --- the node ------------------------------------------------------------------------------

    def _obey(self) -> None:
        try:
            received = packets.receive(self._node)
        except ConnectionError:  # the node ended with packets of ours unread
            received = None
        if received is None:
            self._unwatch(self._node.fileno())
            self._later(self._config["lease_grace"], self._stop)
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        if "assign" in message:
            self._assign(message)
        elif "kill" in message:
            if (sandbox := self._sandboxes.get(message["kill"])) is not None:
                sandbox.kill()
        elif "demand" in message:
            self._demand(message)

    def _stop(self) -> None:
        self._running = False

    def _tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(ConnectionError):  # the lease is over, `_obey` hears of that
            packets.send(self._node, message, fds)

    def _assign(self, duty: dict[str, Any]) -> None:
        sandbox = self._sandboxes.get(duty["assign"])
        if sandbox is None or not sandbox.parked or sandbox.assigned:
            return  # it died meanwhile, and the node has been told
        stock = self._stocks[sandbox.stock]
        stock.parked -= 1
        stock.waiting = max(0, stock.waiting - 1)
        try:
            sandbox.assign(duty)
        except ConnectionError:
            pass  # it has just died, as its pidfd will tell
        except OSError as error:
            sandbox.error = str(error)
            sandbox.kill()
        self._refill_when_quiet(stock)

    def _demand(self, message: dict[str, Any]) -> None:
        name = message["demand"]
        stock = self._stocks.get(name)
        if stock is None:
            stock = Stock(message["preload"], message["network"], self._config["spares"])
            self._stocks[name] = stock
        stock.waiting = message["waiting"]
        self._refill(name, stock)

    # --- stocks --------------------------------------------------------------------------------

    def _refill_when_quiet(self, stock: Stock) -> None:
        if stock.parked < min(stock.waiting + 1, stock.spares):
            self._refill_all()  # nothing left to be patient with
            return
        first = self._refill_at is None
        self._refill_at = time.monotonic() + _QUIET_S
        if first:
            self._later(_QUIET_S, self._refill_if_quiet)

    def _refill_if_quiet(self) -> None:
        assert self._refill_at is not None  # noqa: S101 - set with the timer
        left = self._refill_at - time.monotonic()
        if left > 0:
            self._later(left, self._refill_if_quiet)
            return
        self._refill_at = None
        self._refill_all()

    def _refill_all(self) -> None:
        for name, stock in self._stocks.items():
            self._refill(name, stock)

    def _refill(self, name: str, stock: Stock) -> None:
        if not stock.shortage():
            return
        zygote = self._zygote(stock.preload)
        if not zygote.ready:
            return
        try:
            for _ in range(stock.shortage()):
                self._make(name, stock, zygote)
        except OSError as error:
            self._tell({"stock_failed": name, "message": str(error)})

    def _zygote(self, preload: list[str]) -> Zygote:
        key = tuple(preload)
        zygote = self._zygotes.get(key)
        if zygote is None:
            zygote = self._zygotes[key] = Zygote(preload, self._config)
            self._watch(zygote.sock.fileno(), lambda: self._hear_zygote(key))
        return zygote

    def _hear_zygote(self, key: tuple[str, ...]) -> None:
        zygote = self._zygotes[key]
        try:
            received = packets.receive(zygote.sock, wait=False)
        except BlockingIOError:
            return
        except ConnectionError:
            received = None
        if received is None:
            self._lose_zygote(key, zygote)
            return
        message, fds = received
        if "ready" in message:
            zygote.ready = True
            self._refill_all()
        elif "forked" in message:
            self._forked(self._sandboxes[message["forked"]], fds[0])
        elif "failed" in message:
            sandbox = self._sandboxes[message["failed"]]
            self._stocks[sandbox.stock].making -= 1
            self._unwatch(sandbox.control.fileno())
            self._bury(sandbox)
            self._tell({"stock_failed": sandbox.stock, "message": message["message"]})

    def _lose_zygote(self, key: tuple[str, ...], zygote: Zygote) -> None:
        """Forget a dead zygote; what it forked lives on, what was being forked does not."""
        self._unwatch(zygote.sock.fileno())
        zygote.sock.close()
        del self._zygotes[key]
        for name, stock in self._stocks.items():
            if tuple(stock.preload) != key:
                continue
            for sandbox in [
                s for s in self._sandboxes.values() if s.stock == name and s.pidfd is None
            ]:
                stock.making -= 1
                self._unwatch(sandbox.control.fileno())
                self._bury(sandbox)
            stock.waiting = 0
            self._tell({"stock_failed": name, "message": "the zygote ended"})

    # --- sandboxes -----------------------------------------------------------------------------

    def _make(self, name: str, stock: Stock, zygote: Zygote) -> None:
        number = next(self._numbers)
        slot = heapq.heappop(self._free_slots) if self._free_slots else next(self._slots)
        group = None
        try:
            group = self._groups.group(str(number)) if self._groups is not None else None
            sandbox = Sandbox(
                number,
                name,
                group=group,
                slot=slot,
                limits=self._limits,
                without=self._config["without"],
            )
        except OSError:
            heapq.heappush(self._free_slots, slot)
            if group is not None:
                group.remove()
            raise
        self._sandboxes[number] = sandbox
        stock.making += 1
        self._watch(sandbox.control.fileno(), lambda: self._hear_sandbox(sandbox))
        uid = self._config["uid_base"] + 2 * slot if self._root else None
        zygote.order(sandbox, uid=uid, network=stock.network)

    def _forked(self, sandbox: Sandbox, pidfd: int) -> None:
        sandbox.pidfd = pidfd
        self._watch(pidfd, lambda: self._died(sandbox))
        if sandbox.oom_event is not None:
            self._watch(sandbox.oom_event, lambda: self._out_of_memory(sandbox))

    def _hear_sandbox(self, sandbox: Sandbox) -> None:
        if not sandbox.listen():
            # Anything else it says is the last thing it says: wait for its death.
            self._unwatch(sandbox.control.fileno())
            return
        stock = self._stocks[sandbox.stock]
        stock.making -= 1
        stock.parked += 1
        self._tell({"spare": sandbox.number, "stock": sandbox.stock}, tuple(sandbox.ours))
        sandbox.close_ours()
        if stock.shortage():
            self._refill(sandbox.stock, stock)

    def _out_of_memory(self, sandbox: Sandbox) -> None:
        """End it: version 1 kills one process only, and the rest cannot be trusted to go on.

        The event comes before the kernel's own kill, so there is no counter to look at yet.
        """
        if sandbox.oom_event is None:
            return
        with contextlib.suppress(BlockingIOError):  # a stale event of a number used anew
            os.eventfd_read(sandbox.oom_event)
            sandbox.out_of_memory = True
            sandbox.kill()

    def _died(self, sandbox: Sandbox) -> None:
        """Its pid 1 is dead, and with it, the kernel sees to that, all others inside."""
        if sandbox.pidfd is None or not sandbox.is_dead():
            return  # an event of a descriptor whose number has a new meaning by now
        self._unwatch(sandbox.pidfd)
        if sandbox.oom_event is not None:
            self._unwatch(sandbox.oom_event)
        if sandbox.control.fileno() in self._handlers:
            self._unwatch(sandbox.control.fileno())
        was_parked = sandbox.parked
        sandbox.listen()
        stock = self._stocks[sandbox.stock]
        if not was_parked:
            stock.making -= 1
            self._tell({"stock_failed": sandbox.stock, "message": sandbox.error or "a spare died"})
        elif not sandbox.assigned:
            stock.parked -= 1
            self._refill_when_quiet(stock)
        self._bury(sandbox)

    def _bury(self, sandbox: Sandbox, tries: int = _BURY_TRIES) -> None:
        """Remove the last traces, then tell the node."""
        report = sandbox.report()
        self._remove(sandbox, report, tries)

    def _remove(self, sandbox: Sandbox, report: dict[str, Any], tries: int) -> None:
        if sandbox.group is not None and not sandbox.group.remove() and tries:
            self._later(_RETRY_S, lambda: self._remove(sandbox, report, tries - 1))
            return
        sandbox.close()
        heapq.heappush(self._free_slots, sandbox.slot)
        del self._sandboxes[sandbox.number]
        if sandbox.parked:
            self._tell(report)
