"""The embedded store: SQLite behind one writer thread and one reader thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hearth.config import Retention
from hearth.model import AuditEntry, Clock, Function, InvocationRecord, Key, SystemClock, Version
from hearth.store import calls, deployed, records
from hearth.store.base import QueuedCall
from hearth.store.database import DirectoryLock, connect_reader, connect_writer, explain, migrate
from hearth.store.retention import Trimmer
from hearth.store.writer import Writer
from hearth.telemetry.logs import get_logger

T = TypeVar("T")

_SWEEP_S = 60.0
_SWEEP_AGAIN_S = 1.0
_audit = msgspec.json.Decoder(AuditEntry)


class SqliteStore:
    """Implements `hearth.store.base.Store` in one file, `hearth.db`, of one data directory.

    All methods belong to the event loop that `open` ran on. Every coroutine that changes something
    returns after COMMIT and fsync; records and audit entries follow behind, within 0.1 s.
    Each may raise StoreError: the disk is full, or the database is damaged.
    """

    def __init__(
        self, path: Path | str, retention: Retention | None = None, clock: Clock | None = None
    ) -> None:
        """Name the database file; nothing is touched before `open`."""
        self._path = Path(path)
        self._retention = retention or Retention()
        self._clock = clock or SystemClock()
        # Rows must be small beside the limits, because retention removes whole rows.
        self._batch_records = min(500, max(1, self._retention.max_count // 10))
        self._trimmer = Trimmer(self._retention, self._clock)
        self._lock: DirectoryLock | None = None
        self._closing = False
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._writer: Writer
        self._reader: sqlite3.Connection
        self._records: records.RecordBuffer
        self._threads: ThreadPoolExecutor

    # --- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        """Lock the data directory, migrate, and queue again what a dead node left running.

        Raises:
            ConfigError: another node uses the directory, or a newer Hearth wrote the database.
            StoreError: the database is damaged, or the disk is full.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(self._path.parent)
        try:
            connection = await asyncio.to_thread(self._prepare)
            self._reader = connect_reader(self._path)
        except BaseException:
            self._lock.release()
            self._lock = None
            raise
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._writer = Writer(connection, self._path, tidy=self._trimmer)
        self._records = records.RecordBuffer(
            self._flush, batch_records=self._batch_records, batch_bytes=self._batch_bytes()
        )
        self._closing = False
        self._sweep()

    def _prepare(self) -> sqlite3.Connection:
        connection = connect_writer(self._path)
        try:
            migrate(connection, self._path)
            calls.recover(connection)
        except sqlite3.Error as error:
            connection.close()
            raise explain(error, self._path) from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Write what is pending, close, and give up the lock; harmless when not open."""
        if self._lock is None:
            return
        self._closing = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await self._records.drain()
        self._records.stop()
        await asyncio.to_thread(self._threads.shutdown)
        self._reader.close()
        await self._writer.close()  # last, because only who may write folds the log into the file
        self._lock.release()
        self._lock = None

    # --- functions -----------------------------------------------------------------------------

    async def load_functions(self) -> list[tuple[Function, list[Version]]]:
        """Return everything deployed, versions in order."""
        return await self._read(deployed.load_functions)

    async def save_version(self, function: Function, version: Version) -> None:
        """Store a new version and its function's aliases in one durable transaction.

        Raises:
            Conflict: the version exists, or another function has the name.
        """
        await self._writer.submit(
            partial(deployed.save_version, function=function, version=version)
        )

    async def delete_function(self, function_id: str) -> None:
        """Forget a function and its versions; its records stay until retention."""
        await self._writer.submit(
            lambda db: _execute(db, "DELETE FROM function WHERE id = ?", function_id)
        )

    async def referenced(self) -> set[str]:
        """Return the digests of all artifacts that some version needs: what `gc` must keep."""
        rows = await self._read(
            lambda db: db.execute("SELECT DISTINCT artifact FROM version").fetchall()
        )
        return {digest for (digest,) in rows}

    # --- keys ----------------------------------------------------------------------------------

    async def load_keys(self) -> list[Key]:
        """Return all keys, oldest first."""
        return await self._read(deployed.load_keys)

    async def save_key(self, key: Key) -> None:
        """Store a key, durably."""
        await self._writer.submit(partial(deployed.save_key, key=key))

    async def delete_key(self, key_id: str) -> bool:
        """Forget a key; False if there was none."""
        return await self._writer.submit(
            lambda db: _execute(db, "DELETE FROM api_key WHERE id = ?", key_id) == 1
        )

    # --- the queue -----------------------------------------------------------------------------

    async def enqueue(self, call: QueuedCall) -> None:
        """Return only when the call is fsynced.

        Raises:
            Conflict: there is a call with this id.
        """
        await self._writer.submit(partial(calls.enqueue, call=call))

    async def claim(self, limit: int) -> list[QueuedCall]:
        """Mark up to `limit` queued calls as running (oldest first) and return them.

        `attempts` of what is returned counts the attempt that begins now.
        """
        return await self._writer.submit(partial(calls.claim, limit=limit, now=self._clock.time()))

    async def release(self, call_id: str, delay_s: float = 0.0) -> None:
        """Put a claimed call back, claimable after `delay_s`; its attempt did not count."""
        not_before = self._clock.time() + delay_s if delay_s > 0 else 0.0
        await self._writer.submit(partial(calls.release, call_id=call_id, not_before=not_before))

    async def settle(self, record: InvocationRecord) -> None:
        """Store the outcome of a queued call, durably; it never runs again.

        A call that is settled already, or unknown, is left as it is.
        """
        await self._writer.submit(partial(calls.settle, record=record, now=self._clock.time()))

    async def cancel_queued(self, call_id: str) -> bool:
        """Settle a call that is still queued as cancelled; False if it is not queued any more."""
        return await self._writer.submit(
            partial(calls.cancel_queued, call_id=call_id, now=self._clock.time())
        )

    async def queue_sizes(self) -> dict[str, int]:
        """Return the bytes of each call that is queued or running, by id."""
        return await self._read(calls.sizes)

    async def queue_depth(self) -> int:
        """Count calls that are queued or running."""
        return await self._read(calls.depth)

    # --- records -------------------------------------------------------------------------------

    def add_records(self, records: list[InvocationRecord]) -> None:
        """Take finished synchronous invocations: O(1) each, never blocks, never raises."""
        self._records.add(records)

    @property
    def records_dropped(self) -> int:
        """Records lost since `open` because the disk did not follow."""
        return self._records.dropped

    async def get_invocation(self, invocation_id: str) -> InvocationRecord | None:
        """Find a record, queued and running asynchronous ones and the latest ones included."""
        await self._records.drain()
        return await self._read(lambda db: _get_invocation(db, invocation_id))

    async def list_invocations(
        self,
        *,
        function: str | None = None,
        status: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[InvocationRecord]:
        """Return newest first, without results and logs; `function` is a name, `before` an id."""
        await self._records.drain()
        wanted = records.Filter(function, status, limit, before)
        return await self._read(lambda db: _list_invocations(db, wanted))

    # --- audit ---------------------------------------------------------------------------------

    def add_audit(self, entry: AuditEntry) -> None:
        """Append to the audit log, behind the caller's back; a failure is logged."""
        data = msgspec.json.encode(entry)
        written = self._writer.submit(
            lambda db: _execute(
                db, "INSERT INTO audit (time, data) VALUES (?, ?)", entry.time, data
            )
        )
        written.add_done_callback(_log_failure)

    async def list_audit(self, limit: int = 100) -> list[AuditEntry]:
        """Return newest first, entries just added included."""
        await self._writer.submit(_nothing)
        rows = await self._read(
            lambda db: db.execute(
                "SELECT data FROM audit ORDER BY seq DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        return [_audit.decode(data) for (data,) in rows]

    # --- inside --------------------------------------------------------------------------------

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, query, self._reader)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _flush(self, batches: list[records.Batch]) -> asyncio.Future[None]:
        return self._writer.submit(
            partial(
                records.write_batches,
                batches=batches,
                clock=self._clock,
                batch_records=self._batch_records,
            )
        )

    def _batch_bytes(self) -> int:
        return min(256 << 10, max(1024, self._retention.max_bytes // 10))

    def _sweep(self) -> None:
        self._writer.submit(self._trimmer.sweep).add_done_callback(self._swept)

    def _swept(self, swept: asyncio.Future[bool]) -> None:
        _log_failure(swept)
        if not self._closing:
            more = swept.exception() is None and swept.result()
            delay = _SWEEP_AGAIN_S if more else _SWEEP_S
            self._sweep_timer = asyncio.get_running_loop().call_later(delay, self._sweep)


def _log_failure(written: asyncio.Future[Any]) -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        get_logger("store").error("not written", error=str(error))


def _nothing(_db: sqlite3.Connection) -> None:
    return None


def _execute(db: sqlite3.Connection, statement: str, *values: object) -> int:
    return db.execute(statement, values).rowcount


def _get_invocation(db: sqlite3.Connection, invocation_id: str) -> InvocationRecord | None:
    return calls.get(db, invocation_id) or records.find_record(db, invocation_id)


def _list_invocations(db: sqlite3.Connection, wanted: records.Filter) -> list[InvocationRecord]:
    both = (records.list_records(db, wanted), calls.list_calls(db, wanted))
    newest_first = merge(*both, key=lambda record: record.id, reverse=True)
    return list(islice(newest_first, wanted.limit))
