"""Records of synchronous invocations: from the reply into batches, and back out of them.

Records are encoded on the event loop, a few dozen at a time, rather than kept: so memory is bounded
in bytes, no pile of objects waits for the garbage collector, the loop is held for some 20 µs, and
the writer thread is left with zlib and SQLite, which give up the GIL (`bench/records.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from hearth.model import Clock, InvocationRecord
from hearth.telemetry.logs import get_logger

_ENCODE_AT = 32
_FLUSH_S = 0.1
_RETRY_S = 1.0
_MERGE_BYTES = 64 << 10
_MERGE_S = 3600.0

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(InvocationRecord)


class _Heading(msgspec.Struct):
    """As much of a record as is needed to choose it: the rest is skipped, not built."""

    id: str
    function: str
    status: str


_heading = msgspec.json.Decoder(_Heading)


class Filter(NamedTuple):
    """Which invocations are wanted: `function` is a name, `before` the id to continue after."""

    function: str | None = None
    status: str | None = None
    limit: int = 100
    before: str | None = None

    def admits(self, head: _Heading) -> bool:
        """Tell whether a record is one of them."""
        return (
            (self.function is None or head.function == self.function)
            and (self.status is None or head.status == self.status)
            and (self.before is None or head.id < self.before)
        )


class Batch(msgspec.Struct):
    """Encoded records that will share a row."""

    ids: list[str] = []
    functions: set[str] = set()
    statuses: set[str] = set()
    lines: list[bytes] = []
    """Whole lines, each a JSON document."""
    size: int = 0
    """Bytes in `lines`."""


class RecordBuffer:
    """Takes records on the event loop and hands full batches to the writer.

    When the disk cannot follow, the oldest waiting batch is dropped and counted in `dropped`.
    """

    def __init__(
        self,
        flush: Callable[[list[Batch]], asyncio.Future[None]],
        *,
        batch_records: int = 500,
        batch_bytes: int = 256 << 10,
        max_bytes: int = 32 << 20,
    ) -> None:
        """Begin empty.

        Args:
            flush: writes batches; the future tells whether they are on disk.
            batch_records: most records in one row.
            batch_bytes: a row is full at this size.
            max_bytes: most encoded bytes kept in memory, on their way to the disk included.
        """
        self.dropped = 0
        """Records lost because the disk did not follow, or because they could not be encoded."""
        self._flush = flush
        self._batch_records = batch_records
        self._batch_bytes = batch_bytes
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._fresh: list[InvocationRecord] = []
        self._open = Batch()
        self._waiting: deque[Batch] = deque()
        self._writing: list[Batch] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._written: asyncio.Future[None] | None = None

    def add(self, added: list[InvocationRecord]) -> None:
        """Take records: O(1) each, never blocks, never raises."""
        self._fresh += added
        if len(self._fresh) >= _ENCODE_AT:
            self._encode()
        if self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_S, self._tick)

    @property
    def waiting_bytes(self) -> int:
        """Encoded bytes that are not on disk yet (a few dozen records may not be encoded yet)."""
        return self._bytes + self._open.size

    async def drain(self) -> None:
        """Return when all records added so far were given to the disk once, even if it refused."""
        if self._written is not None:
            await asyncio.wait([self._written])
        if self._fresh or self._open.ids or self._waiting:
            self._tick()
            if self._written is not None:
                await asyncio.wait([self._written])

    def stop(self) -> None:
        """Start no more timers' work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _encode(self) -> None:
        fresh, self._fresh = self._fresh, []
        for start in range(0, len(fresh), self._batch_records):
            part = fresh[start : start + self._batch_records]
            if len(self._open.ids) + len(part) > self._batch_records:
                self._cut()
            try:
                lines = encode_lines(part)
            except Exception:  # a result that JSON does not know must not hurt the other records
                part, lines = self._encode_one_by_one(part)
            batch = self._open
            batch.ids += [record.id for record in part]
            batch.functions.update([record.function for record in part])
            batch.statuses.update([record.status for record in part])
            batch.lines.append(lines)
            batch.size += len(lines)
            if len(batch.ids) >= self._batch_records or batch.size >= self._batch_bytes:
                self._cut()

    def _encode_one_by_one(
        self, part: list[InvocationRecord]
    ) -> tuple[list[InvocationRecord], bytes]:
        good, lines = [], []
        for record in part:
            try:
                lines.append(_encoder.encode(record))
                good.append(record)
            except Exception:  # whatever it is: this one is lost, and counted
                self.dropped += 1
        return good, b"".join(line + b"\n" for line in lines)

    def _cut(self) -> None:
        if not self._open.ids:
            return
        self._waiting.append(self._open)
        self._bytes += self._open.size
        self._open = Batch()
        while self._bytes > self._max_bytes and self._waiting:
            lost = self._waiting.popleft()
            self._bytes -= lost.size
            self.dropped += len(lost.ids)

    def _tick(self) -> None:
        self.stop()
        if self._written is not None:
            return  # `_done` goes on
        self._encode()
        self._cut()
        if not self._waiting:
            return
        self._writing = list(self._waiting)
        self._waiting.clear()
        self._written = self._flush(self._writing)
        self._written.add_done_callback(self._done)

    def _done(self, written: asyncio.Future[None]) -> None:
        failed = written.cancelled() or written.exception() is not None
        if failed:
            self._waiting.extendleft(reversed(self._writing))
            get_logger("store").warning("records not written", error=str(written.exception()))
        else:
            self._bytes -= sum(batch.size for batch in self._writing)
        self._writing, self._written = [], None
        if (self._waiting or self._open.ids or self._fresh) and self._timer is None:
            self._timer = self._loop.call_later(_RETRY_S if failed else _FLUSH_S, self._tick)


# --- rows --------------------------------------------------------------------------------------

_LAST = """
SELECT seq, saved_at, first_id, last_id, records, size, functions, statuses, tails, data
FROM batch ORDER BY seq DESC LIMIT 1
"""
_INSERT = """
INSERT INTO batch
    (saved_at, first_id, last_id, records, size, functions, statuses, tails, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_GROW = """
UPDATE batch SET first_id = ?, last_id = ?, records = ?, size = ?, functions = ?, statuses = ?,
                 tails = ?, data = ?
WHERE seq = ?
"""
_FIND = """
SELECT data FROM batch
WHERE last_id >= :id AND first_id <= :id AND instr(tails, :tail) > 0
"""
_LIST = """
SELECT last_id, data FROM batch
WHERE (:before IS NULL OR first_id < :before)
  AND (:function IS NULL OR instr(functions, :function) > 0)
  AND (:status IS NULL OR instr(statuses, :status) > 0)
ORDER BY last_id DESC
"""


def write_batches(
    connection: sqlite3.Connection, batches: Iterable[Batch], *, clock: Clock, batch_records: int
) -> None:
    """Store batches; small ones join the newest row, so that few calls do not make many rows."""
    for batch in batches:
        now = clock.time()
        if not _join_last(connection, batch, now, batch_records):
            raw = b"".join(batch.lines)
            connection.execute(
                _INSERT,
                (
                    now,
                    min(batch.ids),
                    max(batch.ids),
                    len(batch.ids),
                    len(raw),
                    _tags(batch.functions),
                    _tags(batch.statuses),
                    _tails(batch.ids),
                    zlib.compress(raw, 1),
                ),
            )


def _join_last(
    connection: sqlite3.Connection, batch: Batch, now: float, batch_records: int
) -> bool:
    if batch.size > _MERGE_BYTES:
        return False
    last = connection.execute(_LAST).fetchone()
    if last is None:
        return False
    seq, saved_at, first_id, last_id, records, size, functions, statuses, tails, data = last
    records += len(batch.ids)
    if records > batch_records or size + batch.size > _MERGE_BYTES or now - saved_at > _MERGE_S:
        return False
    raw = b"".join((zlib.decompress(data), *batch.lines))
    values = (
        min(first_id, *batch.ids),
        max(last_id, *batch.ids),
        records,
        len(raw),
        _tags(batch.functions.union(functions.split())),
        _tags(batch.statuses.union(statuses.split())),
        tails + _tails(batch.ids),
        zlib.compress(raw, 1),
        seq,
    )
    connection.execute(_GROW, values)
    return True


def find_record(connection: sqlite3.Connection, invocation_id: str) -> InvocationRecord | None:
    """Return the record of an id, or None."""
    parameters = {"id": invocation_id, "tail": _tails([invocation_id])}
    needle = _encoder.encode(invocation_id)
    for (data,) in connection.execute(_FIND, parameters):
        for line in zlib.decompress(data).splitlines():
            if needle in line:
                record = _decoder.decode(line)
                if record.id == invocation_id:
                    return record
    return None


def list_records(connection: sqlite3.Connection, wanted: Filter) -> list[InvocationRecord]:
    """Return the newest records that match, newest first, without results and logs."""
    parameters = {
        "before": wanted.before,
        "function": wanted.function and f" {wanted.function} ",
        "status": wanted.status and f" {wanted.status} ",
    }
    found: list[tuple[str, bytes]] = []
    for last_id, data in connection.execute(_LIST, parameters):
        if len(found) >= wanted.limit and found[-1][0] > last_id:
            break  # rows come by their newest id: nothing older can push these out
        for line in zlib.decompress(data).splitlines():
            head = _heading.decode(line)
            if wanted.admits(head):
                found.append((head.id, line))
        found.sort(reverse=True)
        del found[wanted.limit :]
    return [brief(line) for _, line in found]


def encode(record: InvocationRecord) -> bytes:
    """Return the record as it is stored: one JSON document without a line break."""
    return _encoder.encode(record)


def encode_lines(part: list[InvocationRecord]) -> bytes:
    """Return records as they lie in a batch, one line each."""
    return _encoder.encode_lines(part)


def decode(line: bytes) -> InvocationRecord:
    """Return a stored record."""
    return _decoder.decode(line)


def brief(line: bytes) -> InvocationRecord:
    """Return a stored record without its result and its logs."""
    return msgspec.structs.replace(_decoder.decode(line), result=None, logs=())


def _tags(words: Iterable[str]) -> str:
    return f" {' '.join(sorted(words))} "


def _tails(ids: Iterable[str]) -> str:
    return "".join(f",{i[-8:]}" for i in ids)
