"""How calls find instances, and what becomes of those that find none."""

from hearth.errors import (
    ColdStartTimeout,
    InitError,
    NoCapacity,
    OutOfMemory,
    QueueFull,
    QueueTimeout,
)
from hearth.sandbox.base import Exit


def test_a_first_call_starts_an_instance_and_the_second_reuses_it(engine):
    hello = engine.deploy()
    first, _ = engine.submit(hello, b"one")
    assert engine.show(hello) == "0 busy, 0 idle, 1 starting | 1 waiting"
    engine.time.advance()
    assert first.body == b"one"
    second, invocation = engine.submit(hello, b"two")
    assert engine.show(hello) == "1 busy, 0 idle, 0 starting | 0 waiting"
    engine.time.advance()
    assert second.body == b"two"
    assert not invocation.cold
    assert engine.backend.started == 1


def test_the_instance_used_last_is_used_first(engine):
    hello = engine.deploy(max_concurrency=3)
    engine.submit(hello)
    engine.time.advance()
    engine.answers(after_s=1)
    for _ in range(3):
        engine.submit(hello)
    engine.time.advance(5)
    assert engine.show(hello) == "0 busy, 3 idle, 0 starting | 0 waiting"
    engine.submit(hello)
    last = [i for i in engine.backend.instances if i.calls]
    engine.time.advance(2)
    engine.submit(hello)
    assert [i for i in engine.backend.instances if i.calls] == last


def test_a_version_that_never_came_up_is_started_once_for_many_callers(engine):
    engine.starts(after_s=1)
    hello = engine.deploy(max_concurrency=5)
    for _ in range(5):
        engine.submit(hello)
    assert engine.show(hello) == "0 busy, 0 idle, 1 starting | 5 waiting"
    engine.answers(hangs=True)
    engine.time.advance(1)
    assert engine.show(hello) == "1 busy, 0 idle, 4 starting | 4 waiting"
    engine.time.advance(1)
    assert engine.show(hello) == "5 busy, 0 idle, 0 starting | 0 waiting"


def test_no_more_calls_run_than_max_concurrency(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(max_concurrency=2)
    listeners = [engine.submit(hello, b"x")[0] for _ in range(4)]
    engine.time.advance(0.5)
    assert engine.show(hello) == "2 busy, 0 idle, 0 starting | 2 waiting"
    engine.time.advance(2)
    assert [len(listener.events) for listener in listeners] == [1, 1, 1, 1]
    assert engine.backend.started == 2


def test_one_more_than_the_queue_holds_is_refused_with_429(engine):
    engine.answers(hangs=True)
    hello = engine.deploy(max_concurrency=1, queue_size=2)
    for _ in range(3):
        engine.submit(hello)
    engine.time.advance()
    refused, invocation = engine.submit(hello)
    assert isinstance(refused.error, QueueFull)
    assert refused.error.limit == "queue_size=2"
    assert refused.error.retry_after_s
    assert invocation.refused
    assert engine.observer.refusals == ["QueueFull"]
    assert engine.show(hello) == "1 busy, 0 idle, 0 starting | 2 waiting"


def test_a_call_that_waits_longer_than_the_queue_timeout_fails_with_503(engine):
    engine.answers(hangs=True)
    hello = engine.deploy(max_concurrency=1, queue_timeout_s=3, timeout_s=60)
    engine.submit(hello)
    engine.time.advance(1)
    waiting, _ = engine.submit(hello)
    engine.time.advance(2.9)
    assert waiting.events == []
    engine.time.advance(0.2)
    assert isinstance(waiting.error, QueueTimeout)
    assert waiting.error.limit == "queue_timeout=3s"
    ((status, run_ns, wait_ns, _),) = engine.observer.finished_calls
    assert (status, run_ns) == ("failed", None), "it never ran, so it took no time"
    assert wait_ns >= 3e9
    assert engine.show(hello) == "1 busy, 0 idle, 0 starting | 0 waiting"


def test_everyone_who_waits_for_the_only_start_hears_why_it_failed(engine):
    failure = {"type": "ImportError", "message": "no module x", "stack": "File handler.py"}
    engine.starts(after_s=1, dies=Exit(code=1, init_failure=failure))
    hello = engine.deploy()
    listeners = [engine.submit(hello)[0] for _ in range(3)]
    engine.time.advance(1)
    for listener in listeners:
        assert isinstance(listener.error, InitError)
        assert listener.error.message == "ImportError: no module x"
        assert listener.error.stack == "File handler.py"
    assert engine.backend.started == 1


def test_starts_that_keep_failing_are_tried_less_and_less_often(engine):
    engine.starts(dies=Exit(code=3))
    hello = engine.deploy()
    for _ in range(3):
        engine.submit(hello)
        engine.time.advance()
    assert engine.backend.started == 3
    refused, _ = engine.submit(hello)
    assert "3 starts failed in a row" in refused.error.message
    assert "exit code 3" in refused.error.message
    assert engine.backend.started == 3
    engine.time.advance(1.1)
    engine.starts()
    works, _ = engine.submit(hello, b"back")
    engine.time.advance()
    assert works.body == b"back"


def test_a_failed_start_does_not_fail_those_whom_another_instance_serves(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(max_concurrency=2)
    engine.submit(hello)
    engine.time.advance(0.5)
    engine.starts(dies=Exit(code=3))
    waiting, _ = engine.submit(hello, b"later")
    engine.time.advance(3)
    assert waiting.events[0][0] == "reply"


def test_a_start_that_takes_too_long_is_stopped_and_its_waiters_get_504(make_engine):
    engine = make_engine(cold_start_timeout=2)
    engine.starts(hangs=True)
    hello = engine.deploy()
    listener, _ = engine.submit(hello)
    engine.time.advance(1.9)
    assert listener.events == []
    engine.time.advance(0.2)
    assert isinstance(listener.error, ColdStartTimeout)
    assert listener.error.limit == "cold_start_timeout=2s"
    assert engine.backend.instances == []
    assert engine.settle()[0].status == "timeout"


def test_memory_spent_while_loading_is_named(engine):
    engine.starts(dies=Exit(signal=9, oom=True, memory_limit=64 << 20, memory_peak=66 << 20))
    listener, _ = engine.submit(engine.deploy())
    engine.time.advance()
    assert isinstance(listener.error, OutOfMemory)
    assert "64 MiB" in listener.error.message
    assert "peak 66 MiB" in listener.error.message


def test_an_idle_instance_goes_after_its_time_and_not_before(engine):
    hello = engine.deploy(idle_ttl_s=60)
    engine.submit(hello)
    engine.time.advance(50)
    engine.submit(hello)
    engine.time.advance(50)
    assert engine.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"
    engine.time.advance(15)
    assert engine.show(hello) == "0 busy, 0 idle, 0 starting | 0 waiting"
    assert engine.backend.instances == []
    assert engine.invoker.budget.instances == 0


def test_an_idle_instance_stays_as_long_as_the_node_says_where_its_function_does_not(make_engine):
    engine = make_engine(warm_instance_ttl=5)
    own, nodes = engine.deploy("own", idle_ttl_s=60), engine.deploy("nodes")
    for version in (own, nodes):
        engine.submit(version)
    engine.time.advance(10)
    assert engine.show(own) == "0 busy, 1 idle, 0 starting | 0 waiting"
    assert engine.show(nodes) == "0 busy, 0 idle, 0 starting | 0 waiting"


def test_instances_beyond_the_need_go_while_the_busy_one_stays(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(max_concurrency=3, idle_ttl_s=10)
    for _ in range(3):
        engine.submit(hello)
    for _ in range(30):
        engine.time.advance(2)
        engine.submit(hello)
    assert engine.show(hello) == "1 busy, 0 idle, 0 starting | 0 waiting"


def test_min_instances_are_kept_and_replaced_when_they_die(engine):
    hello = engine.deploy(min_instances=2, idle_ttl_s=1)
    engine.invoker.keep_warm(hello)
    engine.time.advance()
    assert engine.show(hello) == "0 busy, 2 idle, 0 starting | 0 waiting"
    for _ in range(2):
        engine.submit(hello)
    engine.time.advance(100)
    assert engine.show(hello) == "0 busy, 2 idle, 0 starting | 0 waiting"
    engine.backend.instances[0].die(Exit(signal=11))
    engine.time.advance()
    assert engine.show(hello) == "0 busy, 2 idle, 0 starting | 0 waiting"


def test_an_instance_that_takes_several_calls_is_filled_before_another_starts(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(max_concurrency=5, instance_concurrency=4)
    for _ in range(5):
        engine.submit(hello)
    engine.time.advance(0.5)
    assert engine.show(hello) == "2 busy, 0 idle, 0 starting | 0 waiting"
    assert sorted(len(i.calls) for i in engine.backend.instances) == [1, 4]


def test_a_script_gets_a_new_instance_for_each_call(engine):
    hello = engine.deploy(contract="script", max_concurrency=2)
    listeners = [engine.submit(hello, b"x")[0] for _ in range(4)]
    engine.time.advance(1)
    assert [listener.body for listener in listeners] == [b"x"] * 4
    assert engine.backend.started == 4
    assert engine.backend.instances == []


def test_the_node_refuses_calls_beyond_its_own_limit(make_engine):
    engine = make_engine(max_concurrent_functions=2)
    engine.answers(hangs=True)
    a, b = engine.deploy("a"), engine.deploy("b")
    for version in (a, b):
        engine.submit(version)
        engine.time.advance()
    refused, _ = engine.submit(a)
    assert isinstance(refused.error, NoCapacity)
    assert refused.error.limit == "max_concurrent_functions=2"
    assert refused.error.retry_after_s


def test_calls_that_waited_for_the_nodes_limit_run_when_a_call_ends_elsewhere(make_engine):
    engine = make_engine(max_concurrent_functions=1)
    engine.starts(after_s=1)
    engine.answers(after_s=5)
    a, b = engine.deploy("a"), engine.deploy("b")
    engine.submit(a)
    waiting, _ = engine.submit(b, b"b")
    engine.time.advance(2)
    assert engine.show(b) == "0 busy, 1 idle, 0 starting | 1 waiting"
    engine.time.advance(5)
    assert engine.show(b) == "1 busy, 0 idle, 0 starting | 0 waiting"
    engine.time.advance(5)
    assert waiting.events[0][0] == "reply"


def test_the_instance_idle_longest_makes_room_for_another_function(make_engine):
    engine = make_engine(max_instances=2)
    a, b, c = (engine.deploy(name) for name in "abc")
    for version in (a, b):
        engine.submit(version)
        engine.time.advance(1)
    listener, _ = engine.submit(c, b"c")
    engine.time.advance()
    assert listener.body == b"c"
    assert engine.show(a).startswith("0 busy, 0 idle")
    assert engine.show(b).startswith("0 busy, 1 idle")
    assert engine.invoker.budget.instances == 2


def test_without_anything_to_evict_a_new_function_is_refused(make_engine):
    engine = make_engine(max_instances=1)
    engine.answers(hangs=True)
    engine.submit(engine.deploy("a"))
    engine.time.advance()
    refused, _ = engine.submit(engine.deploy("b"))
    assert isinstance(refused.error, NoCapacity)
    assert engine.show(engine.registry.resolve("b")) == "0 busy, 0 idle, 0 starting | 0 waiting"


def test_no_instance_starts_while_memory_is_short(make_engine):
    engine = make_engine(memory_reserve=1 << 30)
    engine.memory = 1 << 29
    refused, _ = engine.submit(engine.deploy("a"))
    assert isinstance(refused.error, NoCapacity)
    engine.memory = 1 << 31
    engine.time.advance(1)
    listener, _ = engine.submit(engine.registry.resolve("a"), b"now")
    engine.time.advance()
    assert listener.body == b"now"


def test_a_redeploy_moves_those_who_wait_and_lets_the_running_ones_end(engine, run):
    engine.answers(after_s=2)
    old = engine.deploy(max_concurrency=1)
    running, _ = engine.submit(old, b"old")
    engine.time.advance(1)
    waiting, invocation = engine.submit(old, b"new")
    new = engine.deploy(number=2, max_concurrency=1)
    retired = run.start(engine.invoker.retire(old, "replaced by version 2"))
    assert engine.show(new) == "0 busy, 0 idle, 1 starting | 1 waiting"
    assert not retired.done()
    engine.time.advance(10)
    run.until(retired)
    assert running.events[0][0] == waiting.events[0][0] == "reply"
    assert invocation.version is new
    assert [pool.version for pool in engine.invoker.pools()] == [new]


def test_the_functions_limit_holds_across_a_redeploy(engine, run):
    engine.answers(after_s=5)
    old = engine.deploy(max_concurrency=1)
    engine.submit(old)
    engine.time.advance(1)
    new = engine.deploy(number=2, max_concurrency=1)
    run.start(engine.invoker.retire(old, "replaced by version 2"))
    waiting, _ = engine.submit(new, b"x")
    engine.time.advance(1)
    assert engine.show(new) == "0 busy, 1 idle, 0 starting | 1 waiting"
    engine.time.advance(4)
    assert engine.show(new) == "1 busy, 0 idle, 0 starting | 0 waiting"
    engine.time.advance(5)
    assert waiting.events[0][0] == "reply"
