"""The life of an instance: it starts, answers, and however it ends, the end is told exactly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from hearth.model import Limits

MIB = 1 << 20


def kill_all(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # gone with its init
            os.kill(pid, signal.SIGKILL)


def is_init(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        ids = next(line for line in status if line.startswith("NSpid:"))
    return ids.split()[-1] == "1"


def test_an_instance_answers_calls_one_after_another(run, tools):
    async def body(node):
        started = await node.start(tools.hello)
        for name in (b"a", b"b"):
            assert await started.call(b'{"name": "%s"}' % name) == (200, b'{"hello":"%s"}' % name)
        usage = started.instance.usage()
        if "memory" in node.controllers:
            assert usage.memory_now > 0
            assert usage.cpu_ns > 0
        else:
            assert (usage.memory_now, usage.cpu_ns) == (None, None)

    run(body)


def test_more_instances_than_spares_start_at_once(run, tools):
    async def body(node):
        many = await asyncio.gather(*(node.start(tools.hello) for _ in range(12)))
        answers = await asyncio.gather(*(started.call() for started in many))
        assert answers == [(200, b'{"hello":"x"}')] * 12

    run(body, spares=1)


def test_an_exit_code_is_reported_to_the_call_and_to_the_owner(run, tools):
    async def body(node):
        started = await node.start("import os\ndef handle(request):\n    os._exit(7)\n")
        with pytest.raises(tools.ended) as lost:
            await started.call()
        assert (lost.value.end.code, lost.value.end.signal, lost.value.end.oom) == (7, None, False)
        assert (await started.ended()).code == 7

    run(body)


def test_a_fatal_signal_is_reported_by_its_number(run, tools):
    async def body(node):
        started = await node.start(
            "import os, signal\ndef handle(request):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        )
        with pytest.raises(tools.ended):
            await started.call()
        assert (await started.ended()).signal == signal.SIGSEGV

    run(body)


def test_what_a_call_printed_before_its_crash_is_delivered(run, tools):
    async def body(node):
        started = await node.start(
            "import os\ndef handle(request):\n    print('last words')\n    os._exit(1)\n"
        )
        call = started.begin()
        with pytest.raises(tools.ended):
            await asyncio.wait_for(call.answer, tools.bound_s)
        assert call.output == [("stdout", b"last words\n")]

    run(body)


@pytest.mark.parametrize("who", ["the host itself", "a child"])
def test_out_of_memory_is_reported_with_limit_and_peak(run, tools, who):
    hog = "x = bytearray(200 << 20)\n    return 'survived'\n"
    if who == "a child":
        hog = (
            "import os, time\n    if os.fork() == 0:\n        x = bytearray(200 << 20)\n"
            "        os._exit(0)\n    time.sleep(60)\n"
        )

    async def body(node):
        started = await node.start(
            f"def handle(request):\n    {hog}", limits=Limits(memory_bytes=48 * MIB)
        )
        with pytest.raises(tools.ended):
            await started.call()
        end = await started.ended()
        assert end.oom
        assert end.memory_limit == 48 * MIB
        assert 40 * MIB < end.memory_peak <= 48 * MIB

    run(body, needs="memory")


def test_a_function_that_cannot_be_loaded_says_why(run):
    async def body(node):
        started = node.begin("import nothing_of_that_name\n")
        end = await started.ended()
        assert end.init_failure["type"] == "ModuleNotFoundError"

    run(body)


def test_code_that_is_not_there_ends_the_instance_with_the_reason(run, tools):
    async def body(node):
        version = (await node.start(tools.hello)).instance.version
        ended = node.backend.start(version, "/does/not/exist", _Silent())
        await tools.wait(lambda: ended._end is not None)
        assert "/does/not/exist" in ended._end.reason

    run(body)


class _Silent:
    def on_ready(self, instance, init_ns): ...

    def on_output(self, instance, stream, data): ...

    def on_gone(self, instance, end): ...


def test_stop_kills_everything_inside_within_100_ms_even_daemons(run, tools):
    source = """
    import os, signal, time
    def handle(request):
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                        signal.signal(number, signal.SIG_IGN)
                    while True:
                        time.sleep(1)
                os._exit(0)
        while True:
            pass
    """

    async def stop_one(node):
        before = len(tools.processes())
        started = await node.start(source)
        call = started.begin()
        await tools.wait(lambda: len(tools.processes()) >= before + 3)
        number = started.instance._number
        had_groups = [group for group in node.groups if group.name == str(number)]
        assert bool(had_groups) == bool(node.controllers)
        told = time.monotonic()
        started.instance.stop("timeout=1s")
        end = await started.ended()
        took = time.monotonic() - told
        assert end.reason == "timeout=1s"
        assert not [group for group in node.groups if group.name == str(number)]
        assert call.answer.exception() is not None
        return took

    async def body(node):
        # The best of three: on a busy machine this process may not be told at once.
        assert min([await stop_one(node) for _ in range(3)]) < 0.1

    run(body)


def test_the_first_reason_to_stop_is_kept(run, tools):
    async def body(node):
        started = await node.start(tools.hello)
        started.instance.stop("first")
        started.instance.stop("second")
        assert (await started.ended()).reason == "first"
        started.instance.stop("third")

    run(body)


def test_an_instance_stopped_while_it_waits_for_a_sandbox_is_gone(run, tools):
    async def body(node):
        waiting = [node.begin(tools.hello) for _ in range(6)]
        waiting[-1].instance.stop("changed my mind")
        assert (await waiting[-1].ended()).reason == "changed my mind"
        await asyncio.gather(*(asyncio.wait_for(w.ready.wait(), tools.bound_s) for w in waiting))

    run(body, spares=1)


def test_a_spare_is_replaced_when_it_dies(run, tools):
    async def body(node):
        spares = node.backend._spares["none|"]
        await tools.wait(lambda: len(spares) == 2)
        victims = tools.processes()
        numbers = {number for number, _ in spares}
        kill_all(victims)
        await tools.wait(lambda: len(spares) == 2 and not numbers & {n for n, _ in spares})
        started = await node.start(tools.hello)
        assert await started.call() == (200, b'{"hello":"x"}')

    run(body)


def test_a_start_that_takes_a_dead_spare_takes_another(run, tools):
    async def body(node):
        spares = node.backend._spares["none|"]
        await tools.wait(lambda: len(spares) == 2)
        kill_all([pid for pid in tools.processes() if is_init(pid)])
        # Nothing has been awaited: the node cannot know yet.
        many = [node.begin(tools.hello) for _ in range(2)]
        for started in many:
            await asyncio.wait_for(started.ready.wait(), tools.bound_s)
            assert started.end is None, started.end
            assert await started.call() == (200, b'{"hello":"x"}')

    run(body, spares=2)


def test_a_script_ends_by_itself_with_its_result(run):
    async def body(node):
        started = await node.start(
            "import os\nprint('{\"got\": %s}' % os.environ['FUNCTION_PAYLOAD'])\n",
            contract="script",
            handler="",
        )
        assert await started.call(b"[1]") == (200, b'{"got": [1]}')
        assert (await started.ended()).code == 0

    run(body)


def test_without_spares_a_sandbox_is_made_when_it_is_needed(run, tools):
    async def body(node):
        many = await asyncio.gather(*(node.start(tools.hello) for _ in range(3)))
        answers = await asyncio.gather(*(started.call() for started in many))
        assert answers == [(200, b'{"hello":"x"}')] * 3

    run(body, spares=0)


def test_a_flood_of_starts_beyond_any_spare_is_served(run, tools):
    async def body(node):
        many = await asyncio.gather(*(node.start(tools.hello) for _ in range(60)))
        answers = await asyncio.gather(*(started.call() for started in many))
        assert answers == [(200, b'{"hello":"x"}')] * 60

    run(body, spares=2)


def test_modules_to_preload_get_a_zygote_of_their_own(run):
    source = (
        "import sys\nBEFORE = 'asyncio' in sys.modules\ndef handle(request):\n    return BEFORE\n"
    )

    async def body(node):
        plain = await node.start(source)
        loaded = await node.start(source, preload=("asyncio",))
        assert (await plain.call())[1] == b"false"
        assert (await loaded.call())[1] == b"true"

    run(body)


def test_a_module_that_cannot_be_preloaded_fails_that_start_only(run, tools):
    async def body(node):
        end = await node.begin(tools.hello, preload=("no_such_module",)).ended()
        assert "a sandbox cannot be made" in end.reason
        assert (await (await node.start(tools.hello)).call())[0] == 200

    run(body)
