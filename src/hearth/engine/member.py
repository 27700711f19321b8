"""One instance in its pool."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hearth.engine.pool import Pool
    from hearth.engine.ports import Waiting
    from hearth.sandbox.base import Exit, Instance, Stream

_log = logging.getLogger(__name__)


class Member:
    """What a pool knows about an instance; hears the instance's events.

    Its state is read from three fields: starting until `ready_at` is set, then busy while it has
    `calls` and idle otherwise, and leaving once `leaving` says why.
    """

    __slots__ = (
        "ahead",
        "calls",
        "idle_since",
        "instance",
        "leaving",
        "pool",
        "ready_at",
        "served",
        "started_at",
        "turn_at",
    )

    def __init__(self, pool: Pool, now: float) -> None:
        """Belong to `pool`, starting since `now` (monotonic seconds)."""
        self.pool = pool
        self.instance: Instance | None = None
        self.started_at = now
        self.ready_at = 0.0
        self.idle_since = now
        self.calls = 0
        self.turn_at = now
        """When the call that runs began to."""
        self.ahead: deque[Waiting] = deque()
        """Calls sent ahead; they wait in its socket and are not among `calls`."""
        self.served = 0
        self.leaving: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it has come up."""
        return self.ready_at > 0

    @property
    def init_ns(self) -> int:
        """Nanoseconds from the wish to have it until it was ready, as the node saw them."""
        return int((self.ready_at - self.started_at) * 1e9)

    def on_ready(self, instance: Instance, init_ns: int) -> None:
        """Tell the pool; the host's own `init_ns` is its word only and is not used."""
        self.instance = instance
        self.pool.became_ready(self)

    def on_output(self, instance: Instance, stream: Stream, data: bytes) -> None:
        """Log what belongs to no call."""
        _log.info(
            "%s of an instance of %s:%d outside any call: %s",
            stream,
            self.pool.version.function,
            self.pool.version.number,
            data[:4096].decode(errors="replace").rstrip("\n"),
        )

    def on_gone(self, instance: Instance, end: Exit) -> None:
        """Tell the pool."""
        self.pool.is_gone(self, end)
