"""How starting the instances of one version has gone so far."""

from __future__ import annotations

from hearth.engine.scaling import back_off_s
from hearth.errors import HearthError, InitError


class Tries:
    """Counts failed starts in a row, and says when it makes sense to try again."""

    __slots__ = ("_failures", "_last", "proven", "retry_at")

    def __init__(self) -> None:
        """Begin untried."""
        self.proven = False
        """Some instance of the version has become ready once."""
        self.retry_at = 0.0
        """Monotonic seconds before which nothing should be started."""
        self._failures = 0
        self._last: HearthError | None = None

    def succeeded(self) -> None:
        """Forget what failed before."""
        self.proven = True
        self._failures = 0
        self._last = None

    def failed(self, error: HearthError, now: float) -> None:
        """Count a failed start; each one in a row makes the pause longer."""
        self._failures += 1
        self._last = error
        self.retry_at = now + back_off_s(self._failures)

    def refusal(self, now: float) -> HearthError:
        """Return what callers hear during the pause."""
        last, seconds = self._last, self.retry_at - now
        return InitError(
            f"{last.message if last else 'it failed'} ({self._failures} starts failed in a row; "
            f"the next try is in {seconds:.0f} s)",
            stack=last.stack if last else None,
            retry_after_s=seconds,
        )
