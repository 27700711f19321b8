"""Guarantees that the engine relies on, added once around any backend, so that backends stay naive.

1. `on_ready` comes at most once and never after `on_gone`; `on_gone` comes exactly once, last.
2. An accepted call hears exactly one last event and nothing after it. What is still open when the
   instance goes is lost with it, before `on_gone`.
3. A call on an instance that is gone is lost at once; every other method is then harmless.
4. More calls than `limits.instance_concurrency`, a call before `on_ready`, or more than `MAX_AHEAD`
   sent ahead are refused.
5. `stop` works once; its first reason comes back in `Exit.reason` unless the backend knows better.
6. An exception in a listener or caller is logged and does not reach the backend.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from hearth.sandbox.base import MAX_AHEAD, Exit, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hearth.model import Version
    from hearth.sandbox.base import (
        Backend,
        Caller,
        CallRequest,
        Instance,
        InstanceListener,
        Stream,
    )

_log = logging.getLogger(__name__)
_UNKNOWN_USAGE = Usage()


class GuardedBackend:
    """A backend whose instances keep the six guarantees."""

    def __init__(self, inner: Backend) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self.name = inner.name

    async def open(self) -> None:
        """Open the inner backend."""
        await self._inner.open()

    def start(self, version: Version, code: str, listener: InstanceListener) -> Guard:
        """Begin to start a guarded instance."""
        guard = Guard(listener, version.limits.instance_concurrency)
        guard.bind(self._inner.start(version, code, guard))
        return guard

    def missing(self, version: Version) -> tuple[str, ...]:
        """Ask the inner backend."""
        return self._inner.missing(version)

    async def close(self) -> None:
        """Close the inner backend."""
        await self._inner.close()


class Guard:
    """An instance to the engine, a listener to the backend."""

    __slots__ = ("_calls", "_end", "_inner", "_limit", "_listener", "_ready", "_reason", "id")

    def __init__(self, listener: InstanceListener, limit: int) -> None:
        """Guard an instance that takes `limit` calls at once."""
        self.id = ""
        self._inner: Instance | None = None
        self._listener = listener
        self._limit = limit
        self._calls: dict[_GuardedCall, None] = {}
        self._ready = False
        self._reason: str | None = None
        self._end: Exit | None = None

    def bind(self, inner: Instance) -> None:
        """Learn which instance is guarded."""
        self.id = inner.id
        self._inner = inner

    # --- towards the backend -------------------------------------------------------------------

    def call(self, request: CallRequest, caller: Caller) -> None:
        """Hand over one call.

        Raises:
            RuntimeError: the engine claimed an instance that is not ready or has no room.
        """
        if self._end is not None:
            caller.on_lost(self._end)
            return
        if not self._ready or len(self._calls) >= self._limit:
            raise RuntimeError(f"instance {self.id} was called without room")
        call = _GuardedCall(caller, self._calls)
        self._calls[call] = None
        self._inner.call(request, call)  # type: ignore[union-attr] # ready implies bound

    def call_ahead(self, calls: Sequence[tuple[CallRequest, Caller]]) -> None:
        """Hand over calls behind the one that runs.

        Raises:
            RuntimeError: the engine claimed an instance that does not take so many.
        """
        if self._end is not None:
            for _, caller in calls:
                caller.on_lost(self._end)
            return
        if not self._calls or self._limit > 1 or len(self._calls) + len(calls) > 1 + MAX_AHEAD:
            raise RuntimeError(f"instance {self.id} was sent calls ahead without room")
        batch = [(request, _GuardedCall(caller, self._calls)) for request, caller in calls]
        self._calls.update((call, None) for _, call in batch)
        self._inner.call_ahead(batch)  # type: ignore[union-attr] # calls imply bound

    def pause_reading(self) -> None:
        """Stop the flow of chunks."""
        if self._end is None and self._inner is not None:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Let chunks flow again."""
        if self._end is None and self._inner is not None:
            self._inner.resume_reading()

    def usage(self) -> Usage:
        """Measure now; of a dead instance, what its `Exit` says."""
        if self._end is not None:
            return Usage(memory_peak=self._end.memory_peak, cpu_ns=self._end.cpu_ns)
        return self._inner.usage() if self._inner is not None else _UNKNOWN_USAGE

    def stop(self, reason: str) -> None:
        """Kill it, once."""
        if self._reason is None and self._end is None and self._inner is not None:
            self._reason = reason
            self._inner.stop(reason)

    # --- towards the engine --------------------------------------------------------------------

    def on_ready(self, instance: Instance, init_ns: int) -> None:
        """Pass it on the first time."""
        if not self._ready and self._end is None:
            self._ready = True
            _tell(self._listener.on_ready, self, init_ns)

    def on_output(self, instance: Instance, stream: Stream, data: bytes) -> None:
        """Pass it on while the instance lives."""
        if self._end is None:
            _tell(self._listener.on_output, self, stream, data)

    def on_gone(self, instance: Instance, end: Exit) -> None:
        """Settle what is open, then pass it on, once."""
        if self._end is not None:
            return
        if self._reason is not None and end.reason is None:
            end = msgspec.structs.replace(end, reason=self._reason)
        self._end = end
        for call in list(self._calls):
            call.on_lost(end)
        _tell(self._listener.on_gone, self, end)


class _GuardedCall:
    """Passes a call's events on until the last one."""

    __slots__ = ("_caller", "_open")

    def __init__(self, caller: Caller, open_calls: dict[_GuardedCall, None]) -> None:
        self._caller: Caller | None = caller
        self._open = open_calls

    def _close(self) -> Caller | None:
        caller, self._caller = self._caller, None
        self._open.pop(self, None)
        return caller

    def on_output(self, stream: Stream, data: bytes) -> None:
        if self._caller is not None:
            _tell(self._caller.on_output, stream, data)

    def on_reply(self, status: int, headers: bytes, body: bytes) -> None:
        caller = self._caller  # `_close` by hand: this is the path of every warm call
        if caller is not None:
            self._caller = None
            self._open.pop(self, None)
            try:
                caller.on_reply(status, headers, body)
            except Exception:
                _log.exception("caller failed on a reply")

    def on_head(self, status: int, headers: bytes) -> None:
        if self._caller is not None:
            _tell(self._caller.on_head, status, headers)

    def on_chunk(self, data: bytes) -> None:
        if self._caller is not None:
            _tell(self._caller.on_chunk, data)

    def on_end(self) -> None:
        if caller := self._close():
            _tell(caller.on_end)

    def on_error(self, error_type: str, message: str, stack: str | None) -> None:
        if caller := self._close():
            _tell(caller.on_error, error_type, message, stack)

    def on_lost(self, end: Exit) -> None:
        if caller := self._close():
            _tell(caller.on_lost, end)


def _tell(hear: Callable[..., object], *event: object) -> None:
    try:
        hear(*event)
    except Exception:
        _log.exception("%r failed", hear)
