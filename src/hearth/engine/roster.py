"""The instances of a pool, and which of them can do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hearth.engine.member import Member


class Roster:
    """All members of a pool; `roomy` are the ready ones with room, the one used last at the end."""

    __slots__ = ("members", "roomy")

    def __init__(self) -> None:
        """Begin empty."""
        self.members: dict[Member, None] = {}
        """An ordered set, so that what happens to all happens in the order they came."""
        self.roomy: list[Member] = []

    def let_go(self, member: Member, reason: str) -> None:
        """Count it as leaving: it gets no further calls."""
        member.leaving = reason
        if member in self.roomy:
            self.roomy.remove(member)

    def live(self) -> int:
        """Return how many are starting or serving."""
        return sum(member.leaving is None for member in self.members)

    def serves(self) -> bool:
        """Return whether some member is ready and stays."""
        return any(member.ready and member.leaving is None for member in self.members)

    def idle(self) -> list[Member]:
        """Return those without a call, longest idle first."""
        idle = [member for member in self.roomy if not member.calls]
        return sorted(idle, key=lambda member: member.idle_since)

    def usage(self, gone_ns: int) -> tuple[int | None, float | None]:
        """Measure bytes in use now and CPU seconds used ever; None: cannot be measured here.

        Args:
            gone_ns: CPU time of the instances that are gone.
        """
        used = [m.instance.usage() for m in self.members if m.ready and m.instance is not None]
        memory = [usage.memory_now for usage in used if usage.memory_now is not None]
        cpu = [usage.cpu_ns for usage in used if usage.cpu_ns is not None]
        bytes_now = sum(memory) if memory or not used else None
        return bytes_now, (sum(cpu) + gone_ns) / 1e9 if cpu or not used else None

    def counts(self) -> dict[str, int]:
        """Return how many are busy, idle, starting and draining."""
        staying = [member for member in self.members if member.leaving is None]
        ready = [member for member in staying if member.ready]
        busy = sum(member.calls > 0 for member in ready)
        return {
            "busy": busy,
            "idle": len(ready) - busy,
            "starting": len(staying) - len(ready),
            "draining": len(self.members) - len(staying),
        }
