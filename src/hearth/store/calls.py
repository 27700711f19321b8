"""Asynchronous invocations as rows: queued, running, and finally their record."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from hearth.errors import Conflict
from hearth.model import Failure, InvocationRecord
from hearth.store import records
from hearth.store.base import QueuedCall

_CALL = (
    "id, function_id, function, version, method, path, query, headers, body, attempts,"
    " traceparent, created_at"
)
_ENQUEUE = f"""
INSERT INTO call ({_CALL}, status)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')
"""  # noqa: S608 - built from the constant above
_CLAIM = f"""
UPDATE call SET status = 'running', attempts = attempts + 1, started_at = :now
WHERE seq IN (
    SELECT seq FROM call
    WHERE settled_at IS NULL AND status = 'queued' AND not_before <= :now
    ORDER BY seq LIMIT :limit
)
RETURNING seq, {_CALL}
"""  # noqa: S608 - built from the constant above
_RELEASE = """
UPDATE call SET status = 'queued', attempts = attempts - 1, started_at = NULL, not_before = ?
WHERE id = ? AND status = 'running'
"""
_SETTLE = """
UPDATE call SET status = :status, record = :record, settled_at = :now,
                method = NULL, path = NULL, query = NULL, headers = NULL, body = NULL
WHERE id = :id AND settled_at IS NULL
"""
_RECOVER = """
UPDATE call SET status = 'queued', started_at = NULL, not_before = 0
WHERE settled_at IS NULL AND (status = 'running' OR not_before > 0)
"""
_RECORD = """
id, function_id, function, version, status, attempts, traceparent, created_at, started_at, record
"""
_GET = f"SELECT {_RECORD} FROM call WHERE id = ?"  # noqa: S608 - built from the constant above
_LIST = f"""
SELECT {_RECORD} FROM call
WHERE (:before IS NULL OR id < :before)
  AND (:function IS NULL OR function = :function)
  AND (:status IS NULL OR status = :status)
ORDER BY id DESC LIMIT :limit
"""  # noqa: S608 - built from the constant above
_SIZES = """
SELECT id, length(path) + length(query) + length(headers) + length(body)
FROM call WHERE settled_at IS NULL
"""
_DEPTH = "SELECT count(*) FROM call WHERE settled_at IS NULL"


def enqueue(connection: sqlite3.Connection, call: QueuedCall) -> None:
    """Store an accepted call.

    Raises:
        Conflict: there is a call with this id.
    """
    values = [getattr(call, name.strip()) for name in _CALL.split(",")]
    try:
        connection.execute(_ENQUEUE, values)
    except sqlite3.IntegrityError as error:
        raise Conflict(f"There is a call {call.id} already") from error


def claim(connection: sqlite3.Connection, limit: int, *, now: float) -> list[QueuedCall]:
    """Mark the oldest calls as running and return them, oldest first; the attempt is counted."""
    rows = connection.execute(_CLAIM, {"limit": limit, "now": now}).fetchall()
    names = [name.strip() for name in _CALL.split(",")]
    return [QueuedCall(**dict(zip(names, row[1:], strict=True))) for row in sorted(rows)]


def release(connection: sqlite3.Connection, call_id: str, *, not_before: float) -> None:
    """Put a running call back; its attempt did not count."""
    connection.execute(_RELEASE, (not_before, call_id))


def settle(connection: sqlite3.Connection, record: InvocationRecord, *, now: float) -> bool:
    """Store how a call ended; False if it was settled before (the first outcome stays)."""
    values = {"status": record.status, "record": records.encode(record), "now": now}
    return connection.execute(_SETTLE, {**values, "id": record.id}).rowcount == 1


def cancel_queued(connection: sqlite3.Connection, call_id: str, *, now: float) -> bool:
    """Settle a call that nobody runs as cancelled; False if it is not queued."""
    record = get(connection, call_id)
    if record is None or record.status != "queued":
        return False
    error = Failure(type="Cancelled", message="The invocation was cancelled before it ran")
    cancelled = msgspec.structs.replace(record, status="cancelled", error=error, finished_at=now)
    return settle(connection, cancelled, now=now)


def recover(connection: sqlite3.Connection) -> None:
    """Queue again what a dead node left running; the attempt stays counted."""
    connection.execute(_RECOVER)


def sizes(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the bytes of each call that is queued or running, by id."""
    return dict(connection.execute(_SIZES).fetchall())


def depth(connection: sqlite3.Connection) -> int:
    """Count calls that are queued or running."""
    return int(connection.execute(_DEPTH).fetchone()[0])


def get(connection: sqlite3.Connection, call_id: str) -> InvocationRecord | None:
    """Return the record of a call in whatever state it is, or None."""
    row = connection.execute(_GET, (call_id,)).fetchone()
    return None if row is None else _record(row, whole=True)


def list_calls(connection: sqlite3.Connection, wanted: records.Filter) -> list[InvocationRecord]:
    """Return the newest calls that match, newest first, without results and logs."""
    rows = connection.execute(_LIST, wanted._asdict())
    return [_record(row, whole=False) for row in rows]


def _record(row: tuple[Any, ...], *, whole: bool) -> InvocationRecord:
    *fields, line = row
    if line is not None:
        return records.decode(line) if whole else records.brief(line)
    names = [name.strip() for name in _RECORD.split(",")][:-1]
    return InvocationRecord(asynchronous=True, **dict(zip(names, fields, strict=True)))
