"""How many instances a pool should have: a pure decision, the pool does the rest."""

from __future__ import annotations

from typing import NamedTuple


class Policy(NamedTuple):
    """What a version allows."""

    max_instances: int
    min_instances: int
    instance_concurrency: int
    idle_ttl_s: float


class Snapshot(NamedTuple):
    """What a pool has now."""

    waiting: int
    starting: int
    live: int
    """Instances that are starting or serving, without those that are leaving."""
    proven: bool
    """Some instance of this version has become ready once."""
    retry_at: float
    """Monotonic seconds before which nothing is started, after failed starts."""
    idle_since: tuple[float, ...] = ()
    """When each instance without a call became so, longest idle first."""


class Plan(NamedTuple):
    """What to do."""

    start: int
    stop: int
    """How many of the idle ones to stop, longest idle first."""


def decide(snapshot: Snapshot, policy: Policy, now: float) -> Plan:
    """Return what brings the pool to where it should be.

    1. Starts cover the waiting calls that no start under way will take, and `min_instances`.
    2. A version that never became ready gets one start at a time: if it cannot be loaded, that is
       found out once and not once per caller.
    3. Nothing starts before `retry_at`.
    4. What was idle for `idle_ttl_s` goes, down to `min_instances`, unless calls are waiting.
    """
    needed = -(-snapshot.waiting // policy.instance_concurrency) - snapshot.starting
    wanted = max(needed, policy.min_instances - snapshot.live)
    if not snapshot.proven:
        wanted = min(wanted, 1 - snapshot.starting)
    if now < snapshot.retry_at:
        wanted = 0
    start = max(0, min(wanted, policy.max_instances - snapshot.live))
    if snapshot.waiting:
        return Plan(start, 0)
    expired = sum(since + policy.idle_ttl_s <= now for since in snapshot.idle_since)
    return Plan(start, max(0, min(expired, snapshot.live - policy.min_instances)))


FREE_FAILURES = 2
BACK_OFF_S = 1.0
MAX_BACK_OFF_S = 30.0


def back_off_s(failures: int) -> float:
    """Return how long to wait after that many failed starts in a row: 0, 0, then 1, 2, 4 … 30 s."""
    if failures <= FREE_FAILURES:
        return 0.0
    return float(min(MAX_BACK_OFF_S, BACK_OFF_S * 2 ** min(16, failures - FREE_FAILURES - 1)))
