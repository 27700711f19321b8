# ruff: noqa: E501 - tables and the sources of functions read better unbroken
from __future__ import annotations

import os
import py_compile
import socket
import subprocess
import sys

import pytest

from hearth_runtime.channel import Channel


@pytest.mark.parametrize(
    ("source", "type_", "message"),
    [
        ("import nowhere\n", "ModuleNotFoundError", "No module named 'nowhere'"),
        ("def handle(request:\n", "SyntaxError", "never closed"),
        ("1 / 0\n", "ZeroDivisionError", "division by zero"),
        ("import sys\nsys.exit(3)\n", "SystemExit", "3"),
        ("x = 1\n", "LoadError", "handler.py does not define 'handle'"),
        ("handle = 3\n", "LoadError", "is not a function"),
        ("def handle():\n    pass\n", "LoadError", "exactly one argument"),
        ("def handle(event, context):\n    pass\n", "LoadError", "exactly one argument"),
        ("def handle(request, *, key):\n    pass\n", "LoadError", "exactly one argument"),
    ],
)
def test_what_cannot_be_loaded_is_told_and_ends_the_process(start, source, type_, message):
    host = start(source)
    failure = host.init_failure()
    assert failure["type"] == type_
    assert message in failure["message"]
    assert host.wait() == 1


def test_the_stack_of_a_failed_import_shows_only_the_users_files(start):
    host = start("import helper\n", files={"helper.py": "def f():\n    raise OSError('no')\nf()\n"})
    stack = host.init_failure()["stack"]
    assert "helper.py" in stack
    assert "handler.py" in stack
    assert "importlib" not in stack
    assert "hearth_runtime" not in stack


@pytest.mark.parametrize(
    "source",
    [
        "def handle(*args):\n    return 'ok'\n",
        "def handle(request, limit=3):\n    return 'ok'\n",
        "class Handler:\n    def __call__(self, request):\n        return 'ok'\nhandle = Handler()\n",
        "import functools\nhandle = functools.partial(lambda a, b: a, 'ok')\n",
        "handle = lambda request: 'ok'\n",
    ],
)
def test_anything_that_takes_one_request_is_a_handler(load, source):
    assert load(source).call().body == b"ok"


def test_a_folder_with_packages_works(load):
    host = load(
        "from .text import shout\nimport settings\ndef main(request):\n    return shout(settings.WORD)\n",
        entry="app/main.py",
        handler="app.main.main",
        files={
            "app/__init__.py": " ",
            "app/text.py": "def shout(x):\n    return x.upper()\n",
            "settings.py": "WORD = 'hi'\n",
        },
    )
    assert host.call().body == b"HI"


def test_an_entry_named_like_a_used_module_does_not_replace_it(load):
    host = load(
        "import json\ndef handle(request):\n    return json.dumps(__name__)\n", entry="json.py"
    )
    assert host.call().body == b'"function_json"'


def test_bytecode_made_at_deploy_is_used(load, tmp_path):
    source = tmp_path / "handler.py"
    source.write_text("def handle(request):\n    return 'compiled'\n")
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text("def handle(request):\n    return 'source'\n")
    assert load().call().body == b"compiled"


def test_the_environment_is_clean_and_the_users(load, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_NODE", "x")
    host = load(
        "import os, sys\ndef handle(request):\n    return [dict(os.environ), sys.argv, sys.path[0]]\n",
        environment={"API_KEY": "grün", "HOME": "/home/me", "HEARTH_FUNCTION": "forged"},
    )
    environment, argv, path = host.call().json
    environment.pop("LD_LIBRARY_PATH", None)
    assert environment.pop("PATH").endswith(":/usr/local/bin:/usr/bin:/bin")
    assert environment == {
        "API_KEY": "grün", "HOME": "/home/me", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONDONTWRITEBYTECODE": "1",
        "HEARTH_FUNCTION": "demo", "HEARTH_VERSION": "3",
    }  # fmt: skip
    assert argv == [f"{path}/handler.py"]


def test_ready_tells_how_long_loading_took(start):
    host = start("import time\ntime.sleep(0.02)\ndef handle(request):\n    pass\n")
    assert 20_000_000 <= host.ready()["init_ns"] < 5_000_000_000


def test_several_calls_at_once_need_an_async_handler(start):
    host = start("def handle(request):\n    pass\n", instance_concurrency=8)
    failure = host.init_failure()
    assert "instance_concurrency is 8" in failure["message"]
    assert "not an async function" in failure["message"]


FORK = """
import ctypes, os, random, ssl, sys
from hearth_runtime.runtime_host import reseed

random.seed(1)
ssl.RAND_bytes(1)
for _ in range(2):
    if ctypes.CDLL(None).fork() == 0:  # the C function: none of the interpreter's own hooks run
        if sys.argv[1] == "reseed":
            reseed()
        print(random.random(), ssl.RAND_bytes(8).hex(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_two_forked_children_never_draw_the_same_numbers():
    run = [sys.executable, "-c", FORK]
    first, second = subprocess.run(
        [*run, "reseed"], capture_output=True, check=True, text=True
    ).stdout.splitlines()
    assert not set(first.split()) & set(second.split())
    control = subprocess.run(
        [*run, "leave"], capture_output=True, check=True, text=True
    ).stdout.splitlines()
    assert control[0].split()[0] == control[1].split()[0], "without reseed they do"


def test_a_closed_channel_takes_nothing_from_a_forked_child():
    ours, theirs = socket.socketpair()
    channel = Channel(theirs.detach())
    number = channel.fd
    read_end, write_end = os.pipe()
    channel.close()
    os.dup2(write_end, number)  # the number has a new meaning
    child = os.fork()
    if child == 0:
        os.write(number, b"here")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(number)
    os.close(write_end)
    assert os.read(read_end, 9) == b"here"
    os.close(read_end)
    ours.close()


def test_a_child_forked_by_the_user_cannot_answer_in_its_place(load):
    host = load("""
        import os

        def handle(request):
            child = os.fork()
            if child:
                return {"child": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}
            return {"from": "child"}
    """)
    assert host.call().json == {"child": 0}
    assert host.call().json == {"child": 0}


def test_multiprocessing_and_threads_are_left_alone(load):
    host = load("""
        import concurrent.futures, subprocess, sys, threading

        seen = []

        def handle(request):
            thread = threading.Thread(target=seen.append, args=(1,))
            thread.start()
            thread.join()
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                total = sum(pool.map(abs, [-1, -2]))
            inherited = "import os; print(len(os.listdir('/proc/self/fd')))"
            out = subprocess.run([sys.executable, "-I", "-S", "-c", inherited], capture_output=True, check=True)
            return [len(seen), total, int(out.stdout)]
    """)
    assert host.call().json == [1, 3, 4], (
        "0, 1, 2 and the directory itself: the channel is not inherited"
    )
