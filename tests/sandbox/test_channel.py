"""The node's end of an instance, over real sockets and pipes; the test plays the host."""

import asyncio
import json
import os
import socket

import pytest
import uvloop

from hearth.model import Limits, Version
from hearth.sandbox.base import CallRequest, Exit
from hearth.sandbox.channel import Channel
from hearth_runtime import frames

LIMIT = 100_000


class Recorder:
    """Hears everything: the events of one instance and of its calls."""

    def __init__(self, prefix="", log=None):
        self.log = [] if log is None else log
        self.prefix = prefix

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args: self.log.append((self.prefix + name[3:], *args))


class Rig:
    """A channel on a uvloop loop, and the host's ends of it."""

    def __init__(self, **options):
        self.loop = asyncio.get_running_loop()
        limits = Limits(
            response_bytes=LIMIT, instance_concurrency=options.pop("instance_concurrency", 1)
        )
        version = Version(
            function_id="id", function="hello", number=1, label="", digest="d", artifact="a",
            runtime="python3.11", entry="handler.py", handler="handle",
            contract=options.pop("contract", "handler"), limits=limits, environment={"K": "V"},
        )  # fmt: skip
        node, self.host = socket.socketpair()
        out_read, self.out = os.pipe()
        err_read, self.err = os.pipe()
        self.log = []
        self.channel = Channel(
            self.loop, node.detach(), out_read, err_read,
            version=version, events=Recorder(log=self.log),
        )  # fmt: skip
        self.host.setblocking(False)
        self.channel.start_init()

    async def received(self, kind):
        """Return the payload of the next frame, which must be of `kind`."""
        header = await self.exactly(frames.HEADER_BYTES)
        length, got, _, _, number = frames.HEADER.unpack(header)
        assert got == kind
        return number, await self.exactly(length)

    async def exactly(self, size):
        data = b""
        while len(data) < size:
            async with asyncio.timeout(10):
                data += await self.loop.sock_recv(self.host, size - len(data))
        return data

    def send(self, kind, number, payload=b"", flags=0):
        self.host.send(frames.frame(kind, number, payload, flags))

    async def until(self, name):
        """Wait for an event and return its arguments."""
        async with asyncio.timeout(10):
            while True:
                for event in self.log:
                    if event[0] == name:
                        return event[1:]
                await asyncio.sleep(0.001)

    async def ready(self):
        await self.received(frames.INIT)
        self.send(frames.READY, 0, b'{"init_ns": 5}')
        assert await self.until("ready") == (5,)

    async def call(self, body=b"", name="call "):
        self.channel.call(call_request(body), Recorder(name, self.log))
        return await self.received(frames.CALL)

    def end(self, **fields):
        """Let the host be gone."""
        self.host.close()
        for fd in (self.out, self.err):
            os.close(fd)
        return self.channel.finish(Exit(**fields))

    def names(self):
        return [event[0] for event in self.log]


async def turns():
    """Let the loop look at everything that has arrived: what did not happen now, does not."""
    for _ in range(10):
        await asyncio.sleep(0)


def call_request(body=b""):
    return CallRequest(
        id="abc", method=b"PUT", path=b"/p", query=b"a=1", headers=b"x: y\r\n",
        body=body, deadline=12.5,
    )  # fmt: skip


def reply(status=200, headers=b"", body=b""):
    return frames.REPLY_HEAD.pack(status, len(headers)) + headers + body


def scenario(test):
    """Run an `async def` test on uvloop."""

    def run(*args, **kwargs):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    run.__name__ = test.__name__
    run.__signature__ = __import__("inspect").signature(test)
    return run


@scenario
async def test_init_says_what_to_load():
    rig = Rig()
    _, payload = await rig.received(frames.INIT)
    assert json.loads(payload) == {
        "contract": "handler", "entry": "handler.py", "handler": "handle",
        "root": "/app/function", "function": "hello", "version": 1,
        "environment": {"K": "V"}, "instance_concurrency": 1,
    }  # fmt: skip
    rig.end(code=0)


@scenario
async def test_a_call_arrives_whole_and_its_reply_comes_back():
    rig = Rig()
    await rig.ready()
    number, payload = await rig.call(b"body")
    assert number == 1
    assert frames.parse_call(payload) == (
        12.5, b"abc", b"PUT", b"/p", b"a=1", b"x: y\r\n", b"body",
    )  # fmt: skip
    rig.send(frames.REPLY, 1, reply(201, b"a: b\r\n", b"hi"))
    assert await rig.until("call reply") == (201, b"a: b\r\n", b"hi")
    rig.end(code=0)


@scenario
async def test_a_body_larger_than_the_socket_buffer_arrives_whole():
    rig = Rig()
    await rig.ready()
    body = os.urandom(5 << 20)
    _, payload = await rig.call(body)
    assert frames.parse_call(payload)[-1] == body
    rig.send(frames.REPLY, 1, reply())
    await rig.until("call reply")
    number, _ = await rig.call(b"small again")
    assert number == 2
    rig.end(code=0)


@scenario
async def test_a_streamed_answer_arrives_in_pieces():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.send(frames.HEAD, 1, reply(200, b"a: b\r\n"))
    rig.send(frames.CHUNK, 1, b"x")
    rig.send(frames.CHUNK, 1, b"y")
    rig.send(frames.END, 1)
    await rig.until("call end")
    assert rig.log[1:] == [
        ("call head", 200, b"a: b\r\n"), ("call chunk", b"x"), ("call chunk", b"y"), ("call end",),
    ]  # fmt: skip
    rig.end(code=0)


@scenario
async def test_no_chunk_is_delivered_while_reading_is_paused():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.send(frames.HEAD, 1, reply())
    await rig.until("call head")
    rig.channel.pause_reading()
    rig.channel.pause_reading()
    rig.send(frames.CHUNK, 1, b"x")
    rig.channel.resume_reading()
    await turns()
    assert "call chunk" not in rig.names()
    rig.channel.resume_reading()
    await rig.until("call chunk")
    rig.end(code=0)


@scenario
async def test_output_of_a_call_comes_before_its_reply():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.host.setblocking(True)
    os.write(rig.out, b"printed")
    os.write(rig.err, b"logged")
    rig.send(frames.REPLY, 1, reply(), frames.OUTPUT)
    await rig.until("call reply")
    assert rig.names()[-1] == "call reply"
    assert {event[1:] for event in rig.log if event[0] == "call output"} == {
        ("stdout", b"printed"), ("stderr", b"logged"),
    }  # fmt: skip
    os.write(rig.out, b"later")
    assert await rig.until("output") == ("stdout", b"later")
    rig.end(code=0)


@scenario
async def test_output_larger_than_the_pipe_does_not_block_the_function():
    rig = Rig()
    await rig.ready()
    await rig.call()
    text = os.urandom(3 << 20)
    writer = asyncio.to_thread(write_all, rig.out, text)
    async with asyncio.timeout(20):
        await writer
    rig.send(frames.REPLY, 1, reply(), frames.OUTPUT)
    await rig.until("call reply")
    assert b"".join(event[2] for event in rig.log if event[0] == "call output") == text
    rig.end(code=0)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@scenario
async def test_what_was_sent_before_the_end_still_counts():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.send(frames.REPLY, 1, reply(body=b"last"), frames.OUTPUT)
    os.write(rig.out, b"words")
    end = rig.end(code=3)
    assert rig.log[-2:] == [("call output", "stdout", b"words"), ("call reply", 200, b"", b"last")]
    assert end == Exit(code=3)


@scenario
async def test_a_call_is_lost_with_its_process_after_its_output():
    rig = Rig()
    await rig.ready()
    await rig.call()
    os.write(rig.err, b"Segmentation fault")
    end = rig.end(signal=11, memory_peak=7)
    assert rig.log[-2:] == [("call output", "stderr", b"Segmentation fault"), ("call lost", end)]
    assert (end.signal, end.memory_peak, end.violation) == (11, 7, False)
    rig.channel.call(call_request(), Recorder("late ", rig.log))
    assert rig.log[-1] == ("late lost", end)
    assert rig.channel.finish(Exit(code=0)) == end


@scenario
async def test_a_function_that_cannot_be_loaded_says_why():
    rig = Rig()
    await rig.received(frames.INIT)
    rig.send(frames.INIT_FAILED, 0, b'{"type": "ImportError", "message": "x", "stack": "s"}')
    failure = {"type": "ImportError", "message": "x", "stack": "s"}
    assert await rig.until("init_failed") == (failure,)
    assert rig.end(code=1).init_failure == failure


@scenario
async def test_a_long_error_is_cut():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.host.setblocking(True)
    error = {"type": "T" * 500, "message": "m" * 20_000, "stack": "s" * 100_000}
    rig.send(frames.ERROR, 1, json.dumps(error).encode())
    kind, message, stack = await rig.until("call error")
    assert (len(kind), len(message), len(stack)) == (200, 8192, 65536)
    rig.end(code=0)


@scenario
async def test_several_calls_are_told_apart_by_their_numbers():
    rig = Rig(instance_concurrency=2)
    await rig.ready()
    await rig.call(name="one ")
    await rig.call(name="two ")
    rig.send(frames.REPLY, 2, reply(body=b"2"))
    rig.send(frames.REPLY, 1, reply(body=b"1"))
    assert (await rig.until("one reply"))[2] == b"1"
    assert (await rig.until("two reply"))[2] == b"2"
    rig.end(code=0)


@scenario
async def test_calls_sent_ahead_are_answered_in_order_and_each_has_its_output():
    rig = Rig()
    await rig.ready()
    await rig.call(name="one ")
    callers = [(call_request(b"2"), Recorder("two ", rig.log))]
    callers.append((call_request(b"3"), Recorder("three ", rig.log)))
    rig.channel.call_ahead(callers)
    assert [(await rig.received(frames.CALL))[0] for _ in range(2)] == [2, 3]
    for number, name in ((1, "one"), (2, "two"), (3, "three")):
        os.write(rig.out, name.encode())
        rig.send(frames.REPLY, number, reply(body=b"%d" % number), flags=frames.OUTPUT)
        assert (await rig.until(f"{name} reply"))[2] == b"%d" % number
        assert (f"{name} output", "stdout", name.encode()) in rig.log
    rig.end(code=0)


@pytest.mark.parametrize("kind", [frames.REPLY, frames.HEAD, frames.ERROR])
@scenario
async def test_a_call_answered_before_its_turn_ends_the_instance(kind):
    rig = Rig()
    await rig.ready()
    await rig.call(name="one ")
    rig.channel.call_ahead([(call_request(b"2"), Recorder("two ", rig.log))])
    payload = b'{"type": "a", "message": "b"}' if kind == frames.ERROR else reply()
    rig.send(kind, 2, payload)
    await rig.until("violation")
    rig.end(signal=9)
    assert [n for n in rig.names() if n in ("one lost", "two lost")] == ["one lost", "two lost"]


BIG = b'{"type": "' + b"x" * (1 << 20) + b'", "message": ""}'
LATE_ERROR = frames.frame(frames.ERROR, 1, b'{"type": "E", "message": "m"}')
REPLY_1 = frames.frame(frames.REPLY, 1, reply())
HEAD_1 = frames.frame(frames.HEAD, 1, reply())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frames.frame(frames.REPLY, 7, reply()), id="reply to a forged number"),
        pytest.param(frames.frame(frames.REPLY, 0, reply()), id="reply to nobody"),
        pytest.param(frames.frame(frames.REPLY, 2, reply()), id="reply to a call not yet made"),
        pytest.param(REPLY_1 + REPLY_1, id="reply twice"),
        pytest.param(REPLY_1 + LATE_ERROR, id="error after the reply"),
        pytest.param(HEAD_1 + HEAD_1, id="two heads"),
        pytest.param(HEAD_1 + REPLY_1, id="reply inside a stream"),
        pytest.param(frames.frame(frames.CHUNK, 1, b"x"), id="chunk without head"),
        pytest.param(frames.frame(frames.END, 1), id="end without head"),
        pytest.param(HEAD_1 + frames.frame(frames.END, 1, b"x"), id="end with a payload"),
        pytest.param(frames.frame(frames.HEAD, 1, reply(body=b"x")), id="head with a body"),
        pytest.param(frames.frame(frames.REPLY, 1, b"\x00"), id="reply shorter than its head"),
        pytest.param(frames.frame(frames.REPLY, 1, b"\0\xc8\0\0\0\x09x"), id="headers too long"),
        pytest.param(frames.frame(frames.READY, 0, b'{"init_ns": 1}'), id="ready twice"),
        pytest.param(frames.frame(frames.INIT_FAILED, 0, b'{"type":"a","message":"b"}'), id="late"),
        pytest.param(frames.frame(frames.ERROR, 1, b"not json"), id="error that is no JSON"),
        pytest.param(frames.frame(frames.ERROR, 1, b'{"type": 1}'), id="error of wrong types"),
        pytest.param(frames.frame(frames.ERROR, 1, b"[" * 100_000), id="error nested deeply"),
        pytest.param(
            frames.frame(frames.ERROR, 1, b'{"type": "a", "message": "\xff"}'), id="error not UTF-8"
        ),
        pytest.param(frames.frame(frames.INIT, 0), id="a frame of the node's"),
        pytest.param(frames.frame(99, 1), id="an unknown kind"),
        pytest.param(frames.frame(frames.REPLY, 1, reply(), flags=2), id="an unknown flag"),
        pytest.param(frames.HEADER.pack(4, frames.REPLY, 0, 1, 1) + b"abcd", id="reserved bits"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="garbage"),
    ],
)
@scenario
async def test_an_illegal_frame_ends_the_instance_and_only_that(sent):
    rig, other = Rig(), Rig()
    await rig.ready()
    await other.ready()
    await rig.call()
    await other.call()
    rig.host.setblocking(True)
    rig.host.sendall(sent)
    (reason,) = await rig.until("violation")
    end = rig.end(signal=9)
    assert end.violation or end.response_too_large
    assert end.reason == reason
    last = [n for n in rig.names() if n in ("call reply", "call error", "call end", "call lost")]
    assert len(last) == 1
    assert rig.names().count("violation") == 1
    other.send(frames.REPLY, 1, reply(body=b"unharmed"))
    assert (await other.until("call reply"))[2] == b"unharmed"
    other.end(code=0)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frames.frame(frames.REPLY, 1, reply(body=b"x" * (LIMIT + 1))), id="in one"),
        pytest.param(frames.HEADER.pack(1 << 30, frames.REPLY, 0, 0, 1), id="only announced"),
        pytest.param(
            HEAD_1 + frames.frame(frames.CHUNK, 1, b"x" * 60_000) * 2, id="in many chunks"
        ),
    ],
)
@scenario
async def test_an_answer_over_the_limit_is_no_answer(sent):
    rig = Rig()
    await rig.ready()
    await rig.call()
    sender = asyncio.create_task(rig.loop.sock_sendall(rig.host, sent))
    await rig.until("violation")
    sender.cancel()
    end = rig.end(signal=9)
    assert end.response_too_large
    assert not end.violation
    assert rig.names()[-1] == "call lost"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frames.frame(frames.READY, 0, b"{}"), id="without a time"),
        pytest.param(frames.frame(frames.READY, 0, b'{"init_ns": -1}'), id="negative"),
        pytest.param(frames.frame(frames.READY, 0, b'{"init_ns": 1e400}'), id="infinite"),
        pytest.param(frames.frame(frames.READY, 3, b'{"init_ns": 1}'), id="inside a call"),
        pytest.param(frames.frame(frames.READY, 0, b" " * 2000), id="long"),
        pytest.param(frames.frame(frames.INIT_FAILED, 0, BIG), id="huge failure"),
        pytest.param(REPLY_1, id="reply before ready"),
    ],
)
@scenario
async def test_what_is_not_ready_is_not_taken_for_it(sent):
    rig = Rig()
    await rig.received(frames.INIT)
    sender = asyncio.create_task(rig.loop.sock_sendall(rig.host, sent))
    await rig.until("violation")
    sender.cancel()
    assert "ready" not in rig.names()
    rig.end(signal=9)


@scenario
async def test_a_host_that_withholds_the_end_of_its_frame_is_lost_with_its_process():
    rig = Rig()
    await rig.ready()
    await rig.call()
    rig.host.send(frames.frame(frames.REPLY, 1, reply(body=b"abc"))[:-1])
    end = rig.end(signal=9)
    assert rig.log[-1] == ("call lost", end)
    assert not end.violation


@scenario
async def test_a_host_that_closes_its_channel_but_lives_on_is_ended():
    rig = Rig()
    await rig.ready()
    rig.host.close()
    (reason,) = await rig.until("violation")
    assert "closed" in reason
    rig.end(signal=9)


@scenario
async def test_an_exit_right_after_the_channel_closed_is_no_violation():
    rig = Rig()
    await rig.ready()
    rig.host.close()
    await turns()
    assert rig.end(code=4) == Exit(code=4)
    assert "violation" not in rig.names()


@pytest.mark.parametrize("ended", [{"code": 4}, {"signal": 11}])
@scenario
async def test_an_exit_that_is_reported_late_is_no_violation(ended):
    rig = Rig()
    await rig.ready()
    rig.host.close()
    await rig.until("violation")  # it is ended for it, in case it lives on
    assert rig.end(**ended) == Exit(**ended)


@pytest.mark.parametrize(
    ("stdout", "kind", "body"),
    [
        (b'{"a": 1}\n', b"application/json", b'{"a": 1}'),
        (b"hello\nworld\n", b"text/plain; charset=utf-8", b"hello\nworld"),
        (b"", b"text/plain; charset=utf-8", b""),
        (b'{"a": NaN}', b"text/plain; charset=utf-8", b'{"a": NaN}'),
        (b'{"a": 1} x', b"text/plain; charset=utf-8", b'{"a": 1} x'),
        (b"\xff\n", b"application/octet-stream", b"\xff\n"),
        (b"[" * 100_000, b"text/plain; charset=utf-8", b"[" * 100_000),
    ],
)
@scenario
async def test_the_stdout_of_a_script_is_its_answer(stdout, kind, body):
    rig = Rig(contract="script")
    await rig.ready()
    await rig.call()
    rig.host.close()
    await asyncio.to_thread(write_all, rig.out, stdout)
    os.write(rig.err, b"logged")
    for fd in (rig.out, rig.err):
        os.close(fd)
    rig.channel.finish(Exit(code=0))
    assert rig.log[-1] == ("call reply", 200, b"content-type: " + kind + b"\r\n", body)
    assert ("call output", "stderr", b"logged") in rig.log


@scenario
async def test_a_script_that_exits_with_a_code_has_failed_and_shows_its_stderr():
    rig = Rig(contract="script")
    await rig.ready()
    await rig.call()
    os.write(rig.err, b"Traceback")
    rig.end(code=3)
    assert rig.log[-1] == ("call error", "RuntimeError", "Function exited with code 3", "Traceback")


@scenario
async def test_a_killed_script_is_lost():
    rig = Rig(contract="script")
    await rig.ready()
    await rig.call()
    end = rig.end(signal=9, oom=True)
    assert rig.log[-1] == ("call lost", end)


@scenario
async def test_a_script_that_writes_more_than_its_answer_may_be_is_ended():
    rig = Rig(contract="script")
    await rig.ready()
    await rig.call()
    await asyncio.to_thread(write_all, rig.out, b"x" * (LIMIT + 1))
    await rig.until("violation")
    end = rig.end(signal=9)
    assert end.response_too_large
    assert rig.log[-1] == ("call lost", end)


@scenario
async def test_finish_closes_every_descriptor():
    before = set(os.listdir("/proc/self/fd"))
    rig = Rig()
    await rig.ready()
    rig.end(code=0)
    assert set(os.listdir("/proc/self/fd")) == before
