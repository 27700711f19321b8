"""An in-process backend for tests and for trying the platform without any sandbox.

Nothing runs: what instances do is scripted by two functions, so every latency, failure, stream
and death that a real backend can show is shown at will, in virtual time where that is wanted.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from hearth.sandbox.base import CallRequest, Exit, Stream, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hearth.model import Version
    from hearth.sandbox.base import Caller, Instance, InstanceListener, Timer, Timers


class Start(msgspec.Struct, kw_only=True):
    """How an instance comes up."""

    after_s: float = 0.0
    dies: Exit | None = None
    """It is gone instead of ready."""
    hangs: bool = False


class Answer(msgspec.Struct, kw_only=True):
    """What an instance does with one call; the first of `hangs, dies, error, stream` wins."""

    after_s: float | None = 0.0
    """None: within the call itself, as no real backend does (benchmarks)."""
    status: int = 200
    headers: bytes = b""
    body: bytes = b""
    stream: tuple[bytes, ...] | None = None
    """Pieces of a streamed answer, sent instead of `body`."""
    error: tuple[str, str, str | None] | None = None
    """Type, message and stack of what the handler raised."""
    dies: Exit | None = None
    hangs: bool = False
    output: tuple[tuple[Stream, bytes], ...] = ()


def _start_at_once(version: Version) -> Start:
    return Start()


def _echo(version: Version, request: CallRequest) -> Answer:
    return Answer(body=request.body)


class StubBackend:
    """Makes instances that do what `starts` and `answers` say; by default they echo the body."""

    name = "stub"

    def __init__(
        self,
        timers: Timers,
        *,
        starts: Callable[[Version], Start] = _start_at_once,
        answers: Callable[[Version, CallRequest], Answer] = _echo,
        stop_s: float = 0.0,
    ) -> None:
        """Script the backend.

        Args:
            timers: an event loop, or `VirtualTime`.
            starts: asked once per instance.
            answers: asked once per call.
            stop_s: how long a stopped instance takes to be gone.
        """
        self.timers = timers
        self.starts = starts
        self.answers = answers
        self.stop_s = stop_s
        self.instances: list[StubInstance] = []
        """Those that are not gone, oldest first."""
        self.started = 0

    async def open(self) -> None:
        """Prepare nothing."""

    def start(self, version: Version, code: str, listener: InstanceListener) -> StubInstance:
        """Begin to start an instance as scripted."""
        self.started += 1
        instance = StubInstance(self, version, listener, f"stub-{self.started}")
        self.instances.append(instance)
        script = self.starts(version)
        if not script.hangs:
            self.timers.call_later(script.after_s, instance.came_up, script)
        return instance

    def missing(self, version: Version) -> tuple[str, ...]:
        """Admit that nothing at all is enforced; strict functions are not refused, though."""
        return ()

    async def close(self) -> None:
        """Stop all instances."""
        for instance in list(self.instances):
            instance.stop("backend closed")


class StubInstance:
    """One pretended sandbox."""

    def __init__(
        self, backend: StubBackend, version: Version, listener: InstanceListener, name: str
    ) -> None:
        """Belong to `backend`; `name` becomes the id."""
        self.id = name
        self.version = version
        self.paused = 0
        self.calls: list[Caller] = []
        self.ahead: list[tuple[CallRequest, Caller]] = []
        self._backend = backend
        self._listener = listener
        self._reason: str | None = None
        self._gone = False

    def came_up(self, script: Start) -> None:
        """Become ready, or die trying."""
        if self._gone or self._reason is not None:
            return
        if script.dies is not None:
            self.die(script.dies)
        else:
            self._listener.on_ready(self, int(script.after_s * 1e9))

    def call(self, request: CallRequest, caller: Caller) -> None:
        """Answer as scripted."""
        answer = self._backend.answers(self.version, request)
        self.calls.append(caller)
        if answer.hangs:
            return
        if answer.after_s is None:
            self._answer(caller, answer)
        else:
            self._backend.timers.call_later(answer.after_s, self._answer, caller, answer)

    def call_ahead(self, calls: Sequence[tuple[CallRequest, Caller]]) -> None:
        """Keep calls until their turn."""
        self.ahead.extend(calls)

    def pause_reading(self) -> None:
        """Count a pause."""
        self.paused += 1

    def resume_reading(self) -> None:
        """Count a pause less."""
        self.paused -= 1

    def usage(self) -> Usage:
        """Know nothing."""
        return Usage()

    def stop(self, reason: str) -> None:
        """Be gone after `stop_s`."""
        if not self._gone and self._reason is None:
            self._reason = reason
            end = Exit(signal=9, reason=reason)
            self._backend.timers.call_later(self._backend.stop_s, self.die, end)

    def die(self, end: Exit) -> None:
        """Be gone now, as if the process had ended like this."""
        if self._gone:
            return
        self._gone = True
        self._backend.instances.remove(self)
        calls = self.calls + [caller for _, caller in self.ahead]
        self.calls, self.ahead = [], []
        for caller in calls:
            caller.on_lost(end)
        self._listener.on_gone(self, end)

    def _answer(self, caller: Caller, answer: Answer) -> None:
        if self._gone or caller not in self.calls:
            return
        for stream, data in answer.output:
            caller.on_output(stream, data)
        if answer.dies is not None:
            self.die(answer.dies)
            return
        self.calls.remove(caller)
        if answer.error is not None:
            caller.on_error(*answer.error)
        elif answer.stream is not None:
            caller.on_head(answer.status, answer.headers)
            for piece in answer.stream:
                caller.on_chunk(piece)
            caller.on_end()
        else:
            caller.on_reply(answer.status, answer.headers, answer.body)
        if self.version.contract == "script":
            self.die(Exit(code=0))
        elif self.ahead and not self.calls and self._reason is None:
            self.call(*self.ahead.pop(0))


class VirtualTime:
    """A clock and timers that move only when told: tests need no sleeps."""

    def __init__(self, now: float = 1_000.0) -> None:
        """Begin at `now`, for the monotonic and the wall clock alike."""
        self._now = now
        self._order = itertools.count()
        self._due: list[tuple[float, int, _VirtualTimer]] = []

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._now

    def time(self) -> float:
        """Return virtual Unix seconds."""
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` once `advance` has passed `delay` seconds."""
        timer = _VirtualTimer(callback, args)
        heapq.heappush(self._due, (self._now + max(0.0, delay), next(self._order), timer))
        return timer

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything due within it happen in order."""
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            due, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, due)
            timer.fire()
        self._now = end


class _VirtualTimer:
    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback(*self._args)


def _satisfies(backend: StubBackend, instance: StubInstance) -> Instance:
    """Let the type checker prove that the stub keeps the contract's shape."""
    return instance
