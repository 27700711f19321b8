"""One call from arrival to record."""

import pytest

from hearth.errors import (
    Cancelled,
    Crashed,
    InvocationError,
    OutOfMemory,
    ProtocolViolation,
    ResponseTooLarge,
    ShuttingDown,
    Timeout,
)
from hearth.sandbox.base import CallRequest, Exit


def request(name="call-x", body=b""):
    return CallRequest(
        id=name, method=b"POST", path=b"/", query=b"", headers=b"", body=body, deadline=0.0
    )


def test_an_answer_reaches_the_sink_and_leaves_a_record(engine):
    engine.answers(after_s=0.5, status=201, headers=b"X-A: 1\r\n", body=b"hi")
    engine.starts(after_s=1)
    listener, _ = engine.submit(engine.deploy(), traceparent="00-1-1-01")
    engine.time.advance(2)
    assert listener.events == [("reply", 201, b"x-a: 1\r\n", b"hi")]
    (record,) = engine.settle()
    assert (record.status, record.http_status, record.error) == ("succeeded", 201, None)
    assert record.metrics.cold_start
    assert record.metrics.init == record.metrics.queue_wait == pytest.approx(1e9, rel=1e-6)
    assert record.metrics.duration == pytest.approx(0.5e9, rel=1e-6)
    assert record.finished_at - record.created_at == pytest.approx(1.5)
    assert record.traceparent == "00-1-1-01"
    assert record.result is None
    assert [c[0] for c in engine.observer.finished_calls] == ["succeeded"]


def test_the_function_is_told_its_deadline_counted_from_hand_over(engine):
    seen = []

    def answers(version, request):
        from hearth.sandbox.stub import Answer

        seen.append(request.deadline)
        return Answer()

    engine.backend.answers = answers
    engine.starts(after_s=3)
    start = engine.time.time()
    engine.submit(engine.deploy(timeout_s=10))
    engine.time.advance(4)
    assert seen == [pytest.approx(start + 13)]


def test_a_call_over_its_timeout_gets_504_at_once_and_its_instance_is_killed(engine):
    engine.answers(hangs=True)
    engine.backend.stop_s = 0.05
    hello = engine.deploy(timeout_s=30)
    listener, _ = engine.submit(hello)
    engine.time.advance(29.9)
    assert listener.events == []
    engine.time.advance(0.101)
    assert isinstance(listener.error, Timeout)
    assert listener.error.limit == "timeout=30s"
    assert listener.error.status == 504
    assert engine.backend.instances != []
    engine.time.advance(0.05)
    assert engine.backend.instances == []
    (record,) = engine.settle()
    assert (record.status, record.error.type) == ("timeout", "Timeout")


def test_a_reply_after_the_timeout_is_not_heard(engine):
    engine.answers(after_s=30.02)
    engine.backend.stop_s = 1
    listener, _ = engine.submit(engine.deploy(timeout_s=30))
    engine.time.advance(60)
    assert [event[0] for event in listener.events] == ["fail"]
    assert [record.status for record in engine.settle()] == ["timeout"]


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        (Exit(code=3), Crashed, "exit code 3"),
        (Exit(signal=11), Crashed, "signal SIGSEGV"),
        (
            Exit(signal=9, oom=True, memory_limit=128 << 20, memory_peak=131 << 20),
            OutOfMemory,
            "killed: memory limit 128 MiB reached (peak 131 MiB)",
        ),
        (
            Exit(signal=9, violation=True, reason="protocol violation: REPLY to call 7"),
            ProtocolViolation,
            "protocol violation: REPLY to call 7",
        ),
        (
            Exit(signal=9, response_too_large=True, reason="answer larger than 5 bytes"),
            ResponseTooLarge,
            "larger than 5 bytes",
        ),
        (Exit(signal=9, reason="spawner gone"), Crashed, "spawner gone"),
    ],
)
def test_a_lost_call_says_how_its_instance_ended(engine, end, kind, text):
    engine.answers(dies=end, output=(("stderr", b"last words"),))
    hello = engine.deploy()
    listener, _ = engine.submit(hello)
    engine.time.advance()
    assert isinstance(listener.error, kind)
    assert text in listener.error.message
    (record,) = engine.settle()
    assert record.status == "failed"
    assert record.metrics.memory_peak == end.memory_peak
    assert record.logs[0].text == "last words"
    assert engine.show(hello) == "0 busy, 0 idle, 0 starting | 0 waiting"


def test_what_a_handler_raises_is_a_runtime_error_with_its_stack(engine):
    engine.answers(error=("ValueError", "no good", "File handler.py, line 3"))
    hello = engine.deploy()
    listener, _ = engine.submit(hello)
    engine.time.advance()
    assert type(listener.error) is InvocationError
    assert listener.error.type == "RuntimeError"
    assert listener.error.message == "ValueError: no good"
    assert listener.error.stack == "File handler.py, line 3"
    assert engine.show(hello).startswith("0 busy, 1 idle")


def test_the_message_of_a_failed_script_is_the_specs(engine):
    engine.answers(error=("RuntimeError", "Function exited with code 4", None))
    listener, _ = engine.submit(engine.deploy(contract="script"))
    engine.time.advance()
    assert listener.error.message == "Function exited with code 4"


def test_a_streamed_answer_is_passed_on_piece_by_piece(engine):
    engine.answers(stream=(b"a", b"b"), headers=b"content-type: text/plain\r\n")
    listener, _ = engine.submit(engine.deploy(), keep_result=True)
    engine.time.advance()
    assert [event[0] for event in listener.events] == ["head", "chunk", "chunk", "end"]
    assert engine.settle()[0].result == "ab"


@pytest.mark.parametrize(
    "block",
    [
        b"x: a\nset-cookie: evil\r\n",
        b"x: a\rb\r\n",
        b"x: a\x00b\r\n",
        b"x : a\r\n",
        b" folded\r\n",
        b"no colon\r\n",
        b"x: unfinished",
        b": empty\r\n",
        b"\r\n",
        b"x: 1\r\n\r\n<html>\r\n",
        b"x: " + b"y" * 70_000 + b"\r\n",
        b"x: y\r\n" * 101,
    ],
)
def test_a_forged_header_block_fails_the_call_and_ends_the_instance(engine, block):
    engine.answers(headers=block)
    listener, _ = engine.submit(engine.deploy())
    engine.time.advance()
    assert isinstance(listener.error, ProtocolViolation)
    assert engine.backend.instances == []


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 65535])
def test_a_status_that_would_break_http_fails_the_call(engine, status):
    engine.answers(status=status)
    listener, _ = engine.submit(engine.deploy())
    engine.time.advance()
    assert isinstance(listener.error, ProtocolViolation)


def test_headers_of_the_connection_and_the_platform_are_dropped(engine):
    block = (
        b"Connection: close\r\ncontent-length: 5\r\nTransfer-Encoding: chunked\r\n"
        b"x-call-id: 1\r\nX-Start-Time: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nDate: now\r\n"
    )
    engine.answers(headers=block)
    listener, _ = engine.submit(engine.deploy())
    engine.time.advance()
    assert listener.events[0][2] == b"set-cookie: a=1\r\nset-cookie: b=2\r\n"


def test_output_is_found_with_its_call_line_by_line_and_bounded(engine):
    output = (("stdout", b"one\ntw"), ("stderr", b"err\r\n"), ("stdout", b"o\nthree\xff"))
    engine.answers(output=output)
    hello = engine.deploy()
    engine.submit(hello)
    engine.time.advance()
    engine.answers(output=(("stdout", b"x" * 2000),))
    engine.submit(hello)
    first, second = engine.settle()
    lines = [(line.stream, line.text) for line in first.logs]
    assert lines == [
        ("stdout", "one"),
        ("stderr", "err"),
        ("stdout", "two"),
        ("stdout", "three\ufffd"),
    ]
    assert not first.logs_truncated
    assert second.logs_truncated
    assert sum(len(line.text) for line in second.logs) == 1000


@pytest.mark.parametrize(
    ("body", "result", "truncated"),
    [
        (b'{"a": 1}', {"a": 1}, False),
        (b"plain", "plain", False),
        (b"\xff\xfe", {"base64": "//4="}, False),
        (b"", None, False),
        (b'"' + b"x" * 200 + b'"', '"' + "x" * 99, True),
    ],
)
def test_a_kept_result_is_json_text_or_base64_and_bounded(engine, body, result, truncated):
    engine.submit(engine.deploy(), body, keep_result=True)
    (record,) = engine.settle()
    assert record.result == result
    assert record.result_truncated is truncated


def test_cancelling_a_waiting_call_leaves_the_others_alone(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(max_concurrency=1)
    running, _ = engine.submit(hello)
    engine.time.advance()
    waiting, invocation = engine.submit(hello)
    assert engine.invoker.cancel(invocation.id, "asked")
    assert isinstance(waiting.error, Cancelled)
    engine.time.advance(2)
    assert running.events[0][0] == "reply"
    assert [r.status for r in engine.settle()] == ["cancelled", "succeeded"]
    assert not engine.invoker.cancel(invocation.id, "again")


def test_cancelling_a_running_call_kills_its_instance(engine):
    engine.answers(hangs=True)
    hello = engine.deploy()
    listener, invocation = engine.submit(hello)
    engine.time.advance()
    invocation.cancel("client disconnected")
    invocation.cancel("twice is once")
    assert isinstance(listener.error, Cancelled)
    assert "client disconnected" in listener.error.message
    engine.time.advance()
    assert engine.backend.instances == []
    assert len(listener.events) == 1
    assert engine.settle()[0].status == "cancelled"


def test_cancelling_one_of_several_calls_of_an_instance_spares_the_others(engine):
    engine.answers(after_s=1)
    hello = engine.deploy(instance_concurrency=2, max_concurrency=2)
    first, invocation = engine.submit(hello)
    second, _ = engine.submit(hello)
    engine.time.advance()
    invocation.cancel("asked")
    engine.time.advance(2)
    assert isinstance(first.error, Cancelled)
    assert second.events[0][0] == "reply"
    assert engine.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"


def test_pauses_reach_the_instance_and_never_outlive_the_call(engine):
    engine.answers(hangs=True)
    hello = engine.deploy()
    _, invocation = engine.submit(hello)
    engine.time.advance()
    (instance,) = engine.backend.instances
    invocation.pause()
    invocation.pause()
    assert instance.paused == 1
    caller = instance.calls.pop()
    caller.on_reply(200, b"", b"")
    assert instance.paused == 0
    invocation.pause()
    assert instance.paused == 0


def test_a_sink_that_raises_costs_nobody_an_instance(engine):
    hello = engine.deploy()

    class Broken:
        def reply(self, *_):
            raise RuntimeError("bug above")

    engine.invoker.submit(hello, request(), Broken())
    engine.time.advance()
    assert engine.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"
    assert len(engine.settle()) == 1


def test_draining_lets_calls_end_and_refuses_new_ones(engine, run):
    engine.answers(after_s=1)
    hello = engine.deploy()
    listener, _ = engine.submit(hello, b"x")
    drained = run.start(engine.invoker.drain(10))
    refused, _ = engine.submit(hello)
    assert isinstance(refused.error, ShuttingDown)
    engine.time.advance(1)
    run.turn()
    assert listener.events[0][0] == "reply"
    engine.time.advance(1)
    run.until(drained)
    assert engine.backend.instances == []
    assert len(engine.records) == 1


def test_what_outlives_the_grace_time_is_ended_and_recorded(engine, run):
    engine.answers(hangs=True)
    hello = engine.deploy(max_concurrency=1)
    running, _ = engine.submit(hello)
    engine.time.advance()
    waiting, _ = engine.submit(hello)
    drained = run.start(engine.invoker.drain(0))
    for _ in range(20):
        run.turn()
        engine.time.advance()
    run.until(drained)
    assert isinstance(running.error, ShuttingDown)
    assert isinstance(waiting.error, ShuttingDown)
    assert engine.backend.instances == []
    assert [record.error.type for record in engine.records] == ["ShuttingDown"] * 2


def test_invoke_returns_the_whole_answer_and_the_complete_record(engine, run):
    engine.answers(stream=(b'{"a":', b"1}"))
    task = run.start(engine.invoker.invoke(engine.deploy(), request()))
    engine.time.advance()
    record, reply = run.until(task)
    assert (reply.status, reply.body) == (200, b'{"a":1}')
    assert record.result == {"a": 1}


def test_invoke_raises_only_when_the_call_was_refused(engine, run):
    engine.answers(error=("ValueError", "x", None))
    hello = engine.deploy(max_concurrency=1, queue_size=0)
    task = run.start(engine.invoker.invoke(hello, request()))
    engine.time.advance()
    record, reply = run.until(task)
    assert (record.status, reply) == ("failed", None)
    engine.answers(hangs=True)
    engine.submit(hello)
    with pytest.raises(Exception, match="queue is full"):
        run.until(run.start(engine.invoker.invoke(hello, request("call-y"))))


def test_an_invoke_that_nobody_awaits_any_more_is_cancelled(engine, run):
    engine.answers(hangs=True)
    task = run.start(engine.invoker.invoke(engine.deploy(), request()))
    engine.time.advance()
    task.cancel()
    run.turn()
    assert engine.settle()[0].status == "cancelled"


def test_warming_tells_why_a_version_cannot_be_loaded(engine, run):
    failure = {"type": "SyntaxError", "message": "bad", "stack": "line 1"}
    engine.starts(dies=Exit(code=1, init_failure=failure))
    hello = engine.deploy()
    task = run.start(engine.invoker.warm(hello))
    engine.time.advance()
    with pytest.raises(Exception, match="SyntaxError: bad"):
        run.until(task)
    engine.starts()
    task = run.start(engine.invoker.warm(hello))
    engine.time.advance()
    run.until(task)
    assert engine.show(hello) == "0 busy, 1 idle, 0 starting | 0 waiting"


def test_a_version_can_be_warmed_while_the_functions_limit_is_used_up(engine, run):
    engine.answers(hangs=True)
    engine.submit(engine.deploy(max_concurrency=1))
    engine.time.advance()
    task = run.start(engine.invoker.warm(engine.deploy(number=2, max_concurrency=1)))
    engine.time.advance()
    run.until(task)


def test_the_counts_of_a_removed_function_are_dropped_by_who_counts(engine):
    engine.invoker.forget("hello")
    assert engine.observer.forgotten == ["hello"]
