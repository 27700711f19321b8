"""Counters of the hot path, and everything `/metrics` shows.

Calls are counted in plain lists of integers (about 0.5 µs a call); text is made only when somebody
asks, in slices short enough that the event loop does not notice.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from hearth.model import Status, Version
from hearth.telemetry import exposition
from hearth.telemetry.exposition import Histogram
from hearth.telemetry.logs import get_logger
from hearth.telemetry.process import process_samples

Number = int | float
_SLICE_S = 0.0005
_CHUNK_BYTES = 64 << 10

_MS = 1_000_000
_DURATION = tuple(
    int(ms * _MS) for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 500, 1000, 5000, 30000)
)
_WAIT = tuple(int(ms * _MS) for ms in (0.1, 1, 10, 100, 1000, 10000))
_INIT = tuple(int(ms * _MS) for ms in (1, 2.5, 5, 10, 25, 50, 100, 500, 1000, 10000))

_CODES: Mapping[Status, str] = {
    "succeeded": "200",
    "failed": "502",
    "timeout": "504",
    "cancelled": "499",
}
"""What existing dashboards call the outcomes; the function's own HTTP status is not a label."""


class PoolSample(NamedTuple):
    """What a pool looks like now; several of one function are added up."""

    function: str
    queued: int
    instances: Mapping[str, int]
    """How many by state, e.g. `{"idle": 2, "busy": 1}`."""
    memory_bytes: int | None = None
    """Used by all instances now; None: cannot be measured here."""
    cpu_seconds: float | None = None
    """Used since the function was deployed, by instances that are gone included."""


class _Outcome:
    __slots__ = ("calls", "duration")

    def __init__(self) -> None:
        self.calls = 0
        self.duration = Histogram(_DURATION)


class _Function:
    __slots__ = ("cold_starts", "init", "outcomes", "wait")

    def __init__(self) -> None:
        self.outcomes: dict[Status, _Outcome] = {status: _Outcome() for status in _CODES}
        self.wait = Histogram(_WAIT)
        self.init = Histogram(_INIT)
        self.cold_starts = 0


class _Scalar(NamedTuple):
    name: str
    help: str
    kind: Literal["gauge", "counter"]
    read: Callable[[], Number | Awaitable[Number]]


class Metrics:
    """Observes invocations and renders the text that Prometheus scrapes.

    Belongs to the event loop; no method takes a lock.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._functions: dict[str, _Function] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._scalars: list[_Scalar] = []
        self._pools: Callable[[], Iterable[PoolSample]] = tuple

    # --- counting ------------------------------------------------------------------------------

    def finished(
        self,
        version: Version,
        status: Status,
        duration_ns: int | None,
        queue_wait_ns: int | None,
        init_ns: int | None,
    ) -> None:
        """Count one invocation that ended; the engine's observer.

        Args:
            version: what was called.
            status: how it ended; not `queued` or `running`.
            duration_ns: hand-over to answer; None: it never reached an instance.
            queue_wait_ns: arrival to hand-over; None as above.
            init_ns: what the cold start took; None: it was a warm call.
        """
        function = self._functions.get(version.function)
        if function is None:
            function = self._functions[version.function] = _Function()
        outcome = function.outcomes[status]
        outcome.calls += 1
        # Histogram.observe written out: a method call costs as much as what it does.
        if duration_ns is not None:
            histogram = outcome.duration
            histogram.buckets[bisect_left(_DURATION, duration_ns)] += 1
            histogram.total += duration_ns
        if queue_wait_ns is not None:
            histogram = function.wait
            histogram.buckets[bisect_left(_WAIT, queue_wait_ns)] += 1
            histogram.total += queue_wait_ns
        if init_ns is not None:
            function.cold_starts += 1
            function.init.observe(init_ns)

    def refused(self, version: Version, error_type: str) -> None:
        """Count a call that was not accepted, by why, e.g. `QueueFull`."""
        key = (version.function, error_type)
        self._refused[key] = self._refused.get(key, 0) + 1

    def forget(self, function: str) -> None:
        """Drop what was counted for a deleted function, so that names do not pile up."""
        self._functions.pop(function, None)
        for key in [key for key in self._refused if key[0] == function]:
            del self._refused[key]

    # --- what others know ----------------------------------------------------------------------

    def expose(
        self,
        name: str,
        help_text: str,
        read: Callable[[], Number | Awaitable[Number]],
        *,
        kind: Literal["gauge", "counter"] = "gauge",
    ) -> None:
        """Show a single number, read anew (awaited if need be) at each scrape."""
        self._scalars.append(_Scalar(name, help_text, kind, read))

    def expose_pools(self, read: Callable[[], Iterable[PoolSample]]) -> None:
        """Show the pools; `read` may be a generator that measures one pool per step."""
        self._pools = read

    # --- showing -------------------------------------------------------------------------------

    async def render(self) -> bytes:
        """Return the whole exposition, in the Prometheus text format 0.0.4."""
        whole = io.BytesIO()  # grows piece by piece; joining 8 MB at once stalls the loop for 4 ms
        async for chunk in self.stream():
            whole.write(chunk)
        return whole.getvalue()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the exposition in pieces, giving way to the event loop every half millisecond."""
        scalars = [piece for scalar in self._scalars async for piece in _scalar(scalar)]
        pieces: list[str] = []
        size = 0
        pause_at = time.perf_counter() + _SLICE_S
        for piece in self._pieces(scalars):
            pieces.append(piece)
            size += len(piece)
            if size >= _CHUNK_BYTES:
                yield "".join(pieces).encode()
                pieces, size = [], 0
            if time.perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + _SLICE_S
        yield "".join(pieces).encode()

    def _pieces(self, scalars: list[str]) -> Iterator[str]:
        # Families must not be mixed, so every family walks all functions. One piece is small.
        functions = sorted(self._functions.items())
        yield from _invocations(functions)
        yield from _refusals(sorted(self._refused.items()))
        yield from _starts_and_waits(functions)
        yield from _for_existing_dashboards(functions)
        yield from _pool_families(_readable(self._pools))
        yield from scalars
        yield from process_samples()


_Functions = list[tuple[str, _Function]]


def _invocations(functions: _Functions) -> Iterator[str]:
    yield exposition.head("hearth_invocations_total", "counter", "Invocations that ended.")
    for name, function in functions:
        for status, outcome in function.outcomes.items():
            if outcome.calls:
                labels = exposition.labels(function=name, status=status)
                yield exposition.sample("hearth_invocations_total", labels, outcome.calls)
    family = "hearth_invocation_duration_seconds"
    yield exposition.head(family, "histogram", "Hand-over to an instance until its answer.")
    for name, function in functions:
        for status, outcome in function.outcomes.items():
            if outcome.calls:
                labels = exposition.labels(function=name, status=status)
                yield outcome.duration.render(family, labels)


def _refusals(refused: list[tuple[tuple[str, str], int]]) -> Iterator[str]:
    family = "hearth_invocations_refused_total"
    yield exposition.head(family, "counter", "Calls that were not accepted, by the reason.")
    for (name, reason), calls in refused:
        yield exposition.sample(family, exposition.labels(function=name, type=reason), calls)


def _starts_and_waits(functions: _Functions) -> Iterator[str]:
    yield exposition.head("hearth_cold_starts_total", "counter", "Calls that waited for a start.")
    for name, function in functions:
        labels = exposition.labels(function=name)
        yield exposition.sample("hearth_cold_starts_total", labels, function.cold_starts)
    yield exposition.head("hearth_init_seconds", "histogram", "What cold starts took.")
    for name, function in functions:
        if function.cold_starts:
            yield function.init.render("hearth_init_seconds", exposition.labels(function=name))
    family = "hearth_queue_wait_seconds"
    yield exposition.head(family, "histogram", "Arrival until hand-over to an instance.")
    for name, function in functions:
        yield function.wait.render(family, exposition.labels(function=name))


def _for_existing_dashboards(functions: _Functions) -> Iterator[str]:
    counter, histogram = "gateway_function_invocation_total", "gateway_functions_seconds"
    yield exposition.head(counter, "counter", "As hearth_invocations_total, under a known name.")
    for name, function in functions:
        for status, outcome in function.outcomes.items():
            if outcome.calls:
                labels = exposition.labels(function_name=f"{name}.default", code=_CODES[status])
                yield exposition.sample(counter, labels, outcome.calls)
    yield exposition.head(
        histogram, "histogram", "As hearth_invocation_duration_seconds, under a known name."
    )
    for name, function in functions:
        for status, outcome in function.outcomes.items():
            if outcome.calls:
                labels = exposition.labels(function_name=f"{name}.default", code=_CODES[status])
                yield outcome.duration.render(histogram, labels)


def _readable(read: Callable[[], Iterable[PoolSample]]) -> Iterator[PoolSample]:
    try:
        yield from read()
    except Exception as error:  # what cannot be measured must not hide everything else
        get_logger("metrics").warning("not readable", metric="pools", error=repr(error))


def _pool_families(samples: Iterable[PoolSample]) -> Iterator[str]:
    queued: dict[str, Number] = {}
    instances: dict[str, Number] = {}
    memory: dict[str, Number] = {}
    cpu: dict[str, Number] = {}
    for pool in samples:
        labels = exposition.labels(function=pool.function)
        queued[labels] = queued.get(labels, 0) + pool.queued
        for state, count in pool.instances.items():
            by_state = exposition.labels(function=pool.function, state=state)
            instances[by_state] = instances.get(by_state, 0) + count
        if pool.memory_bytes is not None:
            memory[labels] = memory.get(labels, 0) + pool.memory_bytes
        if pool.cpu_seconds is not None:
            cpu[labels] = cpu.get(labels, 0) + pool.cpu_seconds
        yield ""  # a place to pause: measuring a pool takes a few file reads
    yield from exposition.family(
        "hearth_queue_depth", "gauge", "Calls waiting for an instance.", queued
    )
    yield from exposition.family("hearth_instances", "gauge", "Live instances.", instances)
    yield from exposition.family(
        "hearth_instance_memory_bytes", "gauge", "Memory of all instances.", memory
    )
    yield from exposition.family(
        "hearth_instance_cpu_seconds_total", "counter", "CPU time of all instances.", cpu
    )


async def _scalar(scalar: _Scalar) -> AsyncIterator[str]:
    try:
        value = scalar.read()
        if inspect.isawaitable(value):
            value = await value
    except Exception as error:  # one gauge that cannot be read must not hide all others
        get_logger("metrics").warning("not readable", metric=scalar.name, error=repr(error))
        return
    yield exposition.head(scalar.name, scalar.kind, scalar.help)
    yield exposition.sample(scalar.name, "", value)
