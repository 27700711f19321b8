"""The written contract of `sandbox/base.py`, tried on every backend, guarded as the engine uses it.

The function's behaviour is chosen by the body of a call; the stub imitates what `HANDLER` does.
"""

import asyncio
import os
from contextlib import asynccontextmanager

import pytest
import uvloop

from hearth.config import Process, Settings
from hearth.model import Limits, Version
from hearth.sandbox.base import CallRequest, Exit
from hearth.sandbox.guarded import GuardedBackend
from hearth.sandbox.stub import Answer, Start, StubBackend
from pace import SLOW

HANDLER = """
import os, time
def handle(request):
    what = request.text
    if what == "raise":
        raise ValueError("no good")
    if what == "exit":
        print("last words")
        os._exit(3)
    if what == "stream":
        return iter(["a", "b"])
    if what == "hang":
        time.sleep(600)
    if what == "print":
        print("printed")
    return what
"""
FAILURE = {"type": "ZeroDivisionError", "message": "division by zero", "stack": "1 / 0"}


def scripted_start(version):
    broken = version.entry == "broken.py"
    return Start(dies=Exit(code=1, init_failure=FAILURE) if broken else None)


def scripted_answer(version, request):
    what = request.body
    return {
        b"raise": Answer(error=("ValueError", "no good", "stack")),
        b"exit": Answer(output=(("stdout", b"last words\n"),), dies=Exit(code=3)),
        b"stream": Answer(stream=(b"a", b"b")),
        b"hang": Answer(hangs=True),
        b"print": Answer(output=(("stdout", b"printed\n"),), body=what),
    }.get(what, Answer(body=what))


def make_stub(tmp_path):
    loop = asyncio.get_running_loop()
    return StubBackend(loop, starts=scripted_start, answers=scripted_answer)


def make_process(tmp_path):
    from hearth.sandbox.process import ProcessBackend

    level = "strict" if os.geteuid() == 0 else "lightweight"
    settings = Settings(process=Process(isolation_level=level, spares=2))
    return ProcessBackend(settings, asyncio.get_running_loop(), str(tmp_path / "run"))


@pytest.fixture(params=["stub", "process"])
def world(request, tmp_path):
    """Return what opens a backend with the function unpacked, and closes it again."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "handler.py").write_text(HANDLER)
    (code / "broken.py").write_text("1 / 0\n")
    for path in (tmp_path, code):
        path.chmod(0o755)
    make = {"stub": make_stub, "process": make_process}[request.param]

    @asynccontextmanager
    async def opened():
        backend = GuardedBackend(make(tmp_path))
        await backend.open()
        try:
            yield World(backend, str(code))
        finally:
            await backend.close()

    return opened


class World:
    """A backend, and shorthands to use it."""

    def __init__(self, backend, code):
        self.backend = backend
        self.code = code

    def start(self, **options):
        heard = Heard()
        version = Version(
            function_id="id", function="hello", number=1, label="", digest="d", artifact="a",
            runtime="python3.11", entry=options.pop("entry", "handler.py"), handler="handle",
            contract="handler", limits=Limits(memory_bytes=64 << 20),
        )  # fmt: skip
        return self.backend.start(version, self.code, heard), heard

    async def ready(self):
        instance, heard = self.start()
        await heard.until("ready")
        return instance, heard


class Heard:
    """Whoever listens, to an instance or a call."""

    def __init__(self):
        self.events = []
        self.changed = asyncio.Event()

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)

        def hear(*args):
            self.events.append((name[3:], *args))
            self.changed.set()

        return hear

    async def until(self, *names):
        """Return the first event with one of these names."""
        async with asyncio.timeout(20 * SLOW):
            while True:
                for event in self.events:
                    if event[0] in names:
                        return event
                self.changed.clear()
                await self.changed.wait()

    @property
    def names(self):
        return [event[0] for event in self.events]

    def output(self):
        return b"".join(event[2] for event in self.events if event[0] == "output")


def request(body=b""):
    return CallRequest(
        id="a" * 32, method=b"POST", path=b"/", query=b"", headers=b"", body=body, deadline=4e9
    )


async def outcome(instance, body):
    """Make a call and return its last event and who heard it."""
    caller = Heard()
    instance.call(request(body), caller)
    return await caller.until("reply", "end", "error", "lost"), caller


def run(test):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


def test_an_instance_becomes_ready_and_answers_calls(world):
    async def test():
        async with world() as w:
            instance, heard = await w.ready()
            for body in (b"one", b"two"):
                last, caller = await outcome(instance, body)
                assert last[1] == 200
                assert last[3] == body
                assert caller.names == ["reply"]
            assert heard.names == ["ready"]
            assert isinstance(heard.events[0][2], int)

    run(test())


def test_a_failing_handler_costs_one_call_and_not_the_instance(world):
    async def test():
        async with world() as w:
            instance, _ = await w.ready()
            last, _ = await outcome(instance, b"raise")
            assert last[:3] == ("error", "ValueError", "no good")
            assert (await outcome(instance, b"fine"))[0][3] == b"fine"

    run(test())


def test_a_stream_comes_in_order(world):
    async def test():
        async with world() as w:
            instance, _ = await w.ready()
            last, caller = await outcome(instance, b"stream")
            assert last == ("end",)
            assert caller.names[0] == "head"
            assert b"".join(e[1] for e in caller.events if e[0] == "chunk") == b"ab"

    run(test())


def test_output_comes_before_the_last_event(world):
    async def test():
        async with world() as w:
            instance, _ = await w.ready()
            last, caller = await outcome(instance, b"print")
            assert last[0] == caller.names[-1] == "reply"
            assert caller.output() == b"printed\n"

    run(test())


def test_a_death_loses_the_call_with_its_exit_and_its_last_words(world):
    async def test():
        async with world() as w:
            instance, heard = await w.ready()
            last, caller = await outcome(instance, b"exit")
            assert last[0] == "lost"
            assert (last[1].code, last[1].signal) == (3, None)
            assert caller.output() == b"last words\n"
            gone = await heard.until("gone")
            assert gone[2].code == 3
            assert heard.names == ["ready", "gone"]

    run(test())


def test_what_cannot_be_loaded_is_gone_without_having_been_ready(world):
    async def test():
        async with world() as w:
            _, heard = w.start(entry="broken.py")
            _, _, end = await heard.until("gone")
            assert end.init_failure["type"] == "ZeroDivisionError"
            assert "ready" not in heard.names

    run(test())


def test_stop_loses_the_call_and_keeps_the_first_reason(world):
    async def test():
        async with world() as w:
            instance, heard = await w.ready()
            caller = Heard()
            instance.call(request(b"hang"), caller)
            instance.stop("first")
            instance.stop("second")
            _, end = await caller.until("lost")
            assert end.reason == "first"
            assert (await heard.until("gone"))[2].reason == "first"

    run(test())


def test_a_starting_instance_can_be_stopped(world):
    async def test():
        async with world() as w:
            instance, heard = w.start()
            instance.stop("not needed")
            await heard.until("gone")
            assert heard.names.count("gone") == 1

    run(test())


def test_after_it_is_gone_everything_is_harmless(world):
    async def test():
        async with world() as w:
            instance, heard = await w.ready()
            instance.stop("done")
            await heard.until("gone")
            instance.stop("again")
            instance.pause_reading()
            instance.resume_reading()
            instance.usage()
            last, _ = await outcome(instance, b"late")
            assert last[0] == "lost"
            assert heard.names == ["ready", "gone"]

    run(test())


def test_more_calls_than_it_takes_are_refused(world):
    async def test():
        async with world() as w:
            instance, _ = await w.ready()
            instance.call(request(b"hang"), Heard())
            with pytest.raises(RuntimeError, match="without room"):
                instance.call(request(b"one too many"), Heard())

    run(test())


def test_closing_the_backend_ends_its_instances(world):
    async def test():
        async with world() as w:
            instance, heard = await w.ready()
            caller = Heard()
            instance.call(request(b"hang"), caller)
        await heard.until("gone")
        assert caller.names == ["lost"]

    run(test())
