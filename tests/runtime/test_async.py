# ruff: noqa: E501 - tables and the sources of functions read better unbroken
from __future__ import annotations

import pytest

from hearth_runtime import frames

BINARY = "content-type: application/octet-stream\r\n"


def test_an_async_handler_is_awaited_on_one_lasting_loop(load):
    host = load("""
        import asyncio

        loops = set()

        async def handle(request):
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return {"loops": len(loops), "json": request.json}
    """)
    assert host.call(b"1").json == {"loops": 1, "json": 1}
    assert host.call(b"2").json == {"loops": 1, "json": 2}


def test_an_awaitable_from_a_plain_function_is_awaited_too(load):
    host = load("""
        import asyncio

        async def work():
            await asyncio.sleep(0)
            return "awaited"

        def handle(request):
            return work() if request.body else "plain"
    """)
    assert [host.call(body).body for body in (b"", b"1", b"", b"1")] == [
        b"plain",
        b"awaited",
        b"plain",
        b"awaited",
    ]


def test_an_async_generator_is_streamed(load):
    host = load("""
        import asyncio

        async def handle(request):
            for word in ("a", b"b"):
                await asyncio.sleep(0)
                yield word
    """)
    answer = host.call()
    assert (answer.kind, answer.headers, answer.chunks) == (frames.END, BINARY, [b"a", b"b"])


def test_an_async_generator_in_a_response_of_a_plain_function_is_streamed(load):
    host = load("""
        from hearth_runtime import Response

        async def words():
            yield "x"

        def handle(request):
            return Response(words(), 201)
    """)
    assert [(a.status, a.body) for a in (host.call(), host.call())] == [(201, b"x")] * 2


@pytest.mark.parametrize(
    ("body", "kind", "chunks"),
    [
        ("raise LookupError('x')\n    yield", frames.ERROR, []),
        ("yield 'a'\n    raise LookupError('x')", frames.ERROR, [b"a"]),
    ],
)
def test_an_async_stream_that_fails_ends_in_error(load, body, kind, chunks):
    host = load(f"async def handle(request):\n    {body}\n")
    answer = host.call()
    assert (answer.kind, answer.chunks, answer.error["type"]) == (kind, chunks, "LookupError")


def test_several_calls_run_at_once_and_end_in_their_own_order(load):
    host = load(
        """
        import asyncio

        events = {}

        async def handle(request):
            name = request.path[1:]
            if request.method == "PUT":
                events[name].set()
                return "set"
            events[name] = asyncio.Event()
            await events[name].wait()
            return name
        """,
        instance_concurrency=8,
    )
    first, second = host.start_call(path="/one"), host.start_call(path="/two")
    third = host.start_call(path="/two", method="PUT")
    assert host.answer(third).body == b"set"
    assert host.answer(second).body == b"two"
    fourth = host.start_call(path="/one", method="PUT")
    assert host.answer(fourth).body == b"set"
    assert host.answer(first).body == b"one"


def test_a_task_left_behind_goes_on_between_calls(load):
    host = load("""
        import asyncio

        done = None

        async def handle(request):
            global done
            if request.body:
                await asyncio.wait_for(done, 5)
                return "done"
            done = asyncio.ensure_future(asyncio.sleep(0.01))
            return "started"
    """)
    assert host.call().body == b"started"
    assert host.call(b"1").body == b"done"


def test_an_async_error_has_the_users_frames_only_and_costs_one_call(load):
    host = load("""
        import asyncio

        async def handle(request):
            if request.body:
                raise asyncio.CancelledError("mine") if request.body == b"c" else ValueError("x")
            return None
    """)
    error = host.call(b"1").error
    assert error["type"] == "ValueError"
    assert "handler.py" in error["stack"]
    assert "concurrent.py" not in error["stack"]
    assert host.call(b"c").error["type"] == "CancelledError"
    assert host.call().status == 204


def test_bad_json_in_an_async_handler_is_status_400(load):
    assert load("async def handle(request):\n    return request.json\n").call(b"{").status == 400


def test_sys_exit_in_an_async_handler_ends_the_process(load):
    host = load(
        "import asyncio\nasync def handle(request):\n    await asyncio.sleep(0)\n    raise SystemExit(5)\n"
    )
    host.start_call()
    assert host.wait() == 5


def test_a_thread_that_never_ends_does_not_hold_up_sys_exit(load):
    host = load("""
        import asyncio, threading

        async def handle(request):
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
            raise SystemExit(6)
    """)
    host.start_call()
    assert host.wait() == 6


def test_calls_read_together_with_an_awaitable_one_are_answered(load):
    host = load(
        "async def work(x):\n    return x\ndef handle(request):\n    return work(request.body)\n"
    )
    parts = (0.0, b"i", b"POST", b"/", b"", b"")
    host.send(b"".join(frames.call_frame(n, *parts, b"%d" % n) for n in (1, 2, 3)))
    assert sorted(host.answer(n).body for n in (1, 2, 3)) == [b"1", b"2", b"3"]
