"""The six guarantees, around a backend that breaks them all."""

import pytest

from hearth.model import Limits, Version
from hearth.sandbox.base import CallRequest, Exit, Usage
from hearth.sandbox.guarded import GuardedBackend

VERSION = Version(
    function_id="id", function="hello", number=1, label="", digest="d", artifact="a",
    runtime="python3.11", entry="handler.py", handler="handle", contract="handler",
    limits=Limits(instance_concurrency=2),
)  # fmt: skip
REQUEST = CallRequest(
    id="a", method=b"GET", path=b"/", query=b"", headers=b"", body=b"", deadline=0.0
)


class Naive:
    """A backend and its only instance; the test fires its events in any order."""

    name = id = "naive"

    def __init__(self):
        self.callers = []
        self.stops = []
        self.touched = []

    def start(self, version, code, listener):
        self.listener = listener
        return self

    def call(self, request, caller):
        self.callers.append(caller)

    def stop(self, reason):
        self.stops.append(reason)

    def pause_reading(self):
        self.touched.append("pause")

    def resume_reading(self):
        self.touched.append("resume")

    def usage(self):
        self.touched.append("usage")
        return Usage()


class Heard:
    def __init__(self, raises=False):
        self.names = []
        self.ends = []
        self.raises = raises

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)

        def hear(*args):
            self.names.append(name[3:])
            self.ends += [arg for arg in args if isinstance(arg, Exit)]
            if self.raises:
                raise RuntimeError("a bug above")

        return hear


@pytest.fixture
def naive():
    return Naive()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def guard(naive, heard):
    return GuardedBackend(naive).start(VERSION, "/code", heard)


def test_ready_is_heard_once_and_never_after_the_end(guard, naive, heard):
    guard.on_ready(naive, 1)
    guard.on_ready(naive, 1)
    guard.on_gone(naive, Exit(code=0))
    guard.on_gone(naive, Exit(code=1))
    guard.on_ready(naive, 1)
    guard.on_output(naive, "stdout", b"late")
    assert heard.names == ["ready", "gone"]


@pytest.mark.parametrize("last", ["reply", "end", "error", "lost"])
def test_a_call_hears_one_last_event_and_nothing_after_it(guard, naive, last):
    guard.on_ready(naive, 1)
    caller = Heard()
    guard.call(REQUEST, caller)
    (inner,) = naive.callers
    fire = {
        "reply": lambda: inner.on_reply(200, b"", b""),
        "end": inner.on_end,
        "error": lambda: inner.on_error("E", "m", None),
        "lost": lambda: inner.on_lost(Exit(code=0)),
    }
    fire[last]()
    for event in fire.values():
        event()
    inner.on_output("stdout", b"x")
    inner.on_head(200, b"")
    inner.on_chunk(b"x")
    guard.on_gone(naive, Exit(code=0))
    assert caller.names == [last]


def test_open_calls_are_lost_before_the_instance_is_gone(guard, naive, heard):
    guard.on_ready(naive, 1)
    callers = [Heard(), Heard()]
    for caller in callers:
        caller.names = heard.names
        guard.call(REQUEST, caller)
    guard.on_gone(naive, Exit(code=7))
    assert heard.names == ["ready", "lost", "lost", "gone"]
    assert callers[0].ends[0].code == 7


def test_a_call_on_a_dead_instance_is_lost_at_once(guard, naive):
    guard.on_ready(naive, 1)
    guard.on_gone(naive, Exit(code=7, memory_peak=5))
    caller = Heard()
    guard.call(REQUEST, caller)
    assert caller.names == ["lost"]
    assert naive.callers == []
    guard.pause_reading()
    guard.resume_reading()
    guard.stop("late")
    assert guard.usage().memory_peak == 5
    assert naive.touched == naive.stops == []


def test_a_call_without_room_or_before_ready_is_refused(guard, naive):
    with pytest.raises(RuntimeError):
        guard.call(REQUEST, Heard())
    guard.on_ready(naive, 1)
    for _ in range(2):
        guard.call(REQUEST, Heard())
    with pytest.raises(RuntimeError):
        guard.call(REQUEST, Heard())
    naive.callers[0].on_reply(200, b"", b"")
    guard.call(REQUEST, Heard())


def test_the_first_reason_to_stop_comes_back_in_the_exit(guard, naive, heard):
    guard.stop("first")
    guard.stop("second")
    guard.on_gone(naive, Exit(signal=9))
    assert naive.stops == ["first"]
    assert heard.ends[0].reason == "first"


def test_what_raises_above_does_not_reach_the_backend(naive):
    listener = Heard(raises=True)
    guard = GuardedBackend(naive).start(VERSION, "/code", listener)
    guard.on_ready(naive, 1)
    guard.call(REQUEST, Heard(raises=True))
    (inner,) = naive.callers
    inner.on_output("stdout", b"x")
    inner.on_head(200, b"")
    inner.on_chunk(b"")
    inner.on_end()
    guard.on_output(naive, "stdout", b"x")
    guard.on_gone(naive, Exit(code=0))
    assert listener.names == ["ready", "output", "gone"]
