"""What a pool needs of its surroundings: the calls it serves, and the node it stands in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hearth.engine.member import Member
    from hearth.engine.resources import Budget
    from hearth.errors import HearthError
    from hearth.model import Clock, Version
    from hearth.sandbox.base import Backend, Caller, CallRequest, Timers


class Waiting(Protocol):
    """A call, as the pool sees it."""

    arrived: float
    """When it came (monotonic seconds)."""

    def go_ahead(self, member: Member, now: float) -> tuple[CallRequest, Caller]:
        """Belong to the busy `member` from `now` on; return what to send it."""

    def take_turn(self) -> None:
        """Run: the calls before it have ended."""

    def begin(self, member: Member, now: float) -> None:
        """Run on `member`, whose room is claimed; give it back with `Pool.release`."""

    def overdue(self) -> None:
        """Give up: it runs longer than its timeout. `Pool.release` still follows."""

    def fail(self, error: HearthError) -> None:
        """Give up: it was accepted but will not run."""

    def give_up(self, error: HearthError) -> None:
        """Tell whoever waits; an instance has it already, so `Pool.release` still follows."""

    def refuse(self, error: HearthError) -> None:
        """Give up: it is not even accepted."""


class Host(Protocol):
    """What a pool needs of the node, the same for all pools."""

    @property
    def backend(self) -> Backend:
        """Makes instances."""

    @property
    def budget(self) -> Budget:
        """What all pools share."""

    @property
    def clock(self) -> Clock:
        """Tells the time."""

    @property
    def timers(self) -> Timers:
        """Tell when time has passed."""

    @property
    def idle_ttl_s(self) -> float:
        """How long an idle instance is kept where its version does not say."""

    @property
    def cold_start_timeout_s(self) -> float:
        """How long a start may take."""

    def code_of(self, version: Version) -> str:
        """Return the directory of the unpacked bundle."""
