"""What calls leave behind: records in batches, results and log lines cut to what is kept."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from hearth.model import InvocationRecord, LogLine

if TYPE_CHECKING:
    from hearth.engine.call import Invocation
    from hearth.sandbox.base import Stream, Timers

FLUSH_S = 0.05
BATCH = 256

Listener = Callable[[list[InvocationRecord]], None]


class Recorder:
    """Collects finished calls and hands their records on in batches, behind the replies."""

    __slots__ = ("_listeners", "_pending", "_timers", "_waiting")

    def __init__(self, timers: Timers, listeners: tuple[Listener, ...] = ()) -> None:
        """Hand batches to each of `listeners`, at the latest 50 ms after a call ended."""
        self._timers = timers
        self._listeners = listeners
        self._pending: list[Invocation] = []
        self._waiting = False

    def add(self, invocation: Invocation) -> None:
        """Take a finished call."""
        self._pending.append(invocation)
        if len(self._pending) >= BATCH:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._timers.call_later(FLUSH_S, self._due)

    def flush(self) -> None:
        """Hand over what there is."""
        pending, self._pending = self._pending, []
        if pending and self._listeners:
            records = [invocation.record() for invocation in pending]
            for listener in self._listeners:
                listener(records)

    def _due(self) -> None:
        self._waiting = False
        self.flush()


class Logs:
    """What one call wrote, up to a number of bytes."""

    __slots__ = ("_left", "_pieces", "truncated")

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes."""
        self._left = limit
        self._pieces: list[tuple[float, Stream, bytes]] = []
        self.truncated = False

    def add(self, time: float, stream: Stream, data: bytes) -> None:
        """Keep `data` as far as there is room."""
        if len(data) > self._left:
            data = data[: self._left]
            self.truncated = True
        if data:
            self._left -= len(data)
            self._pieces.append((time, stream, data))

    def lines(self) -> tuple[LogLine, ...]:
        """Return what was written, one entry per line; a line has the time of its last piece."""
        lines: list[LogLine] = []
        partial: dict[Stream, bytes] = {}
        last: dict[Stream, float] = {}
        for time, stream, data in self._pieces:
            *whole, rest = (partial.pop(stream, b"") + data).split(b"\n")
            lines.extend(LogLine(time, stream, _text(line)) for line in whole)
            if rest:
                partial[stream] = rest
            last[stream] = time
        lines.extend(LogLine(last[s], s, _text(rest)) for s, rest in partial.items())
        return tuple(lines)


NO_LOGS = Logs(0)


class Result:
    """The body of an answer, kept for the record up to a number of bytes."""

    __slots__ = ("_body", "_limit", "truncated")

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes."""
        self._limit = limit
        self._body = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> None:
        """Keep `data` as far as there is room."""
        room = self._limit - len(self._body)
        self.truncated = self.truncated or len(data) > room
        self._body += data[:room]

    def value(self) -> Any:
        """Return the answer as JSON where it is JSON, else as text, else `{"base64": …}`."""
        body = bytes(self._body)
        if not body:
            return None
        if not self.truncated:
            try:
                return msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        try:
            return body.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(body).decode()}


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")
