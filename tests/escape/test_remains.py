"""What a function leaves behind no other can find, and what outlives its call is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from escape_node import BOUND_S, SLOW

from hearth.model import Limits

LEAVE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)

def handle(request):
    name = request.json["name"]
    for path in (f"/tmp/{name}", f"/dev/shm/{name}"):
        with open(path, "w") as file:
            file.write(name)
    handle.kept = socket.socket(socket.AF_UNIX)
    handle.kept.bind(f"\\0{name}")
    segment = libc.shmget(request.json["key"], 4096, 0o1666)
    assert segment >= 0
    return look(request.json)
"""
LOOK = """
def look(what):
    found = [path for path in ("/tmp", "/dev/shm") if what["name"] in os.listdir(path)]
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.bind("\\0" + what["name"])
        except OSError:
            found.append("address")
    if libc.shmget(what["key"], 0, 0) >= 0:
        found.append("shared memory")
    return found
"""
FIND = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)

def handle(request):
    return look(request.json)
"""
REMEMBER = """
import ctypes, os
secret = None

def handle(request):
    global secret
    if request.json["learn"]:
        secret = request.json["learn"] * 1000
        return "learnt"
    return search(*(half.encode() for half in request.json["halves"]))

def search(one, two):  # separate, so that the search does not find itself
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # or its own memory would be closed to it
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            if not rights.startswith("r") or "[v" in line:
                continue
            first, end = (int(part, 16) for part in area.split("-"))
            memory.seek(first)
            try:
                data = memory.read(end - first)
            except OSError:
                continue
            for piece in data.split(one)[1:]:
                found += piece.startswith(two)
    return found
"""
DRAW = """
import os, random, secrets, uuid
generator = random.Random()

def draw():
    return [random.random(), random.getrandbits(64), str(uuid.uuid4()), secrets.token_hex(8)]

def handle(request):
    if not request.json:
        return draw()
    pieces = []
    for _ in range(2):  # of a generator that nobody reseeds after a fork
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, repr(generator.random()).encode())
            os._exit(0)
        pieces.append(os.read(reader, 100).decode())
    return pieces
"""
DAEMON = """
import ctypes, os, signal, time

def handle(request):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            for fd in range(3, 10):
                try: os.close(fd)
                except OSError: pass
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1); os.dup2(null, 2)
            ctypes.CDLL(None).prctl(15, request.json.encode(), 0, 0, 0)  # its name
            time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_nothing_that_a_function_leaves_is_found_by_the_next(nodes, planted):
    what = {"name": planted["token"], "key": planted["shm_key"] ^ 2}

    async def body(node):
        first = await node.start(LEAVE + LOOK)
        left = await first.call(what)
        assert left.answer == b'["/tmp","/dev/shm","address","shared memory"]'  # the control
        beside = await node.start(FIND + LOOK)
        assert (await beside.call(what)).answer == b"[]"
        await first.stop()
        after = [await node.start(FIND + LOOK) for _ in range(3)]  # same uids as before, maybe
        for instance in after:
            assert (await instance.call(what)).answer == b"[]"
        for instance in (beside, *after):
            await instance.stop()

    nodes.run(body)


def test_no_memory_of_one_function_is_seen_by_another(nodes, planted):
    name = planted["token"]
    asked = {"learn": None, "halves": [name[:9], name[9:]]}

    async def body(node):
        first = await node.start(REMEMBER)
        await first.call({"learn": name})
        assert int((await first.call(asked)).answer) > 0  # the control: it finds its own
        beside = await node.start(REMEMBER)
        assert (await beside.call(asked)).answer == b"0"
        await first.stop()
        after = await node.start(REMEMBER)
        assert (await after.call(asked)).answer == b"0"
        await beside.stop()
        await after.stop()

    nodes.run(body)


def test_no_two_instances_draw_the_same_numbers(nodes):
    async def body(node):
        drawn = []
        for _ in range(4):
            instance = await node.start(DRAW)
            drawn.append((await instance.call(False)).answer)
            same = (await instance.call(True)).answer
            await instance.stop()
        assert len(set(drawn)) == 4
        # The control: what is forked and not reseeded draws the same.
        one, two = same.decode().strip("[]").split(",")
        assert one == two

    nodes.run(body)


def processes_named(name: str) -> list[int]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == name and b"Z (" not in _status(comm):
                found.append(int(comm.parent.name))
    return found


def _status(comm: Path) -> bytes:
    return comm.with_name("status").read_bytes()


async def survivors(node, name) -> list[int]:
    """Start a daemon that ignores every signal, end the instance, and return what still lives."""
    instance = await node.start(DAEMON)
    instance.begin(name)
    until = time.monotonic() + BOUND_S
    while not processes_named(name):
        assert time.monotonic() < until
        await asyncio.sleep(0.005)
    instance.sandbox.stop("the deadline passed")
    until = time.monotonic() + 0.1 * SLOW
    while processes_named(name) and time.monotonic() < until:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.002)
    return processes_named(name)


def test_no_process_outlives_its_deadline_by_more_than_a_tenth_of_a_second(nodes):
    assert nodes.run(lambda node: survivors(node, "daemon-a")) == []


def test_without_its_wall_a_process_outlives_its_deadline(nodes):
    off = frozenset({"pid", "group_kill"})  # cgroup v2 kills the group besides
    left = nodes.run(lambda node: survivors(node, "daemon-b"), off)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left


BYSTANDER = "def handle(request):\n    return request.json\n"
BOMB = """
import os, time
def handle(request):
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""
HOG = """
def handle(request):
    held = []
    while True:
        held.append(bytearray(1 << 20))
"""


@pytest.mark.parametrize("source", [BOMB, HOG], ids=["forks without end", "takes all memory"])
def test_others_are_answered_while_a_function(nodes, source):
    async def body(node):
        bystander = await node.start(BYSTANDER)
        hostile = await node.start(source, Limits(pids=24, memory_bytes=64 << 20))
        hostile.begin()
        until, answered = time.monotonic() + 0.5 * SLOW, 0
        while time.monotonic() < until:
            assert (await bystander.call(answered)).answer == str(answered).encode()
            answered += 1
        again = await node.start(BYSTANDER)  # and new ones can be started
        assert (await again.call(1)).answer == b"1"
        for instance in (hostile, bystander, again):
            await instance.stop()
        return answered

    assert nodes.run(body) > 10
