"""Forgetting: records leave oldest first as soon as age, count or bytes say so."""

from __future__ import annotations

import sqlite3

from hearth.config import Retention
from hearth.model import Clock

_STEP = 1000
"""Most rows removed in one transaction, so that nobody waits long behind it."""
_AUDIT_ENTRIES = 100_000
_FREE_PAGES = 1000
"""Free pages kept for reuse; more are given back to the file system."""

_TOTAL = "SELECT records, bytes FROM total"
_OLDEST = """
SELECT * FROM (SELECT 'batch', seq, saved_at FROM batch ORDER BY seq LIMIT 1)
UNION ALL
SELECT * FROM (
    SELECT 'call', seq, settled_at FROM call
    WHERE settled_at IS NOT NULL ORDER BY settled_at LIMIT 1
)
ORDER BY 3 LIMIT 1
"""
_REMOVE = {
    "batch": "DELETE FROM batch WHERE seq = ?",
    "call": "DELETE FROM call WHERE seq = ?",
}
_TRIM_AUDIT = """
DELETE FROM audit WHERE seq <= (SELECT max(seq) FROM audit) - ?
"""


class Trimmer:
    """Keeps what the writer stores inside the limits; runs at the end of each transaction."""

    def __init__(self, limits: Retention, clock: Clock) -> None:
        """Trim to `limits`, by `clock`."""
        self._limits = limits
        self._clock = clock

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Remove the oldest records until every limit holds, at most a thousand rows at a time."""
        limits = self._limits
        horizon = self._clock.time() - limits.max_age
        records, size = connection.execute(_TOTAL).fetchone()
        for _ in range(_STEP):
            oldest = connection.execute(_OLDEST).fetchone()
            if oldest is None:
                break
            table, seq, saved_at = oldest
            if records <= limits.max_count and size <= limits.max_bytes and saved_at >= horizon:
                break
            connection.execute(_REMOVE[table], (seq,))
            records, size = connection.execute(_TOTAL).fetchone()

    def sweep(self, connection: sqlite3.Connection) -> bool:
        """Do what time alone asks for: trim the audit log, give free pages back.

        Returns whether there is more to give back.
        """
        connection.execute(_TRIM_AUDIT, (_AUDIT_ENTRIES,))
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        spare = min(free - _FREE_PAGES, _STEP)
        for _ in range(spare):
            # Without result columns `execute` takes one step only, and a step frees one page.
            connection.execute("PRAGMA incremental_vacuum")
        return bool(spare == _STEP)
