import asyncio
import gc
import socket

import uvloop

from hearth.config import Gateway, Settings
from hearth.engine.invoke import Invoker
from hearth.engine.registry import Registry
from hearth.gateway.auth import Authenticator
from hearth.gateway.limits import RateLimiter
from hearth.gateway.pipeline import Pipeline
from hearth.gateway.server import Server
from hearth.model import Function, Limits, SystemClock, Version
from hearth.sandbox.stub import StubBackend

VERSION = Version(
    function_id="f1", function="hello", number=1, label="", digest="d", artifact="a",
    runtime="python3.11", entry="handler.py", handler="handle", contract="handler", limits=Limits(),
)  # fmt: skip


async def exchange(http, calls=2):
    loop = asyncio.get_running_loop()
    function = Function(id="f1", name="hello", created_at=0, updated_at=0, aliases={"latest": 1})
    registry = Registry([(function, [VERSION])])
    backend = StubBackend(loop)
    invoker = Invoker(
        Settings(), backend, timers=loop, registry=registry, code_of=lambda version: "/nowhere"
    )
    settings = Gateway(port=0)
    pipeline = Pipeline(
        authenticator=Authenticator(),
        limiter=RateLimiter(None, 1, SystemClock()),
        host=settings.host,
        registry=registry,
        invoker=invoker,
    )
    server = Server(pipeline, settings, loop)
    await server.start()
    request = http.get("/function/hello", method="POST", body=b"hi")

    def client():
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            for _ in range(calls):
                connection.sendall(request)
                yield http.read_answer(connection)

    answers = await asyncio.to_thread(lambda: list(client()))
    await server.drain(5)
    return answers


def test_the_engine_answers_through_the_gateway_cold_then_warm(http):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        (cold, warm) = runner.run(asyncio.wait_for(exchange(http), 20))
    assert (cold[0], warm[0]) == (200, 200)
    assert cold[1][b"x-cold-start"] == b"true"
    assert b"x-cold-start" not in warm[1]
    assert cold[1][b"x-call-id"] != warm[1][b"x-call-id"]


def test_calls_leave_nothing_to_the_garbage_collector(http):
    async def garbage():
        await exchange(http)  # what a first time makes stays
        gc.collect()
        gc.disable()
        try:
            await exchange(http, calls=2)
            few = gc.collect()
            await exchange(http, calls=302)
            return gc.collect() - few
        finally:
            gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(garbage(), 60)) < 100, "300 calls made cycles"
