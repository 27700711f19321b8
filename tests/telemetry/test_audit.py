"""Each mutating call leaves one entry, in the store and in the log."""

from __future__ import annotations

import io
import json

import msgspec
import pytest
import structlog

from hearth.errors import StoreError
from hearth.telemetry import logs
from hearth.telemetry.audit import Auditor


class Noon:
    def time(self) -> float:
        return 43200.0

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def lines():
    stream = io.StringIO()
    logs.configure("info", json=True, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


def test_an_entry_goes_to_the_store_and_to_the_log_with_the_same_words(lines):
    written = []
    entry = Auditor(written.append, Noon()).record(
        "function.deploy",
        "hello",
        identity="k1",
        request_id="r1",
        remote="127.0.0.1",
        outcome="Conflict",
    )
    assert written == [entry]
    fields = msgspec.structs.asdict(entry)
    assert fields.pop("time") == 43200.0
    assert fields == {
        "identity": "k1",
        "action": "function.deploy",
        "target": "hello",
        "request_id": "r1",
        "outcome": "Conflict",
        "remote": "127.0.0.1",
    }
    [line] = lines()
    assert fields.items() <= line.items()
    assert (line["component"], line["event"]) == ("audit", "audit")


def test_the_outcome_is_ok_unless_said_otherwise(lines):
    entry = Auditor(lambda _: None).record(
        "key.create", "k2", identity="local", request_id="r", remote=""
    )
    assert entry.outcome == "ok"
    assert entry.time > 1e9


def test_the_log_has_the_entry_even_if_the_store_fails(lines):
    def fail(_entry):
        raise StoreError("full")

    with pytest.raises(StoreError):
        Auditor(fail).record("key.create", "k2", identity="local", request_id="r", remote="")
    assert [line["target"] for line in lines()] == ["k2"]
