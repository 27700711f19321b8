"""What the whole node may use, reserved before and returned in one place."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hearth.config import Execution
    from hearth.model import Clock

SAMPLE_S = 0.1
"""How long a reading of the free memory is trusted."""
BARREN_S = 0.01
"""How long "nothing can be evicted" is trusted: looking through all pools is not for every call."""


class Reservation(enum.Enum):
    """What became of the wish for another instance."""

    GRANTED = "granted"
    AWAITED = "awaited"
    """An idle instance is being evicted for it: the asker is woken when that is gone."""
    REFUSED = "refused"


class Claimant(Protocol):
    """A pool, as the budget sees it."""

    def idle_longest(self) -> float | None:
        """Return since when the longest idle instance that may go is idle, if there is one."""

    def evict(self) -> None:
        """Stop that instance."""

    def pump(self) -> None:
        """Look again at what was not possible before."""


class Budget:
    """Counts calls in flight and instances of all pools; instances count until they are gone."""

    __slots__ = (
        "_available",
        "_barren_until",
        "_clock",
        "_max_instances",
        "_memory",
        "_memory_reserve",
        "_sampled_at",
        "_want_call",
        "_want_instance",
        "claimants",
        "in_flight",
        "instances",
        "max_in_flight",
    )

    def __init__(
        self,
        settings: Execution,
        *,
        clock: Clock,
        available: Callable[[], int] | None = None,
    ) -> None:
        """Take the limits from `settings`.

        Args:
            settings: section `execution`.
            clock: for the age of memory readings.
            available: returns the bytes that can be used; default: MemAvailable of the kernel.
        """
        self.max_in_flight = settings.max_concurrent_functions
        self.in_flight = 0
        self.instances = 0
        self.claimants: Callable[[], Iterable[Claimant]] = tuple
        """Returns all pools; asked only when something must be evicted."""
        self._max_instances = settings.max_instances
        self._memory_reserve = settings.memory_reserve
        self._clock = clock
        self._available = available or memory_available
        self._memory = 0
        self._sampled_at = float("-inf")
        self._barren_until = float("-inf")
        self._want_call: dict[Claimant, None] = {}
        self._want_instance: dict[Claimant, None] = {}

    # --- calls in flight: the pools count `in_flight` themselves, it is on every call's way ------

    @property
    def full(self) -> bool:
        """Whether no further call may run now."""
        return self.in_flight >= self.max_in_flight

    @property
    def call_wanted(self) -> bool:
        """Whether some pool waits until a call ends anywhere."""
        return bool(self._want_call)

    def want_call(self, pool: Claimant) -> None:
        """Wake `pool` when a call has ended."""
        self._want_call[pool] = None

    def call_freed(self) -> None:
        """Wake those that wait for a call's room, longest waiting first, while there is some."""
        while self._want_call and not self.full:
            pool = next(iter(self._want_call))
            del self._want_call[pool]
            pool.pump()

    # --- instances -------------------------------------------------------------------------------

    @property
    def instance_wanted(self) -> bool:
        """Whether some pool waits until an instance is gone: idle ones should go."""
        return bool(self._want_instance)

    def reserve(self, pool: Claimant) -> Reservation:
        """Ask for room for one instance; evicts the longest idle one of all if there is none."""
        if pool in self._want_instance:
            return Reservation.AWAITED
        if self.instances < self._max_instances and self._memory_suffices():
            self.instances += 1
            return Reservation.GRANTED
        victim = self._victim()
        if victim is None:
            return Reservation.REFUSED
        self._want_instance[pool] = None
        victim.evict()
        return Reservation.AWAITED

    def release(self) -> None:
        """Return the room of one instance that is gone, and wake whoever waits for it."""
        self.instances -= 1
        self._sampled_at = float("-inf")
        while (
            self._want_instance and self.instances < self._max_instances and self._memory_suffices()
        ):
            pool = next(iter(self._want_instance))
            del self._want_instance[pool]
            pool.pump()

    def forget(self, pool: Claimant) -> None:
        """Wake `pool` no more."""
        self._want_call.pop(pool, None)
        self._want_instance.pop(pool, None)

    def _victim(self) -> Claimant | None:
        now = self._clock.monotonic()
        if now < self._barren_until:
            return None
        victims = [
            (since, pool) for pool in self.claimants() if (since := pool.idle_longest()) is not None
        ]
        if not victims:
            self._barren_until = now + BARREN_S
            return None
        return min(victims, key=lambda victim: victim[0])[1]

    def _memory_suffices(self) -> bool:
        now = self._clock.monotonic()
        if now - self._sampled_at > SAMPLE_S:
            self._sampled_at = now
            self._memory = self._available()
        return self._memory >= self._memory_reserve


class Share:
    """What one function holds over all its versions; its limits come with each version."""

    __slots__ = ("_want_call", "in_flight", "pending")

    def __init__(self) -> None:
        """Hold nothing."""
        self.in_flight = 0
        self.pending = 0
        """Calls accepted and not ended: in flight or waiting."""
        self._want_call: dict[Claimant, None] = {}

    @property
    def contended(self) -> bool:
        """Whether a pool waits for a call of another version to end."""
        return bool(self._want_call)

    def want_call(self, pool: Claimant) -> None:
        """Wake `pool` when a call of the function has ended in another version's pool."""
        self._want_call[pool] = None

    def forget(self, pool: Claimant) -> None:
        """Wake `pool` no more."""
        self._want_call.pop(pool, None)

    def call_freed(self) -> None:
        """Wake the pools that wait for the function's own room."""
        wanting, self._want_call = self._want_call, {}
        for pool in wanting:
            pool.pump()


def memory_available() -> int:
    """Return the kernel's MemAvailable in bytes."""
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) << 10
    raise OSError("/proc/meminfo has no MemAvailable")
