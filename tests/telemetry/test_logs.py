"""Log lines are JSON with correlation ids, and hold no secrets."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import structlog

from hearth.telemetry import logs


@pytest.fixture
def stream():
    yield io.StringIO()
    logs.clear_contextvars()
    structlog.reset_defaults()


def said(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_component_and_event(stream):
    logs.configure("info", json=True, stream=stream)
    logs.get_logger("engine").warning("two\nlines", count=3)
    [line] = said(stream)
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {
        "level": "warning",
        "component": "engine",
        "event": "two\nlines",
        "count": 3,
    }


def test_what_is_below_the_level_is_not_said(stream):
    logs.configure("warning", json=True, stream=stream)
    log = logs.get_logger("engine")
    log.debug("a")
    log.info("b")
    log.error("c")
    assert [line["event"] for line in said(stream)] == ["c"]


def test_a_logger_made_before_configuration_follows_it(stream):
    log = logs.get_logger("early")
    logs.configure("info", json=True, stream=stream)
    log.info("hello")
    logs.configure("error", json=True, stream=stream)
    log.info("not this")
    assert [line["event"] for line in said(stream)] == ["hello"]


def test_bound_correlation_ids_are_in_every_line_until_cleared(stream):
    logs.configure("info", json=True, stream=stream)
    logs.bind_contextvars(request_id="r1")
    logs.get_logger("control").info("in")
    logs.clear_contextvars()
    logs.get_logger("control").info("out")
    assert [line.get("request_id") for line in said(stream)] == ["r1", None]


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": "s3cr3t-value"},
        {"headers": {"X-Api-Key": "s3cr3t-value", "Cookie": "s3cr3t-value"}},
        {"environment": {"ANY_NAME": "s3cr3t-value"}},
        {"environment": ["ANY_NAME=s3cr3t-value"]},
        {"declared": {"deep": [{"db_password": "s3cr3t-value"}]}},
        {"message": "got Bearer s3cr3t-value-and-more"},
        {"header": b"Authorization: Basic s3cr3t-value-and-more"},
        {"items": ("use hearth_a1b2_s3cr3t-value-and-more",)},
        {"client_secret": b"s3cr3t-value"},
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_not_written(stream, fields, as_json):
    logs.configure("info", json=as_json, stream=stream)
    logs.get_logger("control").info("deploy", **fields)
    assert "[redacted]" in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


def test_what_only_looks_a_little_like_a_secret_is_written(stream):
    logs.configure("info", json=True, stream=stream)
    logs.get_logger("x").info("hearth_runtime loaded", key_id="a1", environ_count=2, keys=[1])
    [line] = said(stream)
    assert line["event"] == "hearth_runtime loaded"
    assert (line["key_id"], line["environ_count"], line["keys"]) == ("a1", 2, [1])


def test_an_exception_is_told_without_the_values_of_variables(stream):
    logs.configure("info", json=True, stream=stream)
    hidden = "local-value"
    try:
        raise ValueError("what happened")
    except ValueError:
        logs.get_logger("x").exception("failed")
    [line] = said(stream)
    assert "ValueError: what happened" in line["exception"]
    assert hidden not in line["exception"].replace('hidden = "local-value"', "")


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, 2**100, "\ud800", b"\xff\xfe", float("nan"), {(1, 2): 3}]
)
def test_any_value_can_be_logged(stream, value):
    logs.configure("info", json=True, stream=stream)
    logs.get_logger("x").info("odd", value=value)
    assert "value" in said(stream)[0]


def test_a_terminal_gets_readable_lines_that_cannot_move_its_cursor(stream):
    logs.configure("info", json=False, stream=stream)
    logs.get_logger("x").info("name \x1b[2J\rgone", name="\x9b31mred", many=["\x1b[2J"])
    assert "name" in stream.getvalue()
    assert not {"\x1b", "\r", "\x9b"} & set(stream.getvalue())


def test_lines_go_to_stderr_as_json_when_it_is_not_a_terminal():
    script = (
        "from hearth.telemetry import logs; logs.configure(); logs.get_logger('x').info('hello')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b""
    assert json.loads(done.stderr)["event"] == "hello"
