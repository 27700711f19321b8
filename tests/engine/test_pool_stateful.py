"""Whatever happens in whatever order: the pool keeps its promises."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hearth.engine import ahead
from hearth.sandbox.base import Exit
from hearth.sandbox.stub import Answer, Start

LAST = {"reply", "end", "fail"}


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool over the stub backend; every start and answer comes by hand."""

    make_engine = None

    @initialize(
        max_concurrency=st.integers(1, 5),
        instance_concurrency=st.integers(1, 3),
        queue_size=st.integers(0, 4),
        min_instances=st.integers(0, 2),
        max_instances=st.sampled_from([1, 3, 100]),
        node_limit=st.sampled_from([2, 1000]),
    )
    def begin(self, max_instances, node_limit, **options):
        self.engine = self.make_engine(
            max_instances=max_instances, max_concurrent_functions=node_limit, cold_start_timeout=20
        )
        self.engine.starts(hangs=True)
        self.engine.answers(hangs=True)
        self.engine.backend.stop_s = 0.05
        self.options = {**options, "timeout_s": 30, "queue_timeout_s": 10, "idle_ttl_s": 15}
        self.limit = options["max_concurrency"]
        self.number = 1
        self.version = self.engine.deploy(**self.options)
        self.other = self.engine.deploy("other", max_concurrency=1)
        self.calls = []

    # --- what may happen -------------------------------------------------------------------------

    @rule(other=st.booleans())
    def a_call_arrives(self, other):
        version = self.other if other else self.version
        self.calls.append(self.engine.submit(version, b"x"))

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 7.0, 16.0, 31.0]))
    def time_passes(self, seconds):
        self.engine.time.advance(seconds)

    @precondition(lambda self: self.starting())
    @rule(data=st.data(), fails=st.booleans())
    def a_start_ends(self, data, fails):
        instance = data.draw(st.sampled_from(self.starting()))
        instance.came_up(Start(dies=Exit(code=1) if fails else None))

    @precondition(lambda self: self.busy())
    @rule(
        data=st.data(),
        answer=st.sampled_from(
            [
                Answer(body=b"y"),
                Answer(stream=(b"a", b"b")),
                Answer(error=("E", "m", None)),
                Answer(dies=Exit(signal=11)),
                Answer(headers=b"forged\n"),
            ]
        ),
    )
    def a_call_is_answered(self, data, answer):
        instance = data.draw(st.sampled_from(self.busy()))
        instance._answer(data.draw(st.sampled_from(instance.calls)), answer)

    @precondition(lambda self: self.engine.backend.instances)
    @rule(data=st.data())
    def an_instance_dies(self, data):
        data.draw(st.sampled_from(self.engine.backend.instances)).die(Exit(signal=9))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data):
        data.draw(st.sampled_from(self.calls))[1].cancel("asked")

    @rule()
    def the_function_is_deployed_again(self):
        old = self.version
        self.number += 1
        self.version = self.engine.deploy(number=self.number, **self.options)
        self.engine.invoker.begin_to_retire(old, "replaced")

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def no_instance_is_lost_or_counted_twice(self):
        if not hasattr(self, "engine"):
            return
        held = sum(self.total(pool) for pool in self.engine.invoker.pools())
        assert held == self.engine.invoker.budget.instances == len(self.engine.backend.instances)

    @invariant()
    def no_more_calls_run_than_allowed(self):
        if not hasattr(self, "engine"):
            return
        of_function = [i for i in self.engine.backend.instances if i.version.function == "hello"]
        assert sum(len(instance.calls) for instance in of_function) <= self.limit
        budget = self.engine.invoker.budget
        running = sum(len(instance.calls) for instance in self.engine.backend.instances)
        assert running == budget.in_flight <= budget.max_in_flight
        for instance in self.engine.backend.instances:
            assert len(instance.calls) <= instance.version.limits.instance_concurrency

    @invariant()
    def nobody_waits_beside_an_instance_with_room(self):
        if not hasattr(self, "engine"):
            return
        budget = self.engine.invoker.budget
        for pool in self.engine.invoker.pools():
            if pool._waiting and not budget.full:
                share_full = pool._share.in_flight >= pool.version.limits.max_concurrency
                assert share_full or not pool._roomy, pool

    @invariant()
    def whoever_waits_is_waited_for(self):
        """Each waiting call has an instance that may serve it, or one is awaited."""
        if not hasattr(self, "engine"):
            return
        for pool in self.engine.invoker.pools():
            if pool.counts()["waiting"]:
                wanted = pool in self.engine.invoker.budget._want_instance
                assert pool._members or wanted, pool

    @invariant()
    def each_call_hears_at_most_one_last_event_and_none_is_forgotten(self):
        if not hasattr(self, "engine"):
            return
        waiting = sum(pool.counts()["waiting"] for pool in self.engine.invoker.pools())
        told = running = queued = 0
        for listener, invocation in self.calls:
            last = [event for event in listener.events if event[0] in LAST]
            assert len(last) <= 1
            told += len(last)
            queued += invocation.status == "queued"
            running += invocation.status == "running"
            assert bool(last) == (invocation.status not in ("queued", "running"))
        assert queued == waiting
        assert told + queued + running == len(self.calls)

    @invariant()
    def the_repr_says_what_is(self):
        if not hasattr(self, "engine"):
            return
        for pool in self.engine.invoker.pools():
            mine = [m for m in pool._members if m.leaving is None]
            alive = [m for m in mine if m.ready]
            busy = sum(bool(m.calls) for m in alive)
            text = f"{busy} busy, {len(alive) - busy} idle, {len(mine) - len(alive)} starting"
            assert text in repr(pool)

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        self.engine.time.advance(200)  # every deadline passes
        for listener, _ in self.calls:
            assert sum(event[0] in LAST for event in listener.events) == 1
        for pool in self.engine.invoker.pools():
            assert not pool.counts()["waiting"], pool
            assert not pool.counts()["busy"], pool
        assert self.engine.invoker.budget.in_flight == 0
        assert not list(self.engine.invoker.live())
        shares = self.engine.invoker._shares.values()
        assert all(share.in_flight == share.pending == 0 for share in shares)

    # --- shorthands ------------------------------------------------------------------------------

    def starting(self):
        return [
            instance
            for pool in self.engine.invoker.pools()
            for member in pool._members
            if not member.ready and member.leaving is None
            for instance in [member.instance._inner]
        ]

    def busy(self):
        return [i for i in self.engine.backend.instances if i.calls]

    @staticmethod
    def total(pool):
        counts = pool.counts()
        return sum(counts[state] for state in ("busy", "idle", "starting", "draining"))


@pytest.mark.parametrize("quick_s", [ahead.QUICK_S, 1e9], ids=["slow", "sent ahead"])
def test_the_pool_keeps_its_promises_whatever_happens(make_engine, monkeypatch, quick_s):
    """300 histories of up to 40 events each, for slow functions and for quick ones."""
    monkeypatch.setattr(ahead, "QUICK_S", quick_s)
    PoolMachine.make_engine = make_engine
    run_state_machine_as_test(
        PoolMachine, settings=settings(max_examples=300, stateful_step_count=40, deadline=None)
    )
