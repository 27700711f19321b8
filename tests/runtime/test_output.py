# ruff: noqa: E501 - tables and the sources of functions read better unbroken
from __future__ import annotations

import select
import signal
import socket

import pytest

from hearth_runtime import frames


def test_what_a_call_prints_is_flagged_and_complete_when_it_ends(load):
    host = load("""
        import sys

        def handle(request):
            if request.body:
                print("grüße", 1)
                print("no newline", end="")
                sys.stderr.write("err\\n")
            return None
    """)
    host.call(b"1")
    assert host.take_output() == ("grüße 1\nno newline", "err\n")
    quiet = host.call()
    assert not quiet.output
    assert host.take_output() == ("", "")


@pytest.mark.parametrize(
    "statement",
    [
        "os.write(1, b'x')",
        "os.write(2, b'x')",
        "subprocess.run(['/bin/echo', 'x'], check=True)",
        "subprocess.run('echo x >&2', shell=True, check=True)",
        "ctypes.CDLL(None).write(1, b'x', 1)",
        "sys.__stdout__.write('x')",
        "sys.stdout.buffer.write(b'x')",
        "warnings.warn('x', stacklevel=1)",
    ],
)
def test_output_that_bypasses_print_is_flagged_too(load, statement):
    import select

    host = load(
        f"import ctypes, os, subprocess, sys, warnings\ndef handle(request):\n    {statement}\n"
    )
    number = host.start_call()
    assert select.select([host.socket], [], [], 10)[0], "nothing is read from the pipes meanwhile"
    answer = host.answer(number)
    assert answer.output
    assert "x" in "".join(host.take_output())


@pytest.mark.parametrize(
    ("crash", "status"),
    [
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), 9)", -9),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), 2)", -signal.SIGINT),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_lines_printed_before_a_crash_are_not_lost(load, crash, status):
    host = load(f"""
        import ctypes, logging, os

        def handle(request):
            for n in range(100):
                print("line", n)
            logging.info("last words")
            {crash}
    """)
    host.start_call()
    assert host.wait() == status
    stdout, stderr = host.take_output()
    assert stdout == "".join(f"line {n}\n" for n in range(100))
    assert stderr.startswith("INFO:root:last words\n")
    if status in (-signal.SIGSEGV, -signal.SIGABRT):
        assert 'handler.py", line' in stderr, "faulthandler shows where"


def test_output_while_loading_comes_with_ready(start):
    host = start("print('loading')\ndef handle(request):\n    pass\n")
    host.ready()
    host.drain()
    assert host.take_output() == ("loading\n", "")


def test_output_larger_than_a_pipe_does_not_block_forever(load):
    host = load("def handle(request):\n    print('x' * 1_000_000)\n    return 'ok'\n")
    assert host.call().body == b"ok"
    assert len(host.take_output()[0]) == 1_000_001


@pytest.mark.parametrize("where", ["top", "inside"])
def test_logging_goes_to_the_live_stderr_at_level_info(load, where):
    top, inside = ("import logging", "pass") if where == "top" else ("", "import logging")
    host = load(f"""
        import contextlib, io
        {top}

        def handle(request):
            {inside}
            log = logging.getLogger("shop")
            log.debug("hidden")
            log.info("sold %d", 3)
            with contextlib.redirect_stderr(io.StringIO()) as captured:
                log.warning("captured")
            return captured.getvalue()
    """)
    assert host.call().body == b"WARNING:shop:captured\n"
    assert host.take_output() == ("", "INFO:shop:sold 3\n")


def test_the_log_level_comes_from_the_environment(load):
    host = load(
        "import logging\ndef handle(request):\n    logging.getLogger('a').debug('seen')\n",
        environment={"HEARTH_LOG_LEVEL": "debug"},
    )
    host.call()
    assert host.take_output()[1] == "DEBUG:a:seen\n"


def test_an_unknown_log_level_falls_back_to_info(load):
    host = load(
        "import logging\ndef handle(request):\n    logging.info('seen')\n",
        environment={"HEARTH_LOG_LEVEL": "LOUD"},
    )
    host.call()
    assert host.take_output()[1] == "INFO:root:seen\n"


def test_the_users_own_logging_setup_wins(load):
    host = load("""
        import logging, sys
        logging.basicConfig(stream=sys.stdout, level=logging.ERROR, format="mine %(message)s")

        def handle(request):
            logging.warning("hidden")
            logging.error("shown")
    """)
    host.call()
    assert host.take_output() == ("mine shown\n", "")


def test_a_stream_that_the_user_put_in_place_is_flushed(load):
    host = load("""
        import io, sys
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=False)

        def handle(request):
            print("buffered", end="")
    """)
    host.call()
    assert host.take_output()[0] == "buffered"


@pytest.mark.parametrize(
    "wreck",
    [
        "sys.stdout.close()",
        "os.close(1)",
        "sys.stdout = None",
        "os.dup2(os.open('/dev/null', 1), 1)",
    ],
)
def test_a_wrecked_stdout_costs_no_answer(load, wreck):
    host = load(
        f"import os, sys\ndef handle(request):\n    if request.body:\n        {wreck}\n    return 'ok'\n"
    )
    assert host.call(b"1").body == b"ok"
    assert host.call().body == b"ok"


def test_a_call_that_was_sent_ahead_waits_until_the_output_before_it_is_read(load):
    host = load("""
        def handle(request):
            print("call", request.text)
            return None
    """)
    ahead = [frames.call_frame(n, 0.0, b"id", b"POST", b"/", b"", b"", b"%d" % n) for n in (1, 2)]
    host.send(b"".join(ahead))
    head = host.socket.recv(frames.HEADER_BYTES + frames.REPLY_HEAD.size, socket.MSG_WAITALL)
    assert frames.HEADER.unpack_from(head)[4] == 1
    assert not select.select([host.socket], [], [], 0.2)[0], "the first line is still in the pipe"
    host.drain()
    assert host.take_output() == ("call 1\n", "")
    host.answer(2)
    assert host.take_output() == ("call 2\n", "")
