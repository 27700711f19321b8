"""A loop to run in, and short ways to make the things that are stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
import uvloop

from hearth.model import InvocationRecord, Version
from hearth.store.base import QueuedCall


class SteppedClock:
    """Time that moves only when told."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
def run() -> Iterator:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture
def make_record():
    numbers = itertools.count()

    def make(**fields) -> InvocationRecord:
        number = next(numbers)
        fields.setdefault("id", f"{1_790_000_000_000 + number:012x}{number * 7919:020x}")
        fields.setdefault("created_at", 1_790_000_000.0 + number / 1000)
        return InvocationRecord(
            **{"function_id": "f1", "function": "hello", "version": 1, "status": "succeeded"}
            | fields
        )

    return make


@pytest.fixture
def make_call():
    numbers = itertools.count()

    def make(**fields) -> QueuedCall:
        number = next(numbers)
        fields.setdefault("id", f"{1_790_000_000_000 + number:012x}{number * 104729:020x}")
        fields.setdefault("created_at", 1_790_000_000.0 + number / 1000)
        return QueuedCall(
            **{
                "function_id": "f1",
                "function": "hello",
                "version": 1,
                "method": b"POST",
                "path": b"/",
                "query": b"",
                "headers": b"content-type: application/json\r\n",
                "body": b'{"n": 1}',
            }
            | fields
        )

    return make


@pytest.fixture
def make_version():
    def make(number: int = 1, **fields) -> Version:
        return Version(
            **{
                "function_id": "f1",
                "function": "hello",
                "number": number,
                "label": "1.0.0",
                "digest": f"{number:064x}",
                "artifact": f"{number + 100:064x}",
                "runtime": "python3.11",
                "entry": "handler.py",
                "handler": "handle",
                "contract": "handler",
                "environment": {"GREETING": "hi"},
                "declared": {"name": "hello", "big": 2**70},
                "created_at": 1.5,
            }
            | fields
        )

    return make
