"""A small engine in virtual time: nothing here sleeps, nothing is a process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hearth.config import Execution, Retention, Settings
from hearth.engine.call import Invocation
from hearth.engine.invoke import Invoker
from hearth.engine.pool import Pool
from hearth.engine.registry import Registry
from hearth.engine.resources import Budget
from hearth.errors import HearthError
from hearth.model import Function, InvocationRecord, Limits, Scale, Version
from hearth.sandbox.base import CallRequest
from hearth.sandbox.stub import StubBackend, VirtualTime

GIB = 1 << 30


class Listener:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def reply(self, invocation: Any, status: int, headers: bytes, body: bytes) -> None:
        self.events.append(("reply", status, headers, body))

    def head(self, invocation: Any, status: int, headers: bytes) -> None:
        self.events.append(("head", status, headers))

    def chunk(self, invocation: Any, data: bytes) -> None:
        self.events.append(("chunk", data))

    def end(self, invocation: Any) -> None:
        self.events.append(("end",))

    def fail(self, invocation: Any, error: HearthError) -> None:
        self.events.append(("fail", error))

    @property
    def error(self) -> HearthError:
        assert [event[0] for event in self.events][-1:] == ["fail"], self.events
        return self.events[-1][1]

    @property
    def body(self) -> bytes:
        assert [event[0] for event in self.events] == ["reply"], self.events
        return self.events[0][3]


class Observer:
    def __init__(self) -> None:
        self.finished_calls: list[tuple[str, int | None, int | None, int | None]] = []
        self.refusals: list[str] = []
        self.forgotten: list[str] = []

    def finished(self, version, status, duration_ns, queue_wait_ns, init_ns) -> None:
        self.finished_calls.append((status, duration_ns, queue_wait_ns, init_ns))

    def refused(self, version, error_type) -> None:
        self.refusals.append(error_type)

    def forget(self, function) -> None:
        self.forgotten.append(function)


class Engine:
    """An invoker over the stub backend, and shorthands to drive it."""

    def __init__(self, **execution: Any) -> None:
        self.time = VirtualTime()
        self.backend = StubBackend(self.time)
        self.registry = Registry()
        self.observer = Observer()
        self.records: list[InvocationRecord] = []
        self.memory = 8 * GIB
        settings = Settings(
            execution=Execution(**execution), retention=Retention(log_bytes=1000, result_bytes=100)
        )
        self.invoker = Invoker(
            settings,
            self.backend,
            timers=self.time,
            registry=self.registry,
            code_of=lambda version: f"/artifacts/{version.artifact}",
            observer=self.observer,
            on_records=(self.records.extend,),
            clock=self.time,
            budget=Budget(settings.execution, clock=self.time, available=lambda: self.memory),
        )
        self._ids = itertools.count(1)

    def deploy(self, name: str = "hello", number: int = 1, **options: Any) -> Version:
        """Install a version; options are fields of `Limits`, `Scale` or `Version`."""
        limits = {k: options.pop(k) for k in list(options) if k in Limits.__struct_fields__}
        scale = {k: options.pop(k) for k in list(options) if k in Scale.__struct_fields__}
        version = Version(
            function_id=f"id-{name}",
            function=name,
            number=number,
            label="",
            digest=f"{name}{number}",
            artifact="a" * 64,
            runtime="python3.11",
            entry="handler.py",
            handler="handle",
            contract=options.pop("contract", "handler"),
            limits=Limits(**limits),
            scale=Scale(**scale),
            **options,
        )
        function = Function(
            id=f"id-{name}", name=name, created_at=0, updated_at=0, aliases={"latest": number}
        )
        self.registry.install(function, version)
        return version

    def submit(
        self, version: Version, body: bytes = b"", **options: Any
    ) -> tuple[Listener, Invocation]:
        """Begin a call and return who listens, and the invocation."""
        listener = Listener()
        request = CallRequest(
            id=f"call-{next(self._ids)}",
            method=b"POST",
            path=b"/",
            query=b"",
            headers=b"",
            body=body,
            deadline=0.0,
        )
        return listener, self.invoker.submit(version, request, listener, **options)

    def pool(self, version: Version) -> Pool:
        return next(pool for pool in self.invoker.pools() if pool.version is version)

    def show(self, version: Version) -> str:
        """The repr of the version's pool, without the frame that is always the same."""
        text = repr(self.pool(version))
        return text.removeprefix(f"<Pool {version.function}:{version.number} ").removesuffix(">")

    def answers(self, **fields: Any) -> None:
        """Let instances answer like this from now on."""
        from hearth.sandbox.stub import Answer

        self.backend.answers = lambda version, request: Answer(**fields)

    def starts(self, **fields: Any) -> None:
        """Let instances start like this from now on."""
        from hearth.sandbox.stub import Start

        self.backend.starts = lambda version: Start(**fields)

    def settle(self, seconds: float = 0.1) -> list[InvocationRecord]:
        """Let time pass until records are written, and return all so far."""
        self.time.advance(seconds)
        return self.records


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def make_engine() -> type[Engine]:
    return Engine


def replace(version: Version, **changes: Any) -> Version:
    return msgspec.structs.replace(version, **changes)


class Run:
    """An event loop for the few coroutines, beside the virtual time of everything else."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Begin it and run until it waits."""
        task = self.loop.create_task(coroutine)
        self.turn()
        return task

    def turn(self, times: int = 5) -> None:
        for _ in range(times):
            self.loop.run_until_complete(asyncio.sleep(0))

    def until(self, task: asyncio.Task[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(task, 10))


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    with run.runner:
        yield run
