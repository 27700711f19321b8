"""One client connection: bytes to exchanges, one at a time, under deadlines.

Phases, each with one deadline that the server's sweep looks at once a second:
`idle` (nothing of a request is there), `head` and `body` (arriving), `busy` (being answered; no
deadline, the engine has its own), `stalled` (the client does not read), `half-closed` (the client
will send no more; it may have gone) and `closing` (the last bytes are on their way).
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from hearth.errors import HearthError, RequestTimeout
from hearth.gateway.exchange import Exchange
from hearth.wire.http1 import RequestParser
from hearth.wire.request import Request

if TYPE_CHECKING:
    from hearth.gateway.server import Server

MAX_AHEAD_BYTES = 64 << 10
"""So much of later requests is read while one is being answered; then reading stops."""
MAX_IN_A_ROW = 16
"""Pipelined requests answered at once before other connections get their turn."""
MIN_BODY_RATE = 16 << 10
"""Bytes per second that a body must come at, beyond `body_timeout`."""
HALF_CLOSE_GRACE_S = 2.0
LINGER_S = 5.0
STALL_S = 10.0
"""A client that reads slowly must take something in this time; how much is its own affair."""
LINGER_BYTES = 4 << 20
MAX_SOON_BYTES = 64 << 10
"""Answers to pipelined requests that are kept together before they are written."""


class Connection(asyncio.Protocol):
    """The protocol object of one accepted socket."""

    def __init__(self, server: Server) -> None:
        """Belong to `server`."""
        self._server = server
        self._parser = RequestParser(server.limits)
        self.openings = server.openings
        self.exchange: Exchange | None = None
        self.phase = "head"
        self.deadline = math.inf
        self.control_checked = False
        """The peer has been found to be no function."""
        self.local: tuple[str, int] = ("", 0)
        self.remote: tuple[str, int] = ("", 0)
        self._busy_advancing = False
        self._closing = False
        self._eof = False
        self._resuming = False
        self._paused_reading = False
        self._paused_writing = False
        self._discarded = 0
        self._soon = b""
        self._unsent: float = 0
        """Bytes of the answer not yet taken, when the deadline was last set or looked at."""

    # --- events of the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self.local = _address(transport.get_extra_info("sockname"))
        self.remote = _address(transport.get_extra_info("peername"))
        self._server.connections.add(self)
        self._wait("head", self._server.settings.header_timeout)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._closing:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._transport.abort()
            return
        parser = self._parser
        parser.receive(data)
        if self.exchange is None:
            self._advance()
        elif not parser.complete:
            self._more_body(self.exchange)
        elif parser.waiting > MAX_AHEAD_BYTES:
            self.hold_reading()

    def eof_received(self) -> bool:
        """Let a request that is complete be answered; the client may only have closed its half."""
        self.flush()
        self._eof = True
        if self._resuming:
            return True
        if self.exchange is None or not self._parser.complete or self._closing:
            return False
        if not self.exchange.begun or self.exchange.follows:
            self._wait("half-closed", HALF_CLOSE_GRACE_S)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was done for the client."""
        self._closing = True
        self._server.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.gone()

    def pause_writing(self) -> None:
        """Stop the flow of the answer: the client reads too slowly."""
        self._paused_writing = True
        if not self._closing:
            self._unsent = math.inf
            self._wait("stalled", self._server.settings.idle_timeout)
        if self.exchange is not None:
            self.exchange.flow(False)

    def resume_writing(self) -> None:
        """Let it flow again."""
        self._paused_writing = False
        if self._closing:
            return
        if self.exchange is None:
            self._wait("idle", self._server.settings.idle_timeout)
            self._advance()
        elif not self._parser.complete:
            self._wait("body", self._server.settings.body_timeout)
            self.exchange.flow(True)
        else:
            self.phase, self.deadline = "busy", math.inf
            self.exchange.flow(True)

    # --- requests ------------------------------------------------------------------------------

    @property
    def body_complete(self) -> bool:
        """Say whether all of the current request has arrived."""
        return self._parser.complete

    def _advance(self) -> None:
        """Begin the exchanges whose heads are there, as long as each is answered at once."""
        if self._busy_advancing:
            return
        self._busy_advancing = True
        try:
            for _ in range(MAX_IN_A_ROW):
                if self.exchange is not None or self._closing or self._paused_writing:
                    return
                request = self._parser.head() if self._parser.waiting else None
                if request is None:
                    self._await_head()
                    return
                self._begin(request)
            if self.exchange is None and not self._closing:
                self._resuming = True
                self._server.loop.call_soon(self._resume)
        except HearthError as error:
            self._reject(error)
        finally:
            self._busy_advancing = False

    def _resume(self) -> None:
        self._resuming = False
        self._advance()

    def _begin(self, request: Request) -> None:
        parser = self._parser
        body = b"" if parser.complete else parser.body()
        self.exchange = exchange = Exchange(self, request, body)
        if parser.complete:
            self.phase = "busy"
            self.deadline = math.inf
        else:
            self._wait("body", self._server.settings.body_timeout)
        self._server.pipeline.handle(exchange)

    def _more_body(self, exchange: Exchange) -> None:
        try:
            data = self._parser.body()
        except HearthError as error:
            self._break_off(exchange, error)
            return
        complete = self._parser.complete
        if complete:
            self.phase = "busy"
            self.deadline = math.inf
        else:
            self.deadline += len(data) / MIN_BODY_RATE
        if data or complete:
            exchange.body_received(data, complete)

    def _await_head(self) -> None:
        if self._eof:
            self._close()
        elif self._parser.waiting and self.phase != "head":
            self._wait("head", self._server.settings.header_timeout)

    def _reject(self, error: HearthError) -> None:
        """Answer what is no request; nothing behind it can be trusted."""
        request = Request(b"GET", 1)
        request.keep_alive = False
        self.exchange = exchange = Exchange(self, request, b"")
        exchange.refuse(error)

    def _break_off(self, exchange: Exchange, error: HearthError) -> None:
        """Refuse a request whose body is wrong or late, whoever is working on it."""
        exchange.request.keep_alive = False
        on_gone, exchange.on_gone = exchange.on_gone, None
        exchange.refuse(error)
        if on_gone is not None:
            on_gone()

    # --- what an exchange does -----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send."""
        self.flush()
        if data:
            self._transport.write(data)

    def write_parts(self, parts: tuple[bytes, ...]) -> None:
        """Send pieces without copying them together."""
        self.flush()
        self._transport.writelines(parts)

    def write_soon(self, data: bytes) -> None:
        """Send at the end of this turn of the event loop, after everything else in it.

        A write wakes the client up, often onto this very core; so first all that has arrived is
        answered and all instances have their next calls, then all clients are woken up.
        """
        if not self._soon:
            self._soon = data
            self._server.flush_soon(self)
            return
        self._soon += data
        if len(self._soon) > MAX_SOON_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send now what was to be sent soon."""
        if self._soon:
            data, self._soon = self._soon, b""
            if not self._transport.is_closing():
                self._transport.write(data)

    def must_close(self, request: Request) -> bool:
        """Say whether the connection ends with the answer to `request`."""
        return not request.keep_alive or not self._parser.complete or self._server.draining

    def reserve(self, size: int) -> bool:
        """Count bytes of bodies in memory; False if the node holds too many."""
        return self._server.reserve(size)

    def hold_reading(self) -> None:
        """Stop reading: what was read is not wanted yet."""
        if not self._paused_reading and not self._eof:
            self._paused_reading = True
            self._transport.pause_reading()

    def release_reading(self) -> None:
        """Read on."""
        if self._paused_reading and not self._transport.is_closing():
            self._paused_reading = False
            self._transport.resume_reading()

    def finished(self, exchange: Exchange, close: bool) -> None:
        """Go on behind `exchange`, which has been answered."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        if close or self._server.draining:
            self._close()
            return
        if not self._paused_writing:
            self._wait("idle", self._server.settings.idle_timeout)
        if self._parser.waiting or self._eof:
            self._advance()
        if self._paused_reading and self._parser.waiting <= MAX_AHEAD_BYTES:
            self.release_reading()

    # --- the end -------------------------------------------------------------------------------

    def _wait(self, phase: str, seconds: float) -> None:
        self.phase = phase
        self.deadline = self._server.now + seconds

    def expire(self) -> None:
        """Act on a deadline that has passed."""
        exchange = self.exchange
        if self.phase == "idle":
            self._close()
        elif self.phase == "head":
            if self._parser.waiting:
                limit = f"gateway.header_timeout={self._server.settings.header_timeout:g}s"
                self._reject(RequestTimeout(limit=limit))
            else:
                self._close()
        elif self.phase == "body" and exchange is not None:
            limit = f"gateway.body_timeout={self._server.settings.body_timeout:g}s"
            self._break_off(exchange, RequestTimeout(limit=limit))
        elif self.phase in {"stalled", "closing"} and self._is_draining():
            self._wait(self.phase, STALL_S)
        else:
            self.abort()

    def _is_draining(self) -> bool:
        """Say whether the client has taken some of the answer since this was asked before."""
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        return 0 < self._unsent < before

    def close_if_idle(self) -> None:
        """Close unless a request is there or arriving; who follows a log has seen the end of it."""
        if self.exchange is not None and self.exchange.follows:
            self.abort()
        elif self.exchange is None and not self._parser.waiting and not self._closing:
            self._close()

    def _close(self) -> None:
        """Close so that the answer arrives: with input unread, TCP would reset it away.

        So then only our half is closed, and what still comes is thrown away for a while.
        """
        self.flush()
        self._closing = True
        self._unsent = self._transport.get_write_buffer_size()
        self._wait("closing", LINGER_S)
        if self._eof or (self._parser.complete and not self._parser.waiting):
            self._transport.close()
            return
        self.release_reading()
        self._transport.write_eof()

    def abort(self) -> None:
        """Cut the connection; whoever reads an answer sees that it is not whole."""
        self.flush()
        self._closing = True
        self._transport.abort()


def _address(info: Any) -> tuple[str, int]:
    return (info[0], info[1]) if isinstance(info, tuple) else ("", 0)
