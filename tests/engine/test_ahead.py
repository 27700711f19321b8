"""Calls sent ahead to busy instances: order, loss, limits, and whom they are kept from."""

import pytest

from hearth.engine import ahead
from hearth.errors import Cancelled, QueueTimeout, Timeout
from hearth.sandbox.base import MAX_AHEAD, Exit
from hearth.sandbox.stub import Answer


@pytest.fixture
def quick(engine, monkeypatch):
    """An engine that takes every function for a quick one."""
    monkeypatch.setattr(ahead, "QUICK_S", 1e9)
    return engine


def lines(engine):
    return [len(instance.ahead) for instance in engine.backend.instances]


def busy(engine, *, calls, answer=None, **options):
    """Deploy, and make `calls` calls of which the first runs (for a second each, by default)."""
    hello = engine.deploy(**options)
    engine.submit(hello)
    engine.time.advance()
    engine.answers(after_s=1) if answer is None else engine.answers(**answer)
    return hello, [engine.submit(hello, b"%d" % n) for n in range(calls)]


def test_calls_behind_a_busy_instance_are_sent_ahead_and_answered_in_order(quick):
    hello, calls = busy(quick, calls=5, max_concurrency=1)
    quick.time.advance(1)
    assert lines(quick) == [3]
    assert quick.show(hello) == "1 busy, 0 idle, 0 starting | 3 waiting"
    quick.time.advance(4)
    ended = [invocation.record().finished_at for _, invocation in calls]
    assert ended == sorted(ended)
    assert all(listener.events[-1][0] == "reply" for listener, _ in calls)
    assert quick.invoker.budget.in_flight == 0


def test_no_more_are_sent_ahead_than_the_limit(quick):
    busy(quick, calls=30, max_concurrency=1)
    quick.time.advance(1)
    assert lines(quick) == [MAX_AHEAD]
    quick.time.advance(30)
    assert quick.show(quick.registry.resolve("hello")).endswith("| 0 waiting")


def test_nothing_is_sent_ahead_while_another_instance_could_be_started(quick):
    quick.starts(hangs=False, after_s=100)
    hello = quick.deploy(max_concurrency=3)
    quick.submit(hello)
    quick.time.advance(100)
    quick.answers(after_s=1)
    for _ in range(3):
        quick.submit(hello)
    assert lines(quick)[0] == 0


def test_a_slow_function_is_not_sent_ahead(engine):
    busy(engine, calls=5, max_concurrency=1)
    engine.time.advance(1)
    assert lines(engine) == [0]


def test_thousands_of_quick_calls_make_a_function_quick_and_one_slow_call_ends_it(engine):
    hello = engine.deploy(max_concurrency=1)
    for _ in range(6000):
        engine.submit(hello)
        engine.time.advance()
    assert engine.pool(hello)._ahead.allowed
    engine.answers(after_s=0.2)
    engine.submit(hello)
    engine.time.advance(1)
    assert not engine.pool(hello)._ahead.allowed


def test_a_function_that_prints_is_not_sent_ahead(engine):
    hello = engine.deploy(max_concurrency=1)
    for _ in range(6000):
        engine.submit(hello)
        engine.time.advance()
    engine.answers(output=(("stdout", b"hello"),))
    engine.submit(hello)
    engine.time.advance()
    assert not engine.pool(hello)._ahead.allowed


def test_scripts_and_functions_that_take_several_calls_at_once_are_not_sent_ahead(quick):
    for options in ({"contract": "script"}, {"instance_concurrency": 2}):
        version = quick.deploy("other", **options)
        quick.submit(version)
        assert not quick.pool(version)._ahead.allowed
        quick.time.advance()
        quick.registry.remove(version.function_id)
        quick.invoker.begin_to_retire(version, "done")
        quick.time.advance()


def test_a_crash_costs_only_the_call_that_ran(quick):
    hello, calls = busy(quick, calls=6, max_concurrency=1)
    quick.time.advance(1)
    assert lines(quick) == [4]
    quick.backend.instances[0].die(Exit(signal=11))
    quick.time.advance(10)
    failed = [listener for listener, _ in calls if listener.events[-1][0] == "fail"]
    assert len(failed) == 1
    assert sum(listener.events[-1][0] == "reply" for listener, _ in calls) == 5
    assert quick.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"


def test_a_crash_costs_no_call_that_waits_in_the_node(engine):
    _, calls = busy(engine, calls=4, max_concurrency=1)
    engine.backend.instances[0].die(Exit(signal=11))
    engine.time.advance(10)
    assert [listener.events[-1][0] for listener, _ in calls] == ["fail"] + ["reply"] * 3


def test_a_timeout_costs_only_the_call_that_ran(quick):
    answers = iter([Answer(after_s=1), Answer(hangs=True)])
    hello = quick.deploy(max_concurrency=1, timeout_s=5)
    quick.submit(hello)
    quick.time.advance()
    quick.backend.answers = lambda version, request: next(answers, Answer(body=b"fine"))
    calls = [quick.submit(hello) for _ in range(4)]
    quick.time.advance(1)
    assert lines(quick) == [2]
    quick.time.advance(10)
    assert isinstance(calls[1][0].error, Timeout)
    assert [calls[n][0].body for n in (2, 3)] == [b"fine", b"fine"]


def test_the_timeout_of_a_call_sent_ahead_begins_with_its_turn(quick):
    _, calls = busy(quick, calls=5, max_concurrency=1, timeout_s=1.5)
    quick.time.advance(10)
    assert all(listener.events[-1][0] == "reply" for listener, _ in calls)


def test_a_call_sent_ahead_keeps_its_queue_timeout(quick):
    _, calls = busy(quick, calls=4, max_concurrency=1, queue_timeout_s=1.5)
    quick.time.advance(1.6)
    assert isinstance(calls[3][0].error, QueueTimeout)
    quick.time.advance(10)
    assert [listener.events[-1][0] for listener, _ in calls] == ["reply", "reply", "fail", "fail"]
    assert quick.invoker.budget.in_flight == 0


def test_a_call_sent_ahead_can_be_cancelled(quick):
    hello, calls = busy(quick, calls=4, max_concurrency=1)
    quick.time.advance(1)
    calls[3][1].cancel("asked")
    assert isinstance(calls[3][0].error, Cancelled)
    quick.time.advance(10)
    assert calls[3][1].record().status == "cancelled"
    assert [listener.events[-1][0] for listener, _ in calls] == ["reply"] * 3 + ["fail"]
    assert quick.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"


def test_a_cancelled_call_whose_instance_ends_before_its_turn_is_settled(quick):
    hello, calls = busy(quick, calls=3, max_concurrency=1)
    quick.time.advance(1)
    calls[2][1].cancel("asked")
    quick.backend.instances[0].die(Exit(signal=9))
    quick.time.advance(5)
    assert calls[2][1].settled
    assert not list(quick.invoker.live())
    assert quick.show(hello) == "0 busy, 0 idle, 0 starting | 0 waiting"


def test_a_redeploy_fails_no_call_that_was_sent_ahead(quick):
    hello, calls = busy(quick, calls=6, max_concurrency=1)
    quick.time.advance(1)
    second = quick.deploy(number=2, max_concurrency=1)
    quick.invoker.begin_to_retire(hello, "replaced by version 2")
    quick.backend.instances[0].die(Exit(signal=9))
    quick.time.advance(20)
    lost = [listener for listener, _ in calls if listener.events[-1][0] == "fail"]
    assert len(lost) == 1
    assert quick.show(second) == "0 busy, 1 idle, 0 starting | 0 waiting"
