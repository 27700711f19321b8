"""The node's end of the spawner: starts it, speaks its packets, and holds the lease.

See `hearth.linux.spawner` for the packets. Everything here is non-blocking callbacks.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from typing import Any, Protocol

import hearth
from hearth.linux import launcher
from hearth_runtime import packets

_EXIT_WAIT_S = 10.0


class SpawnerEvents(Protocol):
    """What the backend hears from its spawner."""

    def on_hello(self, description: dict[str, Any]) -> None:
        """Hear that it runs, and where its control groups are."""

    def on_spare(self, number: int, stock: str, fds: tuple[int, int, int]) -> None:
        """Take a ready spare; channel, stdout and stderr are now ours."""

    def on_gone(self, number: int, report: dict[str, Any]) -> None:
        """Nothing is left of a sandbox that was ready once."""

    def on_stock_failed(self, stock: str, message: str) -> None:
        """No sandbox of this stock can be made now."""

    def on_lost(self, reason: str) -> None:
        """Hear that it has ended, and with it every sandbox; always the last event."""


class SpawnerLink:
    """One spawner process and the socket to it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: dict[str, Any], events: SpawnerEvents
    ) -> None:
        """Start it; `config` is what `hearth.linux.launcher.main` wants."""
        self._loop = loop
        self._events = events
        self._fatal: str | None = None
        self._unsent: deque[dict[str, Any]] = deque()
        self._sock, theirs = packets.pair()
        source = os.path.dirname(os.path.dirname(hearth.__file__))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", launcher.BOOTSTRAP, source, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C of the terminal is for the node, which drains first
        )
        theirs.close()
        self._sock.setblocking(False)
        self._open = True
        loop.add_reader(self._sock.fileno(), self._readable)
        self.send(config)

    def send(self, message: dict[str, Any]) -> None:
        """Send one packet, now or as soon as there is room."""
        if not self._open:
            return
        if not self._unsent:
            try:
                packets.send(self._sock, message)
                return
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            except OSError:
                return  # it is going; its end of stream tells
        self._unsent.append(message)

    async def close(self) -> None:
        """End the lease and wait until every trace is gone."""
        self._shut()
        await self.wait()

    async def wait(self) -> None:
        """Wait, for a bounded time, until the launcher has cleaned up and ended."""
        process, done = self.process, asyncio.Event()
        if process.poll() is not None:
            return
        pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(pidfd, done.set)
        try:
            async with asyncio.timeout(_EXIT_WAIT_S):
                await done.wait()
        except TimeoutError:
            process.kill()
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            process.wait()

    def _writable(self) -> None:
        try:
            while self._unsent:
                packets.send(self._sock, self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            received = packets.receive(self._sock)
        except BlockingIOError:
            return
        except OSError as error:
            self._fatal = self._fatal or str(error)
            received = None
        if received is None:
            self._shut()
            self._events.on_lost(self._fatal or "the spawner ended")
        else:
            self._dispatch(*received)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        if "spare" in message:
            channel, stdout, stderr = fds
            self._events.on_spare(message["spare"], message["stock"], (channel, stdout, stderr))
        elif "gone" in message:
            self._events.on_gone(message["gone"], message)
        elif "stock_failed" in message:
            self._events.on_stock_failed(message["stock_failed"], message["message"])
        elif "hello" in message:
            self._events.on_hello(message["hello"])
        elif "fatal" in message:
            self._fatal = message["fatal"]

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
