"""A node without a gateway: real store, registry, builder and engine over the stub backend."""

from __future__ import annotations

import asyncio
import base64
import json
from types import SimpleNamespace

import pytest

from hearth.build.builder import Builder
from hearth.config import Settings
from hearth.control.app import make_app
from hearth.control.parts import Parts
from hearth.engine.deploy import Deployer
from hearth.engine.invoke import Invoker
from hearth.engine.queue import Queue
from hearth.engine.registry import Registry
from hearth.errors import NotFound
from hearth.gateway.auth import Authenticator
from hearth.model import SystemClock
from hearth.sandbox.stub import StubBackend
from hearth.store.artifacts import Artifacts
from hearth.store.sqlite import SqliteStore
from hearth.telemetry.audit import Auditor

ADMIN = SimpleNamespace(id="local", scopes=frozenset({"invoke", "admin"}))
CALLER = SimpleNamespace(id="k1", scopes=frozenset({"invoke"}))
HANDLER = "def handle(request):\n    return request.json\n"
SPEC_SAMPLE = """#!/usr/bin/env python3
import json
import os

def main():
    payload_str = os.environ.get('FUNCTION_PAYLOAD', '{}')
    payload = json.loads(payload_str)

    name = payload.get('name', 'World')
    result = {'message': f'Hello, {name}!'}

    print(json.dumps(result))

if __name__ == '__main__':
    main()
"""


async def _metrics():
    return b"hearth_up 1\n"


def b64(source: str | bytes) -> str:
    return base64.b64encode(source.encode() if isinstance(source, str) else source).decode()


def function(name="echo", source=HANDLER, **fields):
    return {"name": name, "runtime": "python", "code": b64(source), **fields}


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Node:
    """The parts of a node and a way to talk to its control API."""

    CALLER = CALLER
    HANDLER = HANDLER
    SPEC_SAMPLE = SPEC_SAMPLE
    b64 = staticmethod(b64)
    function = staticmethod(function)

    def __init__(self, runner, path, settings=None, **parts):
        self.runner = runner
        self.backend = StubBackend(runner.get_loop())
        self.reasons = ()
        self.run(self._make(path, settings or Settings(), parts))

    async def _make(self, path, settings, parts):
        self.store = SqliteStore(path / "hearth.db", settings.retention)
        await self.store.open()
        self.artifacts = Artifacts(path / "artifacts")
        self.registry = Registry(await self.store.load_functions())
        self.builder = Builder(self.artifacts, path / "work")
        self.invoker = Invoker(
            settings,
            self.backend,
            timers=asyncio.get_running_loop(),
            registry=self.registry,
            code_of=lambda version: str(self.artifacts.path(version.artifact)),
            on_records=(self.store.add_records,),
        )
        self.deployer = Deployer(
            settings=settings,
            registry=self.registry,
            store=self.store,
            artifacts=self.artifacts,
            builder=self.builder,
            backend=self.backend,
            invoker=self.invoker,
            clock=SystemClock(),
        )
        self.parts = Parts(
            **{
                "settings": settings,
                "registry": self.registry,
                "deployer": self.deployer,
                "invoker": self.invoker,
                "queue": Queue(  # never started: what is accepted stays queued
                    settings.queue,
                    store=self.store,
                    registry=self.registry,
                    invoker=self.invoker,
                    clock=SystemClock(),
                ),
                "store": self.store,
                "keys": Authenticator(),
                "audit": Auditor(self.store.add_audit),
                "clock": SystemClock(),
                "render_metrics": _metrics,
                "not_ready": lambda: self.reasons,
                "loopback_only": True,
                "follow_interval_s": 0.01,
                **parts,
            }
        )
        self.app = make_app(self.parts)

    def run(self, coroutine):
        return self.runner.run(asyncio.wait_for(coroutine, 60))

    def close(self):
        async def closing():
            await self.deployer.close()
            await self.invoker.drain(1)
            await self.store.close()

        self.run(closing())
        self.builder.close()

    def __call__(self, method, path, body=None, *, as_=ADMIN, headers=(), content=None):
        return self.run(
            self.ask(method, path, body, as_=as_, headers=dict(headers), content=content)
        )

    async def ask(self, method, path, body=None, *, as_=ADMIN, headers=None, content=None):
        given = {k.lower(): v for k, v in (headers or {}).items()}
        if body is not None:
            content = json.dumps(body).encode()
            given.setdefault("content-type", "application/json")
        path, _, query = path.rpartition("?") if "?" in path else (path, "", "")
        sent = []
        messages = [{"type": "http.request", "body": content or b"", "more_body": False}]

        async def receive():
            if not messages:
                await asyncio.Event().wait()  # a client that stays
            return messages.pop()

        async def send(message):
            sent.append(message)

        await self.app(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "root_path": "",
                "query_string": query.encode(),
                "headers": [(k.encode(), v.encode()) for k, v in given.items()],
                "client": ("127.0.0.1", 5),
                "server": ("127.0.0.1", 8080),
                "hearth.identity": as_,
                "state": {},
            },
            receive,
            send,
        )
        answered = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
        pieces = b"".join(m.get("body", b"") for m in sent[1:])
        return Answer(sent[0]["status"], answered, pieces)

    def deploy(self, name="echo", source=HANDLER, **fields):
        answer = self("POST", "/functions", function(name, source, **fields))
        assert answer.status in (200, 201), answer.body
        return answer.json

    def exists(self, name):
        try:
            self.registry.entry(name)
        except NotFound:
            return False
        return True


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def make_node(runner, tmp_path):
    nodes = []

    def make(settings=None, **parts):
        node = Node(runner, tmp_path, settings, **parts)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node):
    return make_node()
