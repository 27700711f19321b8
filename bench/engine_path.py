"""CPU time of one warm call through the engine's layers.

    python bench/engine_path.py [--calls 50000] [--profile]

`stub` is Invoker + Pool + Guard + a stub instance that answers within the call; `channel` is the
same with a real `Channel` to a forked process that answers each frame at once, so it includes the
node's two system calls and its turn of the event loop; `bare` is that process spoken to with
nothing but `add_reader`, `recv` and `send`: the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import uvloop

from hearth.config import Settings
from hearth.engine.invoke import Invoker
from hearth.engine.registry import Registry
from hearth.model import Limits, SystemClock, Version
from hearth.sandbox.base import CallRequest, Exit, Usage
from hearth.sandbox.channel import Channel
from hearth.sandbox.stub import Answer, StubBackend
from hearth_runtime import frames

BODY = b'{"hello": "' + b"x" * 50 + b'"}'
HEADERS = b"host: localhost\r\ncontent-type: application/json\r\nuser-agent: bench\r\n"
ANSWER_HEADERS = b"content-type: application/json\r\n"
VERSION = Version(
    function_id="f" * 32,
    function="hello",
    number=1,
    label="",
    digest="",
    artifact="",
    runtime="python3.11",
    entry="handler.py",
    handler="handle",
    contract="handler",
    limits=Limits(max_concurrency=1),
)


class Observer:
    """Counts as cheaply as can be."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self.calls = 0

    def finished(self, *_: Any) -> None:
        """Count one."""
        self.calls += 1

    def refused(self, *_: Any) -> None:
        """Fail: nothing may be refused here."""
        raise AssertionError("refused")


class EchoBackend:
    """Real channels to forked processes that answer every CALL at once."""

    name = "echo"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on `loop`."""
        self.loop = loop
        self.instances: list[EchoInstance] = []

    async def open(self) -> None:
        """Prepare nothing."""

    async def close(self) -> None:
        """End all."""
        for instance in self.instances:
            instance.stop("closed")

    def missing(self, version: Version) -> tuple[str, ...]:
        """Claim to enforce all."""
        return ()

    def start(self, version: Version, code: str, listener: Any) -> EchoInstance:
        """Fork one."""
        self.instances.append(EchoInstance(self.loop, version, listener))
        return self.instances[-1]


class EchoInstance:
    """One forked process behind a channel."""

    id = "echo"

    def __init__(self, loop: asyncio.AbstractEventLoop, version: Version, listener: Any) -> None:
        """Fork."""
        self.listener = listener
        (node, host), (out, _out), (err, _err) = socket.socketpair(), os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            node.close()
            answer_frames(host)
        host.close()
        self.channel = Channel(loop, node.detach(), out, err, version=version, events=self)
        self.channel.start_init()
        self.call = self.channel.call
        self.pause_reading = self.channel.pause_reading
        self.resume_reading = self.channel.resume_reading

    def usage(self) -> Usage:
        """Know nothing."""
        return Usage()

    def stop(self, reason: str) -> None:
        """Kill and reap."""
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.listener.on_gone(self, self.channel.finish(Exit(signal=9, reason=reason)))

    def on_ready(self, init_ns: int) -> None:
        """Pass it on."""
        self.listener.on_ready(self, init_ns)

    def on_init_failed(self, failure: dict[str, Any]) -> None:
        """Fail."""
        raise AssertionError(failure)

    def on_output(self, stream: str, data: bytes) -> None:
        """Ignore it."""

    def on_violation(self, reason: str) -> None:
        """Fail."""
        raise AssertionError(reason)


def answer_frames(host: socket.socket) -> None:
    """Be the host: READY, then a fixed reply to each frame."""
    host.recv(65536)
    host.send(frames.frame(frames.READY, 0, b'{"init_ns": 1}'))
    payload = frames.REPLY_HEAD.pack(200, len(ANSWER_HEADERS)) + ANSWER_HEADERS + BODY
    number = 0
    while host.recv(65536):
        number += 1
        host.send(frames.frame(frames.REPLY, number, payload))
    os._exit(0)


class Loop:
    """A sink that makes the next call when it has an answer, until all are made."""

    def __init__(self, invoker: Invoker, calls: int) -> None:
        """Make `calls` calls."""
        self.invoker = invoker
        self.left = calls
        self.done = asyncio.get_running_loop().create_future()

    def submit(self) -> None:
        """Make one."""
        request = CallRequest("0" * 32, b"POST", b"/", b"", HEADERS, BODY, 0.0)
        self.invoker.submit(VERSION, request, self)

    def reply(self, invocation: Any, status: int, headers: bytes, body: bytes) -> None:
        """Make the next."""
        self.left -= 1
        if not self.left:
            self.done.set_result(None)
        elif self.left > 0:
            self.submit()

    def fail(self, invocation: Any, error: Exception) -> None:
        """Give up."""
        self.done.set_exception(error)


def make_invoker(backend: Any, records: Callable[[list[Any]], None]) -> Invoker:
    """Return an invoker with records and an observer on, as in a node."""
    return Invoker(
        Settings(),
        backend,
        timers=asyncio.get_running_loop(),
        registry=Registry(),
        code_of=lambda version: "/",
        observer=Observer(),
        on_records=(records,),
        clock=SystemClock(),
    )


async def through_stub(calls: int) -> float:
    """Return CPU µs per call with a stub that answers within the call."""
    answer = Answer(after_s=None, headers=ANSWER_HEADERS, body=BODY)
    backend = StubBackend(asyncio.get_running_loop(), answers=lambda *_: answer)
    invoker = make_invoker(backend, lambda records: None)
    await invoker.warm(VERSION)
    once = Loop(invoker, -1)
    request = CallRequest("0" * 32, b"POST", b"/", b"", HEADERS, BODY, 0.0)
    submit = invoker.submit
    start = time.process_time()
    for _ in range(calls):
        submit(VERSION, request, once)
    used = time.process_time() - start
    await invoker.drain(0)
    return used / calls * 1e6


async def through_channel(calls: int) -> float:
    """Return CPU µs of this process per call with a forked echo process."""
    backend = EchoBackend(asyncio.get_running_loop())
    invoker = make_invoker(backend, lambda records: None)
    await invoker.warm(VERSION)
    loop = Loop(invoker, calls)
    start = time.process_time()
    loop.submit()
    await loop.done
    used = time.process_time() - start
    await invoker.drain(0)
    await backend.close()
    return used / calls * 1e6


async def bare(calls: int) -> float:
    """Return CPU µs of this process per round trip with nothing around it."""
    node, host = socket.socketpair()
    pid = os.fork()
    if not pid:
        node.close()
        answer_frames(host)
    host.close()
    node.setblocking(False)
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    call = frames.call_frame(1, 0.0, b"0" * 32, b"POST", b"/", b"", HEADERS, BODY)
    left = calls

    def readable() -> None:
        nonlocal left
        node.recv(65536)
        left -= 1
        if left:
            node.send(call)
        else:
            done.set_result(None)

    loop.add_reader(node.fileno(), readable)
    start = time.process_time()
    node.send(call)
    await done
    used = time.process_time() - start
    loop.remove_reader(node.fileno())
    node.close()
    os.waitpid(pid, 0)  # noqa: ASYNC222 # it ends with the socket; nothing else runs here
    return used / calls * 1e6


def main() -> None:
    """Measure each variant and print JSON: the best of three rounds, as others use the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    variants = {"stub": through_stub, "channel": through_channel, "bare": bare}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.profile:
            profile = cProfile.Profile()
            profile.enable()
            runner.run(through_stub(options.calls))
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        rounds = [
            {name: runner.run(variant(options.calls)) for name, variant in variants.items()}
            for _ in range(3)
        ]
    best = {name: round(min(r[name] for r in rounds), 2) for name in variants}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"cpu_us_per_call": best, "calls": options.calls, "max_rss_kib": rss}))


if __name__ == "__main__":
    main()
