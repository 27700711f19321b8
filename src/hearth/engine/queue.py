"""Durable asynchronous calls: on disk before the 202, run at least once, settled once.

One dispatcher claims what is due, oldest first, and runs it like any other call. What the node has
no room for goes back to the queue for a while and is not counted as an attempt. A node that dies
leaves its claimed calls in the store, where the next start queues them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from hearth.errors import (
    HearthError,
    NoCapacity,
    NodeRestarted,
    NotFound,
    QueueFull,
    ShuttingDown,
    TooManyRequests,
)
from hearth.model import Failure, InvocationRecord
from hearth.sandbox.base import CallRequest
from hearth.store.base import QueuedCall

if TYPE_CHECKING:
    from hearth.config import Queue as QueueSettings
    from hearth.engine.call import Invocation
    from hearth.engine.invocation import InvocationHandle
    from hearth.engine.invoke import Invoker
    from hearth.engine.registry import Registry
    from hearth.model import Clock, Version
    from hearth.store.base import Store

RETRY_S = 0.5
"""How long a call that found no room rests before it is claimed again."""
EARLY_S = 0.05
"""By how much the store's clock may be behind the loop's timers."""
STORE_RETRY_S = 1.0
"""How long to wait after the store failed."""

_log = logging.getLogger(__name__)


class Queue:
    """Accepts, runs and settles asynchronous calls."""

    def __init__(
        self,
        settings: QueueSettings,
        *,
        store: Store,
        registry: Registry,
        invoker: Invoker,
        clock: Clock,
    ) -> None:
        """Work with these parts of the node; nothing runs before `start`."""
        self._settings = settings
        self._store = store
        self._registry = registry
        self._invoker = invoker
        self._clock = clock
        self._wake = asyncio.Event()
        self._sizes: dict[str, int] = {}
        """Bytes of each accepted call that is not settled."""
        self._bytes = 0
        self._running = 0
        self._dispatcher: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Take up what is queued and begin to run it; the store is open."""
        self._sizes = await self._store.queue_sizes()
        self._bytes = sum(self._sizes.values())
        self._wake.set()
        self._dispatcher = asyncio.create_task(self._dispatch(), name="queue dispatcher")

    @property
    def alive(self) -> bool:
        """Whether queued calls are being run (for readiness)."""
        return self._dispatcher is not None and not self._dispatcher.done()

    @property
    def depth(self) -> int:
        """Accepted calls that are not settled."""
        return len(self._sizes)

    @property
    def bytes(self) -> int:
        """What they take together: bodies, headers, paths and queries."""
        return self._bytes

    async def enqueue(
        self, version: Version, request: CallRequest, *, traceparent: str | None = None
    ) -> str:
        """Return the call's id once the call is on disk.

        Raises:
            QueueFull: `queue.max_depth` or `queue.max_bytes` is reached.
            ShuttingDown: the node is stopping.
        """
        if self._stopping:
            raise ShuttingDown(retry_after_s=1)
        self._claim_room(request)
        try:
            await self._store.enqueue(self._queued(version, request, traceparent))
        except BaseException:
            self._return_room(request.id)
            raise
        self._wake.set()
        return request.id

    async def cancel(self, invocation_id: str) -> bool:
        """End a call that is queued or running, a synchronous one too; False if it is neither."""
        for _ in range(2):  # twice: it may be claimed between the two looks
            if self._invoker.cancel(invocation_id, "asked for by the API"):
                return True
            if await self._store.cancel_queued(invocation_id):
                self._return_room(invocation_id)
                return True
        return False

    async def stop(self) -> None:
        """Claim no more calls; those that run go on until the invoker is drained."""
        self._stopping = True
        self._wake.set()
        if self._dispatcher is not None:
            await self._dispatcher

    async def close(self) -> None:
        """Wait until every outcome is stored; after `stop` and `Invoker.drain`."""
        while self._writing:
            await asyncio.gather(*self._writing, return_exceptions=True)

    def _claim_room(self, request: CallRequest) -> None:
        settings, limit = self._settings, None
        size = sum(map(len, (request.path, request.query, request.headers, request.body)))
        if len(self._sizes) >= settings.max_depth:
            limit = f"queue.max_depth={settings.max_depth}"
        elif self._bytes + size > settings.max_bytes:
            limit = f"queue.max_bytes={settings.max_bytes}"
        if limit is not None:
            raise QueueFull("the queue of the node is full", limit=limit, retry_after_s=1)
        self._sizes[request.id] = size
        self._bytes += size

    def _return_room(self, invocation_id: str) -> None:
        self._bytes -= self._sizes.pop(invocation_id, 0)

    # --- running -------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            room = self._settings.concurrency - self._running
            if room <= 0 or self._stopping:
                continue
            try:
                calls = await self._store.claim(room)
            except Exception:
                _log.exception("the queue cannot be read; trying again")
                await asyncio.sleep(STORE_RETRY_S)
                self._wake.set()
                continue
            for call in calls:
                self._run(call)
            if len(calls) == room:
                self._wake.set()

    def _run(self, call: QueuedCall) -> None:
        self._running += 1
        version = self._version(call)
        if self._stopping:
            self._write(self._release(call))
        elif version is None:
            self._refuse(call, NotFound(f"function {call.function} was removed"))
        elif call.attempts > self._settings.max_attempts:
            limit = f"queue.max_attempts={self._settings.max_attempts}"
            self._refuse(call, NodeRestarted(limit=limit))
        else:
            invocation = self._invoker.submit(
                version,
                _request(call),
                _DEAF,
                asynchronous=True,
                keep_result=True,
                attempts=call.attempts,
                traceparent=call.traceparent,
                on_settled=lambda settled: self._settled(call, settled),
            )
            if invocation.refused:
                self._settled(call, invocation)

    def _version(self, call: QueuedCall) -> Version | None:
        """Return the version it was accepted for, or the latest where that is gone."""
        entry = self._registry.routes.get(call.function_id)
        return entry.versions.get(call.version, entry.version) if entry else None

    def _settled(self, call: QueuedCall, invocation: Invocation) -> None:
        if isinstance(invocation.error, (NoCapacity, TooManyRequests)):
            self._write(self._release(call))
        else:
            self._end(call, _since_accepted(invocation.record(), call))

    def _refuse(self, call: QueuedCall, error: HearthError) -> None:
        """Settle a call that is not run (again)."""
        self._end(call, _failed(call, error, self._clock.time()))

    def _end(self, call: QueuedCall, record: InvocationRecord) -> None:
        self._write(self._settle(record))

    async def _settle(self, record: InvocationRecord) -> None:
        await self._persist(lambda: self._store.settle(record))
        self._return_room(record.id)
        self._running -= 1
        self._wake.set()

    async def _release(self, call: QueuedCall) -> None:
        await self._persist(lambda: self._store.release(call.id, RETRY_S))
        self._running -= 1
        self._invoker.timers.call_later(RETRY_S + EARLY_S, self._wake.set)
        self._wake.set()

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write until it is written; a node that stops leaves the rest to its next start."""
        while True:
            try:
                await write()
                return
            except Exception:
                _log.exception("the outcome of a queued call cannot be stored; trying again")
                if self._stopping:
                    return
                await asyncio.sleep(STORE_RETRY_S)

    def _write(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _queued(
        self, version: Version, request: CallRequest, traceparent: str | None
    ) -> QueuedCall:
        return QueuedCall(
            id=request.id,
            function_id=version.function_id,
            function=version.function,
            version=version.number,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            traceparent=traceparent,
            created_at=self._clock.time(),
        )


class _Deaf:
    """A sink that keeps nothing: the record has the result."""

    def reply(self, invocation: InvocationHandle, status: int, headers: bytes, body: bytes) -> None:
        pass

    def head(self, invocation: InvocationHandle, status: int, headers: bytes) -> None:
        pass

    def chunk(self, invocation: InvocationHandle, data: bytes) -> None:
        pass

    def end(self, invocation: InvocationHandle) -> None:
        pass

    def fail(self, invocation: InvocationHandle, error: HearthError) -> None:
        pass


_DEAF = _Deaf()


def _request(call: QueuedCall) -> CallRequest:
    return CallRequest(
        id=call.id,
        method=call.method,
        path=call.path,
        query=call.query,
        headers=call.headers,
        body=call.body,
        deadline=0.0,
    )


def _since_accepted(record: InvocationRecord, call: QueuedCall) -> InvocationRecord:
    """Return the record with the time in the queue counted: the call arrived with its 202."""
    waited_until = record.started_at or record.finished_at or call.created_at
    wait_ns = max(0, int((waited_until - call.created_at) * 1e9))
    metrics = msgspec.structs.replace(record.metrics, queue_wait=wait_ns)
    return msgspec.structs.replace(record, created_at=call.created_at, metrics=metrics)


def _failed(call: QueuedCall, error: HearthError, now: float) -> InvocationRecord:
    return InvocationRecord(
        id=call.id,
        function_id=call.function_id,
        function=call.function,
        version=call.version,
        status="failed",
        error=Failure(type=error.type, message=error.message),
        asynchronous=True,
        attempts=call.attempts,
        traceparent=call.traceparent,
        created_at=call.created_at,
        finished_at=now,
    )
