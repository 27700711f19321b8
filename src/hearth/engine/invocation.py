"""One invocation while it is under way, and who hears of its outcome.

This is the meeting point of gateway, control API and queue above and of pool and sandbox below:
the upper side makes a `Sink`, `Invoker.submit` returns an `Invocation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hearth.errors import HearthError
    from hearth.model import InvocationRecord


class Sink(Protocol):
    """Where an answer goes: exactly one of `reply`, `fail`, or `head`, `chunk`*, `end`|`fail`.

    `headers` is the function's own, already checked header block: no CR, LF or NUL inside a line,
    no hop-by-hop or platform header (connection, content-length, transfer-encoding, x-call-id, …).
    """

    def reply(self, invocation: InvocationHandle, status: int, headers: bytes, body: bytes) -> None:
        """Take a whole answer."""

    def head(self, invocation: InvocationHandle, status: int, headers: bytes) -> None:
        """Begin a streamed answer."""

    def chunk(self, invocation: InvocationHandle, data: bytes) -> None:
        """Take a piece; slow takers call `invocation.pause()`."""

    def end(self, invocation: InvocationHandle) -> None:
        """Complete a streamed answer."""

    def fail(self, invocation: InvocationHandle, error: HearthError) -> None:
        """Learn that no (complete) answer will come."""


class InvocationHandle(Protocol):
    """What the upper side may know and do about an invocation under way."""

    @property
    def id(self) -> str:
        """The platform's own id of the call (`X-Call-Id`)."""

    @property
    def created_ns(self) -> int:
        """Unix nanoseconds of arrival (`X-Start-Time`)."""

    @property
    def cold(self) -> bool:
        """Whether it waited for an instance to come up."""

    def pause(self) -> None:
        """Stop the flow of chunks."""

    def resume(self) -> None:
        """Let chunks flow again."""

    def cancel(self, reason: str) -> None:
        """End it: the sink hears `Cancelled`. Used by DELETE and when the client has gone."""

    def record(self) -> InvocationRecord:
        """Return the record as of now (complete once the sink heard the last event)."""
