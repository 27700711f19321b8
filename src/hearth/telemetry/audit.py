"""The audit log: who changed what, from where, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

from hearth.model import AuditEntry, Clock, SystemClock
from hearth.telemetry.logs import get_logger


class Auditor:
    """Writes one entry for each mutating call on the control API, to the store and to the log."""

    def __init__(self, write: Callable[[AuditEntry], None], clock: Clock | None = None) -> None:
        """Write entries with `write` (`Store.add_audit`), stamped by `clock`."""
        self._write = write
        self._clock = clock or SystemClock()
        self._log = get_logger("audit")

    def record(
        self,
        action: str,
        target: str,
        *,
        identity: str,
        request_id: str,
        remote: str,
        outcome: str = "ok",
    ) -> AuditEntry:
        """Keep that `identity` did `action` to `target`; call it for refusals and failures too.

        Args:
            action: `function.deploy`, `function.delete`, `key.create`, `invocation.cancel`, …
            target: name or id of what was acted on; never a secret.
            identity: key id, or `local` when no key exists.
            request_id: ties the entry to the answer and to other log lines.
            remote: address of the caller.
            outcome: `ok`, or the error type.
        """
        entry = AuditEntry(
            time=self._clock.time(),
            identity=identity,
            action=action,
            target=target,
            request_id=request_id,
            outcome=outcome,
            remote=remote,
        )
        self._log.info(
            "audit",
            action=action,
            target=target,
            identity=identity,
            request_id=request_id,
            outcome=outcome,
            remote=remote,
        )
        self._write(entry)
        return entry
