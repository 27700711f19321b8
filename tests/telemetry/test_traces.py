"""Trace context as W3C writes it, and nothing else."""

from __future__ import annotations

import pytest

from hearth.telemetry import traces

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_header_is_understood_and_written_back():
    trace = traces.parse(GOOD.encode())
    assert trace == traces.Trace(TRACE, SPAN, sampled=True)
    assert trace.header() == GOOD
    assert traces.parse(GOOD.encode()[:-1] + b"0").sampled is False


def test_a_child_stays_in_the_trace_and_keeps_the_flag_but_has_its_own_span():
    parent = traces.parse(GOOD.encode())
    child = parent.child()
    assert (child.trace_id, child.sampled) == (TRACE, True)
    assert child.span_id != SPAN
    assert traces.parse(child.header().encode()) == child


def test_new_traces_are_valid_and_different():
    headers = {traces.start(sampled=n % 2 == 0).header() for n in range(1000)}
    assert len(headers) == 1000
    assert all(traces.parse(header.encode()).header() == header for header in headers)


def test_unknown_flags_are_not_passed_on():
    assert traces.parse(f"00-{TRACE}-{SPAN}-ff".encode()).header() == GOOD


def test_a_future_version_may_say_more():
    assert traces.parse(f"cc-{TRACE}-{SPAN}-01-what-ever".encode()).header() == GOOD
    assert traces.parse(f"cc-{TRACE}-{SPAN}-01".encode()).header() == GOOD


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD + " ",
        " " + GOOD,
        GOOD + "\n",
        GOOD + "-more",
        GOOD + "0",
        GOOD[:-1],
        GOOD.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01x",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}\r\n{SPAN}-01",
        f"00-{TRACE}-{SPAN}-\u0660\u0661",
    ],
)
def test_anything_else_is_not_taken_over(header):
    assert traces.parse(header.encode()) is None
