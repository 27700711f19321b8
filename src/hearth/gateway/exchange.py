"""One request and its answer: where the pieces of a body meet, and the `Sink` of an invocation.

An exchange answers at most once. When its client has gone it keeps its place and writes nothing,
so that a late event of its call can never reach the next request of the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hearth.engine.invocation import InvocationHandle
from hearth.errors import HearthError, InvocationError, NoCapacity
from hearth.gateway.auth import NOBODY
from hearth.wire import response
from hearth.wire.ids import new_id
from hearth.wire.problem import problem, problem_headers

if TYPE_CHECKING:
    from hearth.gateway.connection import Connection
    from hearth.wire.request import Request

_JOIN_BELOW = 64 << 10
"""Bodies shorter than this are copied behind their head; longer ones are handed over beside it."""

_COLD = "X-Cold-Start: true\r\n"

Consumer = Callable[[bytes, bool], None]


class Exchange:
    """What happens to one request. `identity` is set once the caller is known."""

    __slots__ = (
        "_closes",
        "_consumer",
        "_done",
        "_mute",
        "_pieces",
        "_reserved",
        "_started",
        "_then",
        "body",
        "connection",
        "id",
        "identity",
        "invocation",
        "on_flow",
        "on_gone",
        "request",
        "started_ns",
    )

    def __init__(self, connection: Connection, request: Request, body: bytes) -> None:
        """Begin with what has arrived of the body."""
        self.connection = connection
        self.request = request
        self.body = body
        self.id = new_id()
        self.started_ns = time.time_ns()
        self.identity = NOBODY
        self.invocation: InvocationHandle | None = None
        self.on_gone: Callable[[], None] | None = None
        """Called once if the client leaves before the answer is complete."""
        self.on_flow: Callable[[bool], None] | None = None
        """Called with False when the client is slow, with True when it has caught up."""
        self._consumer: Consumer | None = None
        self._then: Callable[[Exchange], None] | None = None
        self._started = False
        self._done = False
        self._reserved = 0
        self._closes = False
        self._mute = False

    def follow(self, invocation: InvocationHandle) -> None:
        """Pause, resume and cancel `invocation` with the client, unless it has answered already."""
        if not self._done:
            self.invocation = invocation

    @property
    def begun(self) -> bool:
        """Say whether some of the answer has been written."""
        return self._started

    @property
    def follows(self) -> bool:
        """Say whether a stream of the platform itself is under way: it ends when somebody leaves.

        A function's stream ends by itself, at its deadline at the latest.
        """
        return self._started and not self._done and self.invocation is None

    # --- the request's body --------------------------------------------------------------------

    def collect(self, then: Callable[[Exchange], None]) -> None:
        """Call `then` when the body is complete in `self.body`."""
        if self.connection.body_complete:
            then(self)
            return
        self._pieces = [self.body]
        self._then = then
        self.consume(self._gather)

    def consume(self, consumer: Consumer) -> None:
        """Give each further piece of the body to `consumer(data, complete)`."""
        self._consumer = consumer
        if self.request.expects_continue and not self.body:
            self.connection.write(response.CONTINUE)

    def body_received(self, data: bytes, complete: bool) -> None:
        """Take a further piece; nobody wants it once the answer is there."""
        if self._consumer is not None and not self._done:
            self._consumer(data, complete)

    def _gather(self, data: bytes, complete: bool) -> None:
        self._pieces.append(data)
        if not self.connection.reserve(len(data)):
            self.refuse(NoCapacity("too many request bodies are in flight", retry_after_s=1))
            return
        self._reserved += len(data)
        if complete and self._then is not None:
            self.body = b"".join(self._pieces)
            self._pieces.clear()
            self._then(self)

    # --- the answer (Sink) ---------------------------------------------------------------------

    def reply(
        self, invocation: InvocationHandle | None, status: int, headers: bytes, body: bytes
    ) -> None:
        """Answer as a whole."""
        if self._done or self._is_illegal(status):
            return
        close = self.connection.must_close(self.request)
        length = f"Content-Length: {len(body)}\r\n"
        if response.has_no_body(status):
            length, body = "", b""
        elif self.request.method == b"HEAD":
            body = b""
        cold = invocation is not None and invocation.cold
        head = self._head(status, headers, length=length, cold=cold, close=close)
        self._started = True
        if len(body) < _JOIN_BELOW:
            self.connection.write_soon(head + body)
        else:
            self.connection.write_parts((head, body))
        self._finish(close)

    def head(self, invocation: InvocationHandle | None, status: int, headers: bytes) -> None:
        """Begin a streamed answer: chunked, or for HTTP/1.0 until the connection closes."""
        if self._done or self._is_illegal(status):
            return
        cold = invocation is not None and invocation.cold
        chunked = self.request.minor == 1
        close = not chunked or self.connection.must_close(self.request)
        framing = response.CHUNKED if chunked and not response.has_no_body(status) else ""
        self._started = True
        self._closes = close
        self.connection.write(self._head(status, headers, length=framing, cold=cold, close=close))
        if response.has_no_body(status) or self.request.method == b"HEAD":
            self._mute = True

    def chunk(self, invocation: InvocationHandle | None, data: bytes) -> None:
        """Pass on a piece."""
        if self._done or self._mute:
            return
        self.connection.write(response.chunk(data) if self.request.minor else data)

    def end(self, invocation: InvocationHandle | None) -> None:
        """Complete a streamed answer."""
        if self._done:
            return
        if self.request.minor and not self._mute:
            self.connection.write(response.LAST_CHUNK)
        self._finish(self._closes)

    def fail(self, invocation: InvocationHandle | None, error: HearthError) -> None:
        """Answer with an error; a stream that has begun is cut, so that it cannot seem whole."""
        if self._done:
            return
        if self._started:
            self._done = True
            self._release()
            self.connection.abort()
            return
        body = problem(error, self.id, show_stack=self.identity.admin)
        self.reply(invocation, error.status, problem_headers(error), body)

    def refuse(self, error: HearthError) -> None:
        """Answer with an error before anything was invoked."""
        self.fail(None, error)

    def _is_illegal(self, status: int) -> bool:
        """Answer 502 for a status that would confuse the connection: 1xx is no final answer."""
        if 200 <= status <= 599:
            return False
        self.refuse(InvocationError(f"the function answered with status {status}"))
        return True

    def _head(self, status: int, headers: bytes, *, length: str, cold: bool, close: bool) -> bytes:
        """Return the whole head; `length` is the header that tells where the body ends."""
        elapsed = max(0, time.time_ns() - self.started_ns) / 1e9
        persistence = b""
        if close:
            persistence = response.CLOSE
        elif not self.request.minor:
            persistence = response.KEEP_ALIVE
        stamps = (
            f"X-Call-Id: {self.id}\r\nX-Start-Time: {self.started_ns}\r\n"
            f"X-Duration-Seconds: {elapsed:.6f}\r\n{_COLD if cold else ''}{length}"
        ).encode()
        opening = self.connection.openings[status]
        return b"".join((opening, stamps, persistence, headers, b"\r\n"))

    def _finish(self, close: bool) -> None:
        self._done = True
        self._release()
        self.connection.finished(self, close)

    # --- the client ----------------------------------------------------------------------------

    def gone(self) -> None:
        """End what is done for a client that has left."""
        if self._done:
            return
        self._done = True
        invocation = self.invocation
        self._release()
        if invocation is not None:
            invocation.cancel("client disconnected")
        if self.on_gone is not None:
            self.on_gone()

    def flow(self, flowing: bool) -> None:
        """Slow down for a client that reads too slowly, or go on when it has caught up."""
        if self._done:
            return
        if self.invocation is not None:
            self.invocation.resume() if flowing else self.invocation.pause()
        if self.on_flow is not None:
            self.on_flow(flowing)

    def _release(self) -> None:
        # The invocation knows this exchange as its sink: left as a cycle, every call would wait
        # for the garbage collector, whose pauses then reach hundreds of milliseconds under load.
        self.invocation = None
        if self._reserved:
            self.connection.reserve(-self._reserved)
            self._reserved = 0
