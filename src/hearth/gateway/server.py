"""The listener: it owns `accept`, the sweep of deadlines, and the way to stop gracefully.

Accepting by hand costs one call more than `create_server`, and keeps the socket ours until it is
given to a `Connection`: it can be looked at and handed to somebody else before anything is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time

from hearth.config import Gateway
from hearth.errors import NoCapacity
from hearth.gateway.connection import Connection
from hearth.gateway.pipeline import Pipeline
from hearth.wire.http1 import HttpLimits
from hearth.wire.ids import new_id
from hearth.wire.problem import problem, problem_headers
from hearth.wire.response import CLOSE, Openings

BACKLOG = 4096
ACCEPT_BATCH = 64
SWEEP_S = 1.0
FULL_PAUSE_S = 0.05
NO_DESCRIPTORS_PAUSE_S = 0.5
MAX_BODIES_BYTES = 512 << 20
"""Bodies that arrive in pieces and are held in memory at once, on the whole node."""
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_log = logging.getLogger(__name__)


class Server:
    """One listening socket and its connections."""

    def __init__(
        self, pipeline: Pipeline, settings: Gateway, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Serve `pipeline` on `loop`, within the limits and timeouts of `settings`."""
        self.pipeline = pipeline
        self.settings = settings
        self.loop = loop
        self.limits = HttpLimits(
            max_header_bytes=settings.max_header_bytes,
            max_headers=settings.max_headers,
            max_body=settings.max_body,
        )
        self.openings = Openings(time.time())
        self.connections: set[Connection] = set()
        self.draining = False
        self.now = loop.time()
        """Loop time of the last sweep; deadlines need no better."""
        self._listener: socket.socket | None = None
        self._accepting = False
        self._handing_over: set[asyncio.Task[object]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._bodies = 0
        self._unflushed: list[Connection] = []
        self._empty = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listener is not None, "start() comes first"  # noqa: S101 - a caller's bug
        return int(self._listener.getsockname()[1])

    # --- start and stop ------------------------------------------------------------------------

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen, on `sock` if one is given (bound, or already listening).

        Raises:
            OSError: the address cannot be bound.
        """
        listener = sock or await self._bind()
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listener = listener
        self._sweep()
        self._resume_accepting()

    async def _bind(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        found = await self.loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let requests under way be answered, cut what remains after `grace_s`."""
        self.draining = True
        self._stop_accepting()
        for connection in tuple(self.connections):
            connection.close_if_idle()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_empty(), grace_s)
        self.close()

    async def _wait_empty(self) -> None:
        if self._handing_over:
            await asyncio.wait(tuple(self._handing_over))
        for connection in tuple(self.connections):
            connection.close_if_idle()
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def close(self) -> None:
        """Cut everything now. Harmless when closed."""
        self.draining = True
        self._stop_accepting()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for connection in tuple(self.connections):
            connection.abort()
        if self._listener is not None:
            self._listener.close()

    # --- accepting -----------------------------------------------------------------------------

    def _resume_accepting(self) -> None:
        if not self._accepting and not self.draining and self._listener is not None:
            self._accepting = True
            self.loop.add_reader(self._listener, self._accept)

    def _stop_accepting(self) -> None:
        if self._accepting and self._listener is not None:
            self._accepting = False
            self.loop.remove_reader(self._listener)

    def _pause_accepting(self, seconds: float) -> None:
        """Leave new connections in the backlog; a level-triggered listener would spin."""
        self._stop_accepting()
        self.loop.call_later(seconds, self._resume_accepting)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - the reader is removed before it is closed
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    _log.exception("accept failed")
                else:
                    _log.warning("no more connections fit: %s", error.strerror)
                self._pause_accepting(NO_DESCRIPTORS_PAUSE_S)
                return
            sock.setblocking(False)
            if len(self.connections) + len(self._handing_over) >= self.settings.max_connections:
                self._turn_away(sock)
                self._pause_accepting(FULL_PAUSE_S)
                return
            self._hand_over(sock)

    def _hand_over(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self.loop.create_task(self._connect(sock))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: Connection(self), sock)
        except OSError:  # the client has gone already
            sock.close()

    def _turn_away(self, sock: socket.socket) -> None:
        """Say 503 if the kernel takes it at once, and forget the connection."""
        error = NoCapacity(
            "too many connections", limit=f"gateway.max_connections={self.settings.max_connections}"
        )
        request_id = new_id()
        body = problem(error, request_id)
        head = self.openings[503] + CLOSE + problem_headers(error)
        stamps = f"X-Call-Id: {request_id}\r\nX-Start-Time: {time.time_ns()}\r\n"
        stamps += f"X-Duration-Seconds: 0.000000\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(OSError), sock:
            sock.send(head + stamps.encode() + body)
            sock.shutdown(socket.SHUT_WR)

    # --- what connections need -----------------------------------------------------------------

    def flush_soon(self, connection: Connection) -> None:
        """Flush a connection when the event loop has done all else of this turn."""
        if not self._unflushed:
            self.loop.call_soon(self._flush)
        self._unflushed.append(connection)

    def _flush(self) -> None:
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def reserve(self, size: int) -> bool:
        """Count bytes of bodies in memory; False (and not counted) when there are too many."""
        if size > 0 and self._bodies + size > MAX_BODIES_BYTES:
            return False
        self._bodies += size
        return True

    def _sweep(self) -> None:
        """Once a second: tell the time, and end what took too long."""
        self.now = now = self.loop.time()
        self.openings.tick(time.time())
        for connection in [late for late in self.connections if late.deadline < now]:
            connection.expire()
        self._timers = [self.loop.call_later(SWEEP_S, self._sweep)]
