"""Many things that are each given the same time, with one timer for all of them.

Calls of one version share one timeout, so the first to begin is the first to be due: an ordered
dict is the whole timer wheel. Adding and discarding cost a fraction of a microsecond; the event
loop sees one timer, armed for the oldest entry and only while there is one (an own `call_later`
and `cancel` per call measured 2 µs).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hearth.model import Clock
    from hearth.sandbox.base import Timer, Timers

T = TypeVar("T")
_EARLY_S = 0.001
"""Timers of the loop are whole milliseconds and may come this much too early."""


class Deadlines(Generic[T]):
    """An ordered set whose entries expire `seconds` after they were added."""

    __slots__ = ("_clock", "_due", "_expire", "_seconds", "_timer", "_timers")

    def __init__(
        self, seconds: float, expire: Callable[[T], None], *, clock: Clock, timers: Timers
    ) -> None:
        """Call `expire(entry)` for each entry that is not discarded in time, after removing it."""
        self._seconds = seconds
        self._expire = expire
        self._clock = clock
        self._timers = timers
        self._due: OrderedDict[T, float] = OrderedDict()
        self._timer: Timer | None = None

    def add(self, entry: T, now: float) -> None:
        """Begin the time of `entry` at `now` (monotonic seconds), or let it have begun then."""
        self._due[entry] = due = now + self._seconds
        if self._timer is None:
            delay = max(0.0, due - self._clock.monotonic())
            self._timer = self._timers.call_later(delay, self._fire)

    def put_back(self, entry: T, began: float) -> None:
        """Let it be the oldest again; its time began at `began`."""
        self._due[entry] = began + self._seconds
        self._due.move_to_end(entry, last=False)
        if self._timer is not None:
            self._timer.cancel()
        self._fire()

    def discard(self, entry: T) -> bool:
        """End it; False if it was not there (any more)."""
        return self._due.pop(entry, None) is not None

    def pop_first(self) -> T:
        """Remove and return the oldest entry.

        Raises:
            KeyError: there is none.
        """
        return self._due.popitem(last=False)[0]

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[T]:
        return iter(self._due)

    def __contains__(self, entry: object) -> bool:
        return entry in self._due

    def _fire(self) -> None:
        self._timer = None
        horizon = self._clock.monotonic() + _EARLY_S
        while self._due:
            entry, due = next(iter(self._due.items()))
            if due > horizon:
                break
            del self._due[entry]
            self._expire(entry)
        if self._due and self._timer is None:
            due = next(iter(self._due.values()))
            self._timer = self._timers.call_later(
                max(0.0, due - self._clock.monotonic()), self._fire
            )
