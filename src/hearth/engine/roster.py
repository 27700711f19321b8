"""The instances of a pool, and which of them can do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hearth.engine.member import Member
    from hearth.sandbox.base import Usage


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

    def usage(self) -> list[Usage]:
        """Measure each ready member now."""
        return [m.instance.usage() for m in self.members if m.ready and m.instance is not None]

    def counts(self) -> dict[str, int]:
        """Return how many are busy, idle, starting and leaving."""
        staying = [member for member in self.members if member.leaving is None]
        ready = [member for member in staying if member.ready]
        busy = sum(member.calls > 0 for member in ready)
        return {
            "busy": busy,
            "idle": len(ready) - busy,
            "starting": len(staying) - len(ready),
            "leaving": len(self.members) - len(staying),
        }
