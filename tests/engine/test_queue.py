"""Asynchronous calls, in a real store, over the stub backend."""

import asyncio
import time

import pytest
import uvloop

from hearth.config import Execution, Retention, Settings
from hearth.config import Queue as QueueSettings
from hearth.engine.invoke import Invoker
from hearth.engine.queue import Queue
from hearth.engine.registry import Registry
from hearth.errors import QueueFull, ShuttingDown
from hearth.model import Function, Limits, SystemClock, Version
from hearth.sandbox.base import CallRequest, Exit
from hearth.sandbox.stub import Answer, StubBackend
from hearth.store.sqlite import SqliteStore


def version(number=1, **limits):
    return Version(
        function_id="f1", function="hello", number=number, label="", digest="d", artifact="a",
        runtime="python3.11", entry="handler.py", handler="handle", contract="handler",
        limits=Limits(**limits),
    )  # fmt: skip


def request(name, body=b"{}"):
    return CallRequest(
        id=name, method=b"POST", path=b"/", query=b"", headers=b"", body=body, deadline=0.0
    )


class Node:
    """A store, an engine and the queue, as `node.py` puts them together."""

    def __init__(self, path, *, answers=None, **settings):
        self.store = SqliteStore(path / "hearth.db")
        self.registry = Registry()
        loop = asyncio.get_running_loop()
        self.backend = StubBackend(loop)
        if answers:
            self.backend.answers = answers
        self.invoker = Invoker(
            Settings(execution=Execution(), retention=Retention()), self.backend,
            timers=loop, registry=self.registry, code_of=lambda _: "/",
        )  # fmt: skip
        self.queue = Queue(
            QueueSettings(**settings), store=self.store, registry=self.registry,
            invoker=self.invoker, clock=SystemClock(),
        )  # fmt: skip

    async def __aenter__(self):
        await self.store.open()
        return self

    async def __aexit__(self, *_):
        await self.queue.stop()
        await self.invoker.drain(0)
        await self.queue.close()
        await self.store.close()

    def deploy(self, **limits):
        deployed = version(**limits)
        function = Function(
            id="f1", name="hello", created_at=0, updated_at=0, aliases={"latest": deployed.number}
        )
        self.registry.install(function, deployed)
        return deployed

    async def until(self, name, *statuses):
        """Wait until the call has one of these statuses and return its record."""
        async with asyncio.timeout(20):
            while True:
                record = await self.store.get_invocation(name)
                if record is not None and record.status in statuses:
                    return record
                await asyncio.sleep(0.005)


def scenario(test):
    def run(tmp_path):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(tmp_path))

    run.__name__ = test.__name__
    return run


@scenario
async def test_an_accepted_call_runs_and_its_record_has_the_result(tmp_path):
    async with Node(tmp_path) as node:
        hello = node.deploy()
        await node.queue.start()
        assert await node.queue.enqueue(hello, request("a1", b'{"x": 1}')) == "a1"
        record = await node.until("a1", "succeeded")
        assert record.result == {"x": 1}
        assert record.asynchronous
        assert record.attempts == 1
        assert node.queue.alive


@scenario
async def test_a_failed_call_is_settled_and_not_tried_again(tmp_path):
    seen = []

    def answers(version, request):
        seen.append(request.id)
        return Answer(dies=Exit(code=3))

    async with Node(tmp_path, answers=answers) as node:
        await node.queue.start()
        await node.queue.enqueue(node.deploy(), request("a1"))
        record = await node.until("a1", "failed")
        assert record.error.type == "Crashed"
        assert seen == ["a1"]


@scenario
async def test_calls_beyond_the_functions_limit_all_run_in_the_end(tmp_path):
    def answers(version, request):
        return Answer(after_s=0.01)

    async with Node(tmp_path, answers=answers, concurrency=20) as node:
        hello = node.deploy(max_concurrency=1, queue_size=2)
        await node.queue.start()
        names = [f"a{i}" for i in range(10)]
        for name in names:
            await node.queue.enqueue(hello, request(name))
        for name in names:
            assert (await node.until(name, "succeeded", "failed")).status == "succeeded"
            assert (await node.store.get_invocation(name)).attempts == 1


@scenario
async def test_the_wait_of_an_accepted_call_begins_with_its_202(tmp_path):
    async with Node(tmp_path) as node:
        await node.queue.enqueue(node.deploy(), request("a1"))
        enqueued_at = time.time()
        await asyncio.sleep(0.05)  # is what is measured
        started_from = time.time()
        await node.queue.start()
        record = await node.until("a1", "succeeded")
        assert record.metrics.queue_wait >= (started_from - enqueued_at) * 1e9
        assert record.metrics.queue_wait == int((record.started_at - record.created_at) * 1e9)


@scenario
async def test_no_more_queued_calls_run_at_once_than_configured(tmp_path):
    def answers(version, request):
        return Answer(hangs=True)

    async with Node(tmp_path, answers=answers, concurrency=2) as node:
        hello = node.deploy()
        await node.queue.start()
        for i in range(4):
            await node.queue.enqueue(hello, request(f"a{i}"))
        await node.until("a1", "running")
        assert len(list(node.invoker.live())) == 2
        assert (await node.store.get_invocation("a3")).status == "queued"


@scenario
async def test_one_more_than_the_queue_holds_is_refused(tmp_path):
    async with Node(tmp_path, max_depth=1) as node:
        hello = node.deploy()
        await node.queue.enqueue(hello, request("a1"))
        with pytest.raises(QueueFull) as refused:
            await node.queue.enqueue(hello, request("a2"))
        assert refused.value.limit == "queue.max_depth=1"
        assert await node.store.get_invocation("a2") is None
        await node.queue.start()
        await node.until("a1", "succeeded")


@scenario
async def test_what_a_dead_node_left_runs_again_until_its_attempts_are_used_up(tmp_path):
    for _ in range(2):
        async with Node(tmp_path) as node:  # claims the call and dies before it is settled
            if not _:
                await node.store.enqueue(node.queue._queued(version(), request("a1"), None))
                await node.store.enqueue(node.queue._queued(version(), request("a2"), None))
            claimed = await node.store.claim(10 if not _ else 1)
            assert claimed[0].id == "a1"
    async with Node(tmp_path, max_attempts=2) as node:
        node.deploy()
        await node.queue.start()
        exhausted = await node.until("a1", "failed")
        assert exhausted.error.type == "NodeRestarted"
        assert exhausted.finished_at >= exhausted.created_at
        assert (await node.until("a2", "succeeded")).attempts == 2


@scenario
async def test_a_call_of_a_removed_function_fails_and_says_so(tmp_path):
    async with Node(tmp_path) as node:
        await node.queue.enqueue(version(), request("a1"))
        await node.queue.start()
        record = await node.until("a1", "failed")
        assert record.error.type == "NotFound"
        assert record.finished_at >= record.created_at


@scenario
async def test_queued_and_running_calls_can_be_cancelled(tmp_path):
    def answers(version, request):
        return Answer(hangs=True)

    async with Node(tmp_path, answers=answers, concurrency=1) as node:
        hello = node.deploy()
        await node.queue.start()
        for name in ("a1", "a2"):
            await node.queue.enqueue(hello, request(name))
        await node.until("a1", "running")
        assert await node.queue.cancel("a2")
        assert await node.queue.cancel("a1")
        for name in ("a1", "a2"):
            await node.until(name, "cancelled")
        assert not await node.queue.cancel("a1")
        await node.queue.close()
        assert node.queue.depth == 0


@scenario
async def test_a_stopping_node_gives_back_what_it_could_not_finish(tmp_path):
    def answers(version, request):
        return Answer(hangs=True)

    async with Node(tmp_path, answers=answers) as node:
        hello = node.deploy()
        await node.queue.start()
        await node.queue.enqueue(hello, request("a1"))
        await node.until("a1", "running")
        await node.queue.stop()
        with pytest.raises(ShuttingDown):
            await node.queue.enqueue(hello, request("a2"))
        await node.invoker.drain(0)
        await node.queue.close()
        assert (await node.store.get_invocation("a1")).status == "queued"
        assert not node.queue.alive
    async with Node(tmp_path) as node:
        node.deploy()
        await node.queue.start()
        assert (await node.until("a1", "succeeded")).attempts == 1


@scenario
async def test_bytes_that_wait_are_limited_and_freed_when_a_call_ends(tmp_path):
    def answers(version, request):
        return Answer(after_s=None if request.id == "fits-too" else 30)

    async with Node(tmp_path, answers=answers, max_bytes=1000) as node:
        hello = node.deploy(max_concurrency=3)
        await node.queue.start()
        await node.queue.enqueue(hello, request("runs", b"x" * 899))
        with pytest.raises(QueueFull) as refused:
            await node.queue.enqueue(hello, request("too-much", b"x" * 100))
        assert refused.value.limit == "queue.max_bytes=1000"
        assert await node.store.get_invocation("too-much") is None
        assert node.queue.bytes == 900
        await node.until("runs", "running")
        assert await node.queue.cancel("runs")
        await node.until("runs", "cancelled")
        await node.queue.enqueue(hello, request("fits-too", b"x" * 100))
        await node.until("fits-too", "succeeded")


@scenario
async def test_bytes_that_wait_are_counted_again_after_a_restart(tmp_path):
    async with Node(tmp_path) as node:
        await node.queue.enqueue(node.deploy(), request("left", b"x" * 499))
    async with Node(tmp_path, max_bytes=1000) as node:
        hello = node.deploy()
        node.registry.remove("f1")  # nothing runs before it was counted
        await node.queue.start()
        assert node.queue.bytes == 500
        assert node.queue.depth == 1
        with pytest.raises(QueueFull):
            await node.queue.enqueue(hello, request("more", b"x" * 500))
