"""When idle instances have been idle for too long: one timer for a whole pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hearth.engine.ports import Host
    from hearth.engine.roster import Roster
    from hearth.sandbox.base import Timer

_EARLY_S = 0.001
"""The loop's timers are whole milliseconds and may come this much too early."""


class Expiry:
    """Calls `expire(now)` when the longest idle instance may have reached its time to live.

    The timer is not moved when that instance works again, so a busy pool sets one timer per time
    to live and none per call.
    """

    __slots__ = ("_expire", "_host", "_roster", "_timer", "_ttl_s")

    def __init__(
        self, roster: Roster, ttl_s: float, expire: Callable[[float], None], host: Host
    ) -> None:
        """Watch over the instances with room in `roster`."""
        self._roster = roster
        self._ttl_s = ttl_s
        self._expire = expire
        self._host = host
        self._timer: Timer | None = None

    def watch(self, now: float) -> None:
        """See to it that there is a timer if there is an instance with room."""
        if self._timer is None and self._roster.roomy:
            since = min(member.idle_since for member in self._roster.roomy)
            self._arm(since + self._ttl_s - now)

    def cancel(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, delay: float) -> None:
        self._timer = self._host.timers.call_later(max(0.0, delay), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._host.clock.monotonic() + _EARLY_S
        self._expire(now)
        expired = now - self._ttl_s
        young = [m.idle_since for m in self._roster.roomy if m.idle_since > expired]
        if young:
            self._arm(min(young) - expired)
