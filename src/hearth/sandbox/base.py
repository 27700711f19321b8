"""The contract between the engine and whatever runs functions.

Everything happens on the node's event loop, in plain callbacks: no method here blocks and none is
a coroutine, because a task per call costs more than the rest of the path (docs/adr/0002).

Who owns what
- A `Backend` makes instances. It owns every kernel or engine object behind them and removes each
  trace of an instance before it reports it gone.
- An `Instance` is handed out by `Backend.start` at once, still `starting`. Its listener hears
  `on_ready` at most once, then `on_gone` exactly once, last.
- A call is claimed by the engine: at most `limits.instance_concurrency` are under way on an
  instance. For each accepted `call` its `Caller` hears exactly one of `on_reply`, `on_error`,
  `on_lost`, or `on_head`, `on_chunk`*, then `on_end` | `on_error` | `on_lost`. What the call wrote
  to stdout and stderr is delivered by `on_output` before that last event.
- After `on_gone` every method of the instance is harmless and does nothing.
- `stop` may be called at any time, any number of times; the first reason is kept and comes back in
  `Exit.reason`. A call under way is lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from hearth.model import Version

Stream = Literal["stdout", "stderr"]

MAX_AHEAD = 8
"""Most calls sent ahead to one instance, behind the one that runs."""


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None:
        """Let it not happen."""


class Timers(Protocol):
    """What of an event loop the engine and the stub need; tests bring `stub.VirtualTime`."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` in `delay` seconds."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance ended."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    memory_limit: int | None = None
    memory_peak: int | None = None
    cpu_ns: int | None = None
    reason: str | None = None
    """What `stop` was told, or why the backend ended it (`protocol violation: …`)."""
    violation: bool = False
    """The process broke the frame protocol."""
    response_too_large: bool = False
    """An answer went over `limits.response_bytes`."""
    init_failure: dict[str, Any] | None = None
    """`type`, `message`, `stack` of a load that failed before `on_ready`."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance has used so far; None: cannot be measured here."""

    memory_now: int | None = None
    memory_peak: int | None = None
    cpu_ns: int | None = None


class CallRequest(msgspec.Struct):
    """What a function is called with; the header block is as in `hearth_runtime.frames`."""

    id: str
    method: bytes
    path: bytes
    query: bytes
    headers: bytes
    body: bytes
    deadline: float
    """Unix seconds, for the function's information; the engine enforces it."""


class Caller(Protocol):
    """Who waits for a call."""

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Take what the call wrote; any number of times, before the last event."""

    def on_reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Take a whole answer; last event."""

    def on_head(self, status: int, headers: bytes) -> None:
        """Take the head of a streamed answer."""

    def on_chunk(self, data: bytes) -> None:
        """Take a piece of a streamed answer."""

    def on_end(self) -> None:
        """Complete a streamed answer; last event."""

    def on_error(self, error_type: str, message: str, stack: str | None) -> None:
        """Take a failure that the process survived (or a script's exit code); last event."""

    def on_lost(self, end: Exit) -> None:
        """Learn that the instance ended under the call; last event."""


class InstanceListener(Protocol):
    """Who owns an instance (its pool)."""

    def on_ready(self, instance: Instance, init_ns: int) -> None:
        """Learn that the function is loaded: calls may be made."""

    def on_output(self, instance: Instance, stream: Stream, data: bytes) -> None:
        """Take what was written outside any call."""

    def on_gone(self, instance: Instance, end: Exit) -> None:
        """Nothing of it is left; always the last event."""


class Instance(Protocol):
    """One live sandbox serving one version."""

    id: str

    def call(self, request: CallRequest, caller: Caller) -> None:
        """Hand over one call. The engine only calls an instance that is ready and has room."""

    def call_ahead(self, calls: Sequence[tuple[CallRequest, Caller]]) -> None:
        """Hand over calls behind those under way, at most `MAX_AHEAD`, in one go.

        Only for instances that take one call at a time. They are answered strictly in order; a call
        whose turn has not come when the instance ends has not run, although it hears `on_lost`.
        """

    def pause_reading(self) -> None:
        """Stop delivering chunks until `resume_reading`: the client is slower than the function."""

    def resume_reading(self) -> None:
        """Deliver chunks again."""

    def usage(self) -> Usage:
        """Measure now (a few file reads: not for the hot path)."""

    def stop(self, reason: str) -> None:
        """Kill everything inside at once; `on_gone` follows."""


class Backend(Protocol):
    """A way of making instances."""

    name: str

    async def open(self) -> None:
        """Prepare zygotes and spares.

        Raises:
            IsolationUnavailable: the host cannot enforce what the settings ask for.
        """

    def start(self, version: Version, code: str, listener: InstanceListener) -> Instance:
        """Begin to start an instance of `version` whose unpacked bundle is the directory `code`."""

    def missing(self, version: Version) -> tuple[str, ...]:
        """Name what `version` asks for and this backend cannot enforce, one sentence each."""

    async def close(self) -> None:
        """Stop all instances and remove every trace."""
