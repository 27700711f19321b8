"""A small ASGI adapter: enough of the http scope to serve the control API, with back-pressure.

The app runs in a task of its own. Whatever it raises becomes the platform's JSON error, never a
traceback; whatever headers it sends are checked before they reach the wire.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from hearth.errors import HearthError
from hearth.gateway.exchange import Exchange

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

_BUFFERED_BYTES = 256 << 10
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OURS = frozenset(
    b"content-length transfer-encoding connection date keep-alive upgrade x-call-id x-start-time "
    b"x-duration-seconds".split()
)
_tasks: set[asyncio.Task[None]] = set()
_log = logging.getLogger(__name__)


def spawn(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` for `exchange` to its end, even if the client leaves; answer if it fails."""

    async def guarded() -> None:
        try:
            await work
        except HearthError as error:
            exchange.refuse(error)
        except Exception:
            _log.exception("request %s failed", exchange.id)
            exchange.refuse(HearthError())

    task = asyncio.get_running_loop().create_task(guarded())
    _tasks.add(task)  # the loop itself only keeps weak references
    task.add_done_callback(_tasks.discard)


def serve(app: App, exchange: Exchange) -> None:
    """Answer `exchange` with `app`."""
    call = _AppCall(exchange)
    if not exchange.connection.body_complete:
        exchange.consume(call.body_received)
    spawn(exchange, call.run(app))


class _AppCall:
    """One request on its way through an ASGI app."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._body = bytearray(exchange.body)
        self._complete = exchange.connection.body_complete
        self._delivered = False
        self._gone = False
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._held: tuple[int, bytes] | None = None
        self._streaming = False
        self._answered = False
        exchange.on_gone = self._on_gone
        exchange.on_flow = self._on_flow

    async def run(self, app: App) -> None:
        await app(_scope(self._exchange), self._receive, self._send)
        if not self._answered and not self._gone:
            raise RuntimeError("the app returned without a complete answer")

    # --- request -------------------------------------------------------------------------------

    def body_received(self, data: bytes, complete: bool) -> None:
        self._body += data
        self._complete = complete
        self._wake.set()
        if len(self._body) > _BUFFERED_BYTES and not complete:
            self._exchange.connection.hold_reading()

    async def _receive(self) -> Message:
        while not self._gone and not self._answered:
            if not self._delivered and (self._body or self._complete):
                body = bytes(self._body)
                self._body.clear()
                self._delivered = self._complete
                if not self._complete:
                    self._exchange.connection.release_reading()
                return {"type": "http.request", "body": body, "more_body": not self._complete}
            self._wake.clear()
            await self._wake.wait()
        return {"type": "http.disconnect"}

    def _on_gone(self) -> None:
        self._gone = True
        self._wake.set()
        self._writable.set()

    def _on_flow(self, flowing: bool) -> None:
        if flowing:
            self._writable.set()
        else:
            self._writable.clear()

    # --- answer --------------------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._held = (message["status"], _block(message.get("headers", ())))
            return
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        exchange = self._exchange
        if self._held is not None and not more:
            status, block = self._held
            self._finish()
            exchange.reply(None, status, block, body)
            return
        if self._held is not None:
            status, block = self._held
            self._held = None
            exchange.head(None, status, block)
        exchange.chunk(None, body)
        if not more:
            self._finish()
            exchange.end(None)
            return
        await self._writable.wait()

    def _finish(self) -> None:
        self._held = None
        self._answered = True
        self._wake.set()


def _scope(exchange: Exchange) -> Message:
    request, connection = exchange.request, exchange.connection
    return {
        "type": "http",
        # 2.3: a stream must be ended by our http.disconnect; one that is silent sends nothing
        # that could fail, which is how 2.4 tells.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": f"1.{request.minor}",
        "method": request.method.decode(),
        "scheme": "http",
        "path": request.path.decode(),
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": connection.remote,
        "server": connection.local,
        "state": {"request_id": exchange.id},
        "hearth.identity": exchange.identity,
    }


def _block(headers: Any) -> bytes:
    """Return the app's headers as a block.

    Raises:
        ValueError: a header would break out of its line.
    """
    lines = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise ValueError(f"the app sent a malformed header {bytes(name)!r}")
        if name.lower() not in _OURS:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)
