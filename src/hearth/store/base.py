"""What must survive a restart, as protocols that a database keeps.

Only control-plane and queue code awaits these; the warm synchronous path never waits for SQL.
`add_records` is fire and forget: records are written in batches behind the reply.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from hearth.model import AuditEntry, Function, InvocationRecord, Key, Version

__all__ = ["AuditEntry", "QueuedCall", "Store"]


class QueuedCall(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted asynchronous invocation, as it lies on disk."""

    id: str
    function_id: str
    function: str
    version: int
    method: bytes
    path: bytes
    query: bytes
    headers: bytes
    body: bytes
    attempts: int = 0
    traceparent: str | None = None
    created_at: float


class Store(Protocol):
    """Functions, versions, keys, the queue, records and the audit log."""

    async def open(self) -> None:
        """Open, migrate under a lock, and recover."""

    async def close(self) -> None:
        """Write what is pending, then close."""

    async def load_functions(self) -> list[tuple[Function, list[Version]]]:
        """Return everything deployed, for the registry's snapshot."""

    async def save_version(self, function: Function, version: Version) -> None:
        """Store a new version and its function's aliases in one durable transaction."""

    async def delete_function(self, function_id: str) -> None:
        """Forget a function and its versions; its records stay until retention."""

    async def referenced(self) -> set[str]:
        """Return the digests of all artifacts that some version needs."""

    async def load_keys(self) -> list[Key]:
        """Return all keys."""

    async def save_key(self, key: Key) -> None:
        """Store a key, durably."""

    async def delete_key(self, key_id: str) -> bool:
        """Forget a key; False if there was none."""

    async def enqueue(self, call: QueuedCall) -> None:
        """Return only when the call is fsynced."""

    async def claim(self, limit: int) -> list[QueuedCall]:
        """Mark up to `limit` queued calls as running (oldest first) and return them."""

    async def release(self, call_id: str, delay_s: float = 0.0) -> None:
        """Put a claimed call back into the queue (its attempt did not count).

        It is not claimed again for `delay_s` seconds, so that it does not hold up those behind it.
        """

    async def settle(self, record: InvocationRecord) -> None:
        """Store the outcome of a queued call, durably; it never runs again."""

    async def cancel_queued(self, call_id: str) -> bool:
        """Settle a call that is still queued as cancelled; False if it is not queued any more."""

    async def queue_sizes(self) -> dict[str, int]:
        """Return the bytes of each call that is queued or running, by id."""

    async def queue_depth(self) -> int:
        """Count calls that are queued or running."""

    def add_records(self, records: list[InvocationRecord]) -> None:
        """Take finished synchronous invocations; written in the next batch."""

    @property
    def records_dropped(self) -> int:
        """Records lost since `open` because the disk did not follow."""

    async def get_invocation(self, invocation_id: str) -> InvocationRecord | None:
        """Find a record, queued and running asynchronous ones included."""

    async def list_invocations(
        self, *, function: str | None, status: str | None, limit: int, before: str | None
    ) -> list[InvocationRecord]:
        """Return newest first, without results and logs; `before` is the id to continue after."""

    def add_audit(self, entry: AuditEntry) -> None:
        """Append to the audit log; written in the next batch."""

    async def list_audit(self, limit: int) -> list[AuditEntry]:
        """Return newest first."""
