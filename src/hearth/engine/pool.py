"""The instances and the waiting calls of one version.

Everything here is synchronous state and runs on the event loop. A call takes one of three ways:

1. an instance has room: it is handed over at once, to the one used last (LIFO: the others can go);
2. there is room for another instance: the call waits, and a start is begun for it;
3. otherwise it waits for a running one to end, up to `queue_timeout`, first come first served; of a
   quick function (`ahead`) it may wait in the instance's own socket, sent ahead.

`pump` is run whenever something becomes free and does the same for those that wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from hearth.engine import outcome
from hearth.engine.ahead import Ahead
from hearth.engine.deadlines import Deadlines
from hearth.engine.expiry import Expiry
from hearth.engine.member import Member
from hearth.engine.resources import Reservation
from hearth.engine.roster import Roster
from hearth.engine.scaling import Policy, Snapshot, decide
from hearth.engine.tries import Tries
from hearth.errors import (
    ColdStartTimeout,
    HearthError,
    NoCapacity,
    QueueFull,
    QueueTimeout,
)
from hearth.sandbox.base import MAX_AHEAD

if TYPE_CHECKING:
    from hearth.engine.ports import Host, Waiting
    from hearth.engine.resources import Share
    from hearth.model import Version
    from hearth.sandbox.base import Exit

_log = logging.getLogger(__name__)


class Pool:
    """Keeps the instances of one version; see the module for how a call finds one."""

    def __init__(
        self, version: Version, host: Host, share: Share, *, on_empty: Callable[[Pool], None]
    ) -> None:
        """Begin without instances.

        Args:
            version: what the instances serve.
            host: backend, budget and time.
            share: what all versions of the function hold together.
            on_empty: told once, when the pool was drained and its last instance is gone.
        """
        limits = version.limits
        self.version = version
        self._host = host
        self._budget = host.budget
        self._share = share
        self._on_empty = on_empty
        self._concurrency = limits.instance_concurrency
        self._max_in_flight = limits.max_concurrency
        self._max_pending = limits.max_concurrency + limits.queue_size
        own_ttl_s = version.scale.idle_ttl_s
        self._policy = Policy(
            max_instances=-(-limits.max_concurrency // limits.instance_concurrency),
            min_instances=version.scale.min_instances,
            instance_concurrency=limits.instance_concurrency,
            idle_ttl_s=host.idle_ttl_s if own_ttl_s is None else own_ttl_s,
        )
        self._roster = Roster()
        self._members = self._roster.members
        self._roomy = self._roster.roomy
        clock, timers = host.clock, host.timers
        self._starting: Deadlines[Member] = Deadlines(
            host.cold_start_timeout_s, self._start_overdue, clock=clock, timers=timers
        )
        self._waiting: Deadlines[Waiting] = Deadlines(
            limits.queue_timeout_s, self._wait_overdue, clock=clock, timers=timers
        )
        self._running: Deadlines[Waiting] = Deadlines(
            limits.timeout_s, _call_overdue, clock=clock, timers=timers
        )
        self._warming: list[Callable[[HearthError | None], None]] = []
        self._ahead = Ahead(version, self._waiting, host)
        self._tries = Tries()
        self._expiry = Expiry(self._roster, self._policy.idle_ttl_s, self._dismiss_idle, host)
        self._draining: str | None = None
        self._successor: Pool | None = None
        self._cpu_gone_ns = 0

    # --- calls -----------------------------------------------------------------------------------

    def submit(self, call: Waiting, now: float) -> None:
        """Hand over `call` now or let it wait; it hears what becomes of it."""
        share, budget = self._share, self._budget
        if self._draining is not None:
            self._pass_on(call, now)
        elif budget.in_flight >= budget.max_in_flight:
            limit = f"max_concurrent_functions={budget.max_in_flight}"
            call.refuse(NoCapacity("the node is at its limit", limit=limit, retry_after_s=1))
        elif share.pending >= self._max_pending:
            limit = f"queue_size={self.version.limits.queue_size}"
            call.refuse(QueueFull(limit=limit, retry_after_s=1))
        elif self._roomy and not self._waiting and share.in_flight < self._max_in_flight:
            share.pending += 1
            self._hand_over(call, now)  # 1. an instance has room
        else:
            share.pending += 1
            self._waiting.add(call, now)
            self._advance(now)  # 2. room for another instance, or 3. it waits

    def release(self, member: Member, call: Waiting, now: float) -> None:
        """Take back what `begin` was given: the call has had its last event."""
        share, budget = self._share, self._budget
        self._running.discard(call)
        share.pending -= 1
        self._ahead.note(now - member.turn_at)
        if member.ahead and member.leaving is None:
            self._next_turn(member, now)
            return
        share.in_flight -= 1
        budget.in_flight -= 1
        member.calls -= 1
        member.idle_since = now
        if member.leaving is None:
            if member.calls == self._concurrency - 1:
                self._roomy.append(member)
            if self.version.contract == "script":
                self._let_go(member, "one call per process")
            elif self._draining is not None and not member.calls:
                self.dismiss(member, self._draining)
        if self._waiting or budget.call_wanted or budget.instance_wanted or share.contended:
            self._freed(now)
        self._expiry.watch(now)

    def lose(self, member: Member) -> None:
        """Learn that an instance ends under its calls, before they are released."""
        self._let_go(member, "gone")

    def take_back(self, member: Member, call: Waiting, now: float) -> None:
        """Let a call wait again that was sent ahead to an instance which ended before its turn."""
        self._ahead.forget(member, call)
        if self._draining is not None:
            self._share.pending -= 1
            self._pass_on(call, now)
        else:
            self._waiting.put_back(call, call.arrived)
            self._advance(now)

    def heard_output(self) -> None:
        """Learn that the function prints: its calls are not sent ahead."""
        self._ahead.stop()

    def gave_up(self, call: Waiting) -> None:
        """Learn that nobody waits any more for a call that was sent ahead."""
        self._ahead.gave_up(call)

    def forget(self, member: Member, call: Waiting) -> None:
        """Forget a call that was sent ahead and given up."""
        self._ahead.forget(member, call)
        self._share.pending -= 1

    def withdraw(self, call: Waiting) -> bool:
        """Forget a call that waits; False if it does not wait (any more)."""
        if self._waiting.discard(call):
            self._share.pending -= 1
            return True
        return False

    def pump(self) -> None:
        """Look again at what was not possible before."""
        self._advance(self._host.clock.monotonic())

    def _hand_over(self, call: Waiting, now: float) -> None:
        member = self._roomy[-1]
        member.calls += 1
        if member.calls == self._concurrency:
            self._roomy.pop()
        self._share.in_flight += 1
        self._budget.in_flight += 1
        self._running.add(call, now)
        member.turn_at = now
        call.begin(member, now)
        if self._waiting and not self._roomy:
            self._send_ahead(member, now)

    def _next_turn(self, member: Member, now: float) -> None:
        """Let the next call that was sent ahead run; it takes the place of the one before."""
        call = self._ahead.next_turn(member)
        self._running.add(call, now)
        member.turn_at = member.idle_since = now
        call.take_turn()
        if self._waiting and len(member.ahead) <= MAX_AHEAD // 2:
            self._send_ahead(member, now)

    def _send_ahead(self, member: Member, now: float) -> None:
        """Give a busy instance its next calls, unless others have a better right to its time."""
        share, budget = self._share, self._budget
        contended = share.contended or budget.call_wanted or budget.instance_wanted
        can_grow = len(self._members) < self._policy.max_instances
        staying = self._draining is None and member.leaving is None
        if staying and self._ahead.allowed and not contended and not can_grow:
            self._ahead.fill(member, now)

    def _advance(self, now: float) -> None:
        """Serve those that wait as far as possible; start instances for the rest."""
        while self._waiting and self._roomy:
            if self._share.in_flight >= self._max_in_flight:
                self._share.want_call(self)
                return
            if self._budget.full:
                self._budget.want_call(self)
                return
            self._hand_over(self._waiting.pop_first(), now)
        if len(self._members) < self._policy.max_instances and self._draining is None:
            self._grow(now)

    def _freed(self, now: float) -> None:
        """Give what a call has freed to those that wait: other pools first, as they wait longer."""
        if self._share.contended:
            self._share.call_freed()
        if self._waiting and self._budget.call_wanted:
            self._budget.want_call(self)
        self._budget.call_freed()
        if self._waiting:
            self._advance(now)
        elif self._budget.instance_wanted and self.idle_longest() is not None:
            self.evict()

    def _pass_on(self, call: Waiting, now: float) -> None:
        if self._successor is not None:
            self._successor.submit(call, now)
        else:
            call.fail(NoCapacity(self._draining, retry_after_s=1))

    def _wait_overdue(self, call: Waiting) -> None:
        self._share.pending -= 1
        limit = f"queue_timeout={self.version.limits.queue_timeout_s:g}s"
        call.fail(QueueTimeout(limit=limit, retry_after_s=1))

    def _fail_waiting(self, error: HearthError) -> None:
        for call in list(self._waiting):
            if self.withdraw(call):
                call.fail(error)
        self._warmed(error)

    # --- instances -------------------------------------------------------------------------------

    def keep_warm(self) -> None:
        """Start what `min_instances` asks for."""
        if self._draining is None:
            self._grow(self._host.clock.monotonic())

    def warm(self, done: Callable[[HearthError | None], None]) -> None:
        """Make sure that an instance is ready; `done` is told None, or why not."""
        if self._roster.serves():
            done(None)
            return
        self._warming.append(done)
        self._grow(self._host.clock.monotonic())

    def drain(self, reason: str, successor: Pool | None) -> None:
        """Take no more calls: those waiting go to `successor`, those running end in peace."""
        now = self._host.clock.monotonic()
        self._draining = reason
        self._successor = successor
        self._share.forget(self)
        self._budget.forget(self)
        for call in list(self._waiting):
            if self.withdraw(call):
                self._pass_on(call, now)
        self._warmed(NoCapacity(reason))
        for member in list(self._members):
            if not member.calls:
                self.dismiss(member, reason)
        self._close_if_empty()

    def dismiss(self, member: Member, reason: str) -> None:
        """Stop an instance; what runs on it is lost."""
        self._let_go(member, reason)
        if member.instance is not None:
            member.instance.stop(reason)

    def stop(self, reason: str) -> None:
        """Stop every instance now."""
        for member in list(self._members):
            self.dismiss(member, reason)

    def idle_longest(self) -> float | None:
        """Return since when the longest idle instance that may go is idle."""
        if self._roster.live() <= self._policy.min_instances:
            return None
        idle = self._roster.idle()
        return idle[0].idle_since if idle else None

    def evict(self) -> None:
        """Stop the longest idle instance: another function needs the room."""
        self.dismiss(self._roster.idle()[0], "evicted: idle longest")

    def _grow(self, now: float) -> None:
        plan = decide(self._snapshot(), self._policy, now)
        verdict = Reservation.REFUSED
        for _ in range(plan.start):
            verdict = self._budget.reserve(self)
            if verdict is not Reservation.GRANTED:
                break
            self._start(now)
        if self._members or not (self._waiting or self._warming):
            return
        if now < self._tries.retry_at:
            self._fail_waiting(self._tries.refusal(now))
        elif verdict is Reservation.REFUSED:
            self._fail_waiting(NoCapacity(retry_after_s=1))

    def _start(self, now: float) -> None:
        member = Member(self, now)
        self._members[member] = None
        self._starting.add(member, now)
        try:
            instance = self._host.backend.start(
                self.version, self._host.code_of(self.version), member
            )
        except HearthError as error:
            self._let_go(member, error.message)
            self._start_failed(error, now)
            self._remove(member)
        else:
            member.instance = instance

    def became_ready(self, member: Member) -> None:
        """Put a started instance to work."""
        if member.leaving is not None:
            return
        now = self._host.clock.monotonic()
        self._starting.discard(member)
        member.ready_at = member.idle_since = now
        self._tries.succeeded()
        self._roomy.append(member)
        self._warmed(None)
        self._advance(now)
        self._expiry.watch(now)

    def is_gone(self, member: Member, end: Exit) -> None:
        """Forget an instance of which nothing is left, and make up for it where needed."""
        now = self._host.clock.monotonic()
        wanted = member.leaving is None
        self._cpu_gone_ns += end.cpu_ns or 0
        self._let_go(member, end.reason or "gone")
        if wanted and not member.served:
            self._start_failed(outcome.of_start(end, self.version), now)
        self._remove(member)
        if self._draining is None:
            self._advance(now)
        self._close_if_empty()

    def _let_go(self, member: Member, reason: str) -> None:
        """Give it no further calls."""
        if member.leaving is None:
            self._starting.discard(member)
            self._roster.let_go(member, reason)

    def _remove(self, member: Member) -> None:
        if member in self._members:
            del self._members[member]
            self._budget.release()

    def _start_overdue(self, member: Member) -> None:
        seconds = self._host.cold_start_timeout_s
        limit = f"cold_start_timeout={seconds:g}s"
        self.dismiss(member, limit)
        self._start_failed(ColdStartTimeout(limit=limit), self._host.clock.monotonic())

    def _start_failed(self, error: HearthError, now: float) -> None:
        """Tell those whom nobody else can serve, and be slower to try again each time."""
        self._tries.failed(error, now)
        _log.warning("%r: start failed: %s", self, error.message)
        if not self._starting and not self._roster.serves():
            self._fail_waiting(error)

    def _warmed(self, error: HearthError | None) -> None:
        warming, self._warming = self._warming, []
        for done in warming:
            done(error)

    def _dismiss_idle(self, now: float) -> None:
        idle = self._roster.idle()
        plan = decide(self._snapshot(idle), self._policy, now)
        for member in idle[: plan.stop]:
            self.dismiss(member, f"idle for {self._policy.idle_ttl_s:g} s")

    def _snapshot(self, idle: list[Member] | None = None) -> Snapshot:
        return Snapshot(
            waiting=len(self._waiting) or int(bool(self._warming)),
            starting=len(self._starting),
            live=self._roster.live(),
            proven=self._tries.proven,
            retry_at=self._tries.retry_at,
            idle_since=tuple(member.idle_since for member in idle or ()),
        )

    def _close_if_empty(self) -> None:
        if self._draining is not None and not self._members:
            self._expiry.cancel()
            self._on_empty(self)

    # --- observation -----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return how many instances are busy, idle, starting, draining, and the waiting calls."""
        return {**self._roster.counts(), "waiting": len(self._waiting) + len(self._ahead)}

    def usage(self) -> tuple[int | None, float | None]:
        """Measure bytes in use now and CPU seconds used ever; None: cannot be measured here."""
        return self._roster.usage(self._cpu_gone_ns)

    def __repr__(self) -> str:
        n = self.counts()
        draining = f", {n['draining']} draining" if n["draining"] else ""
        return (
            f"<Pool {self.version.function}:{self.version.number} {n['busy']} busy, "
            f"{n['idle']} idle, {n['starting']} starting{draining} | {n['waiting']} waiting>"
        )


def _call_overdue(call: Waiting) -> None:
    call.overdue()
