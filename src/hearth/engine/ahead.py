"""Calls sent ahead: they wait in a busy instance's socket, behind the one that runs.

So the instance goes on without being woken up, and node and instance send and receive several
frames at once: about a third of the CPU of a warm call under load is saved (ADR 2). But a call
sent ahead cannot be called back, and a slow call before it would hold it up. Hence only functions
all of whose recent calls were quick get this, and only when no instance is idle and no other can
be started; and only those that print nothing, because the output of calls that follow each other
without the node in between cannot be told apart for certain.

What was sent ahead counts as waiting, keeps its queue timeout, and waits again when its instance
ends before its turn: it has not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hearth.engine.deadlines import Deadlines
from hearth.errors import QueueTimeout
from hearth.sandbox.base import MAX_AHEAD

if TYPE_CHECKING:
    from hearth.engine.member import Member
    from hearth.engine.ports import Host, Waiting
    from hearth.model import Version

QUICK_S = 0.005
"""A function is quick when its slowest recent call took less."""
_FADE = 0.999
"""What is left of a slow call's weight after each further call: 30 s fade in 8,700 quick calls."""
_UNKNOWN_S = 1.0


class Ahead:
    """Which calls of a version are sent ahead, and whether any may be."""

    __slots__ = ("_limit", "_line", "_possible", "_slowest_s", "_waiting")

    def __init__(self, version: Version, waiting: Deadlines[Waiting], host: Host) -> None:
        """Take calls from `waiting`; know nothing, hence be slow until thousands were quick."""
        limits = version.limits
        self._possible = limits.instance_concurrency == 1 and version.contract == "handler"
        self._limit = f"queue_timeout={limits.queue_timeout_s:g}s"
        self._slowest_s = _UNKNOWN_S
        self._waiting = waiting
        self._line: Deadlines[Waiting] = Deadlines(
            limits.queue_timeout_s, self._overdue, clock=host.clock, timers=host.timers
        )

    @property
    def allowed(self) -> bool:
        """Whether calls may be sent ahead."""
        return self._possible and self._slowest_s < QUICK_S

    def __len__(self) -> int:
        """Return how many wait in sockets."""
        return len(self._line)

    def note(self, seconds: float) -> None:
        """Learn how long a call ran."""
        faded = self._slowest_s * _FADE
        self._slowest_s = seconds if seconds > faded else faded

    def stop(self) -> None:
        """Send nothing ahead until thousands of calls were quick again."""
        self._slowest_s = _UNKNOWN_S

    def fill(self, member: Member, now: float) -> None:
        """Send as many as `member`, which runs a call, may have."""
        line, waiting = member.ahead, self._waiting
        batch = []
        while waiting and len(line) < MAX_AHEAD:
            call = waiting.pop_first()
            line.append(call)
            self._line.add(call, call.arrived)
            batch.append(call.go_ahead(member, now))
        member.instance.call_ahead(batch)  # type: ignore[union-attr] # it runs a call

    def next_turn(self, member: Member) -> Waiting:
        """Return the call that runs now, as the one before it has ended."""
        call = member.ahead.popleft()
        self._line.discard(call)
        return call

    def gave_up(self, call: Waiting) -> None:
        """Learn that nobody waits for `call` any more; its turn will come all the same."""
        self._line.discard(call)

    def forget(self, member: Member, call: Waiting) -> None:
        """Learn that the turn of `call` will not come: its instance ended."""
        member.ahead.remove(call)
        self._line.discard(call)

    def _overdue(self, call: Waiting) -> None:
        call.give_up(QueueTimeout(limit=self._limit, retry_after_s=1))
