"""Takes calls for versions: finds the pool, follows each call to its end, settles its record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hearth.engine.call import Invocation
from hearth.engine.pool import Pool
from hearth.engine.records import Listener, Recorder
from hearth.engine.registry import Registry
from hearth.engine.resources import Budget, Share
from hearth.errors import HearthError, ShuttingDown
from hearth.model import Clock, SystemClock
from hearth.sandbox.guarded import GuardedBackend

if TYPE_CHECKING:
    from hearth.config import Settings
    from hearth.engine.invocation import InvocationHandle, Sink
    from hearth.model import InvocationRecord, Status, Version
    from hearth.sandbox.base import Backend, CallRequest, Timers

STOP_S = 5.0
"""How long `drain` waits for killed instances to be gone."""


class Observer(Protocol):
    """Counts calls (`telemetry.metrics`); called on the hot path, so it must be quick."""

    def finished(
        self,
        version: Version,
        status: Status,
        duration_ns: int | None,
        queue_wait_ns: int,
        init_ns: int | None,
    ) -> None:
        """Count an ended call; no `duration_ns`: it never ran, `init_ns` for cold ones only."""

    def refused(self, version: Version, error_type: str) -> None:
        """Count a call that was not accepted, e.g. `QueueFull`."""

    def forget(self, function: str) -> None:
        """Drop what was counted for a function that is no more."""


class Reply(NamedTuple):
    """A whole answer, as `Invoker.invoke` returns it."""

    status: int
    headers: bytes
    body: bytes


class Invoker:
    """Runs calls; owns the pools of all versions and what they share."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        *,
        timers: Timers,
        registry: Registry,
        code_of: Callable[[Version], str],
        observer: Observer | None = None,
        on_records: tuple[Listener, ...] = (),
        clock: Clock | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Begin without pools; they come with the first call of a version.

        Args:
            settings: sections `execution` and `retention` are used.
            backend: makes instances; it is guarded here.
            timers: the event loop.
            registry: knows which version comes after one that retires.
            code_of: finds the directory of a version's unpacked bundle.
            observer: counts.
            on_records: hear batches of records of finished synchronous calls.
            clock: default: the machine's.
            budget: default: made from `settings`.
        """
        clock = clock or SystemClock()
        self.backend: Backend = GuardedBackend(backend)
        self.timers = timers
        self.clock = clock
        self.time = clock.time
        self.monotonic = clock.monotonic
        self.code_of = code_of
        self._registry = registry
        self.budget = budget or Budget(settings.execution, clock=clock)
        self.budget.claimants = self.pools
        self.cold_start_timeout_s = settings.execution.cold_start_timeout
        self.idle_ttl_s: float = settings.execution.warm_instance_ttl
        self.log_bytes: int = settings.retention.log_bytes
        self._result_bytes: int = settings.retention.result_bytes
        self._observer = observer
        self._recorder = Recorder(timers, on_records)
        self._pools: dict[tuple[str, int], Pool] = {}
        self._leaving: dict[Pool, None] = {}
        self._shares: dict[str, Share] = {}
        self._live: dict[str, Invocation] = {}
        self._quiet: list[Callable[[], None]] = []
        self._closing = False

    # --- calls -----------------------------------------------------------------------------------

    def submit(
        self,
        version: Version,
        request: CallRequest,
        sink: Sink,
        *,
        asynchronous: bool = False,
        keep_result: bool = False,
        attempts: int = 1,
        traceparent: str | None = None,
        on_settled: Callable[[Invocation], None] | None = None,
    ) -> Invocation:
        """Begin a call; never raises: refusals reach `sink.fail` too, even before this returns.

        Args:
            version: what to run.
            request: becomes the engine's; `deadline` is set at hand-over.
            sink: hears the answer.
            asynchronous: its record is kept by the durable queue, from `on_settled`.
            keep_result: keep the answer's beginning in the record, and measure memory.
            attempts: which run of a queued call this is.
            traceparent: for the record.
            on_settled: told last, when the record is complete.
        """
        now = self.monotonic()
        pool = self._pools.get((version.function_id, version.number)) or self._open_pool(version)
        invocation = Invocation(self, pool, request, sink, now)
        if asynchronous or keep_result or traceparent is not None or on_settled is not None:
            invocation.asynchronous = asynchronous
            invocation.attempts = attempts
            invocation.traceparent = traceparent
            invocation.on_settled = on_settled
            if keep_result:
                invocation.keep_result(self._result_bytes)
        if self._closing:
            invocation.refuse(ShuttingDown(retry_after_s=1))
            return invocation
        self._live[invocation.id] = invocation
        pool.submit(invocation, now)
        return invocation

    async def invoke(
        self, version: Version, request: CallRequest, **options: Any
    ) -> tuple[InvocationRecord, Reply | None]:
        """Run a call to its end and return its record, and the answer if there was one.

        Args:
            version: what to run.
            request: what with.
            options: as for `submit`, without `on_settled`; the result is kept.

        Raises:
            HearthError: the call was refused, e.g. QueueFull, NoCapacity, ShuttingDown.
        """
        collected = _Collected()
        done = asyncio.get_running_loop().create_future()
        invocation = self.submit(
            version,
            request,
            collected,
            on_settled=lambda _: _resolve(done),
            **{"keep_result": True, **options},
        )
        if invocation.refused:
            raise invocation.error or ShuttingDown()
        try:
            await done
        except asyncio.CancelledError:
            invocation.cancel("nobody waits for it any more")
            raise
        return invocation.record(), collected.answer

    def find(self, invocation_id: str) -> Invocation | None:
        """Return a call that is queued or running here."""
        return self._live.get(invocation_id)

    def live(self) -> Iterable[Invocation]:
        """Return all calls that are queued or running here."""
        return self._live.values()

    def flush_records(self) -> None:
        """Hand finished records on now, so that whoever looks for one next finds it."""
        self._recorder.flush()

    def cancel(self, invocation_id: str, reason: str) -> bool:
        """Cancel a call that is queued or running here; False if it is not."""
        invocation = self._live.get(invocation_id)
        if invocation is None:
            return False
        invocation.cancel(reason)
        return True

    # --- versions --------------------------------------------------------------------------------

    async def warm(self, version: Version) -> None:
        """Have an instance of `version` ready.

        Raises:
            HearthError: it cannot be loaded (InitError with the function's stack) or has no room.
        """
        done: asyncio.Future[HearthError | None] = asyncio.get_running_loop().create_future()
        self._pool(version).warm(lambda error: _resolve(done, error))
        error = await done
        if error is not None:
            raise error

    def keep_warm(self, version: Version) -> None:
        """Start what `scale.min_instances` asks for, now and from now on."""
        self._pool(version).keep_warm()

    async def retire(self, version: Version, reason: str) -> None:
        """Take `version` out of service, as `begin_to_retire`, until nothing of it is left."""
        pool = self.begin_to_retire(version, reason)
        if pool is not None:
            await self._when_quiet(lambda: pool not in self._leaving)

    def begin_to_retire(self, version: Version, reason: str) -> Pool | None:
        """Take `version` out of service, e.g. with `replaced by version 4`.

        Calls that wait go to the version the registry has as latest (or hear `reason`), those
        that run end in peace. Returns the pool that empties, None if there is none.
        """
        pool = self._pools.pop((version.function_id, version.number), None)
        if pool is not None:
            self._leaving[pool] = None
            entry = self._registry.routes.get(version.function_id)
            successor = entry.version if entry and entry.version.number != version.number else None
            pool.drain(reason, self._pool(successor) if successor is not None else None)
        return pool

    def forget(self, function: str) -> None:
        """Drop the counts of a removed function, so that names do not pile up."""
        if self._observer is not None:
            self._observer.forget(function)

    def pools(self) -> list[Pool]:
        """Return all pools, those that are being drained included."""
        return [*self._pools.values(), *self._leaving]

    async def drain(self, grace_s: float) -> None:
        """Refuse new calls, let the others end within `grace_s` seconds, then stop everything."""
        self._closing = True
        if self._live:
            await _wait(self._when_quiet(lambda: not self._live), grace_s)
        for invocation in list(self._live.values()):
            invocation.end(ShuttingDown())
        for key in list(self._pools):
            pool = self._pools.pop(key)
            self._leaving[pool] = None
            pool.drain("the node is shutting down", None)
        for pool in list(self._leaving):
            pool.stop("the node is shutting down")
        if self._leaving:
            await _wait(self._when_quiet(lambda: not self._leaving), STOP_S)
        self._recorder.flush()

    def _pool(self, version: Version) -> Pool:
        return self._pools.get((version.function_id, version.number)) or self._open_pool(version)

    def _open_pool(self, version: Version) -> Pool:
        share = self._shares.setdefault(version.function_id, Share())
        pool = Pool(version, self, share, on_empty=self._pool_empty)
        self._pools[version.function_id, version.number] = pool
        return pool

    def _pool_empty(self, pool: Pool) -> None:
        self._leaving.pop(pool, None)
        function_id = pool.version.function_id
        if not any(p.version.function_id == function_id for p in self.pools()):
            self._shares.pop(function_id, None)
        self._tell_quiet()

    # --- what invocations report -----------------------------------------------------------------

    def settled(self, invocation: Invocation) -> None:
        """Count and record a call whose record is complete."""
        self._live.pop(invocation.id, None)
        if self._observer is not None:
            run, wait, init = invocation.durations_ns()
            self._observer.finished(invocation.version, invocation.status, run, wait, init)
        if not invocation.asynchronous:
            self._recorder.add(invocation)
        if self._quiet:
            self._tell_quiet()

    def refused(self, invocation: Invocation, error: HearthError) -> None:
        """Count a call that was not accepted."""
        self._live.pop(invocation.id, None)
        if self._observer is not None:
            self._observer.refused(invocation.version, error.type)

    def _when_quiet(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """Return a future that is done as soon as `condition` holds after something ended."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def check() -> None:
            if condition():
                _resolve(done)

        self._quiet.append(check)
        done.add_done_callback(lambda _: self._quiet.remove(check))
        check()
        return done

    def _tell_quiet(self) -> None:
        for check in list(self._quiet):
            check()


class _Collected:
    """A sink that keeps the whole answer."""

    def __init__(self) -> None:
        self.answer: Reply | None = None
        self.error: HearthError | None = None
        self._head: tuple[int, bytes] = (0, b"")
        self._body = bytearray()

    def reply(self, invocation: InvocationHandle, status: int, headers: bytes, body: bytes) -> None:
        self.answer = Reply(status, headers, body)

    def head(self, invocation: InvocationHandle, status: int, headers: bytes) -> None:
        self._head = (status, headers)

    def chunk(self, invocation: InvocationHandle, data: bytes) -> None:
        self._body += data

    def end(self, invocation: InvocationHandle) -> None:
        self.answer = Reply(*self._head, bytes(self._body))

    def fail(self, invocation: InvocationHandle, error: HearthError) -> None:
        self.error = error


def _resolve(future: asyncio.Future[Any], value: Any = None) -> None:
    if not future.done():
        future.set_result(value)


async def _wait(future: asyncio.Future[None], seconds: float) -> None:
    await asyncio.wait([future], timeout=seconds)
    future.cancel()
