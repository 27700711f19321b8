"""Rate limits per key: GCRA, one float per caller, no timer."""

from __future__ import annotations

from hearth.errors import TooManyRequests
from hearth.model import Clock

_SWEEP_ABOVE = 4096


class RateLimiter:
    """A token bucket for each caller, kept as the time at which it will be full again."""

    def __init__(self, rate: float | None, burst: int, clock: Clock) -> None:
        """Allow `rate` requests per second and caller, `burst` at once; None: no limit."""
        self._interval_s = 1.0 / rate if rate else 0.0
        self._tolerance_s = self._interval_s * max(1, burst)
        self._limit = f"gateway.rate_limit={rate:g}/s" if rate else ""
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def admit(self, caller: str) -> None:
        """Count one request of `caller`.

        Raises:
            TooManyRequests: its bucket is empty; says when to try again.
        """
        if not self._interval_s:
            return
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(caller, now), now) + self._interval_s
        excess = full_at - now - self._tolerance_s
        if excess > 1e-9:  # sums of intervals are not exact
            raise TooManyRequests(limit=self._limit, retry_after_s=excess)
        self._full_at[caller] = full_at
        if len(self._full_at) > _SWEEP_ABOVE:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Forget full buckets; they are the same as none."""
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
