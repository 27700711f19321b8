"""A real server on a loopback port in front of a scripted invoker."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import SimpleNamespace

import pytest
import uvloop

from hearth.config import Gateway
from hearth.gateway.auth import Authenticator
from hearth.gateway.limits import RateLimiter
from hearth.gateway.pipeline import Pipeline
from hearth.gateway.server import Server
from hearth.model import Limits, SystemClock, Version


def version(name="hello"):
    return Version(
        function_id="f1", function=name, number=3, label="", digest="d", artifact="a",
        runtime="python3.11", entry="handler.py", handler="handle", contract="handler",
        limits=Limits(),
    )  # fmt: skip


class FakeInvocation:
    def __init__(self, request, sink):
        self.request, self.sink = request, sink
        self.id, self.cold, self.created_ns = request.id, False, 0
        self.cancelled = threading.Event()
        self.paused, self.resumed = threading.Event(), threading.Event()

    def pause(self):
        self.paused.set()

    def resume(self):
        self.resumed.set()

    def cancel(self, reason):
        self.reason = reason
        self.cancelled.set()

    def reply(self, status=200, headers=b"", body=b"ok"):
        self.sink.reply(self, status, headers, body)


class FakeInvoker:
    """Calls `behave(invocation)`; by default answers at once with what it was sent."""

    def __init__(self):
        self.calls = []
        self.called = threading.Event()
        self.behave = lambda call: call.reply(
            200, b"content-type: text/plain\r\n", b"%b|%b" % (call.request.path, call.request.body)
        )

    def submit(self, version, request, sink, *, traceparent=None):
        invocation = FakeInvocation(request, sink)
        self.calls.append(invocation)
        self.behave(invocation)
        self.called.set()
        return invocation


class Node:
    """A gateway on its own thread and loop."""

    def __init__(self, settings=None, keys=(), app=None, guard=None, enqueue=None):
        self.invoker = FakeInvoker()
        self.auth = Authenticator(keys)
        self.settings = settings or Gateway(port=0)
        self._options = {"app": app, "guard": guard, "enqueue": enqueue}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        gateway = self.settings
        pipeline = Pipeline(
            authenticator=self.auth,
            limiter=RateLimiter(gateway.rate_limit, gateway.rate_burst, SystemClock()),
            host=gateway.host,
            registry=SimpleNamespace(routes={"hello": SimpleNamespace(version=version())}),
            invoker=self.invoker,
            **self._options,
        )
        self.server = Server(pipeline, gateway, self.loop)
        await self.server.start()
        self.port = self.server.port
        self._ready.set()
        await self._stop.wait()
        self.server.close()

    def call(self, function, *args):
        """Run `function` on the loop and wait."""

        async def run():
            return function(*args)

        return self.run(run())

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def wait_empty(self):
        """Wait until the server has no connection left."""

        async def empty():
            async with asyncio.timeout(8):
                while self.server.connections or self.server._handing_over:
                    self.server._empty.clear()
                    await self.server._empty.wait()

        self.run(empty())

    def connect(self):
        client = socket.create_connection(("127.0.0.1", self.port))
        client.settimeout(10)
        return client

    def send(self, data, half_close=True):
        """Send on a new connection, and return everything until the server closes."""
        with self.connect() as client:
            client.sendall(data)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            return read_all(client)


def read_all(client):
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def read_answer(client):
    """Read one answer with a Content-Length; return (status, headers, body)."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, headers = parse_head(head)
    while len(body) < int(headers[b"content-length"]):
        body += client.recv(65536)
    return status, headers, body


def parse_head(head):
    first, *lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def get(path, *headers, method="GET", body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def start():
    """Start nodes that are stopped at the end."""
    nodes = []

    def make(**options):
        settings = options.pop("settings", {})
        nodes.append(Node(settings=Gateway(port=0, **settings), **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.stop()


@pytest.fixture
def node(start):
    return start()


@pytest.fixture
def http():
    """Give the client's side: `get`, `read_answer`, `read_all`, `parse_head`."""
    return SimpleNamespace(
        get=get, read_answer=read_answer, read_all=read_all, parse_head=parse_head, split=split
    )


def split(answers):
    """Split answers that have a Content-Length; return a list of (status, headers, body)."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        status, headers = parse_head(head)
        length = int(headers.get(b"content-length", 0))
        found.append((status, headers, rest[:length]))
        answers = rest[length:]
    return found
