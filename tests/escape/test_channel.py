"""A function may write anything to its end of the channel: only its own calls suffer."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest
from escape_node import BOUND_S, SLOW

from hearth.model import Limits

LINUX = tuple(int(part) for part in os.uname().release.split(".")[:2])
BYSTANDER = """
import time
def handle(request):
    time.sleep(request.json["for_s"])
    return request.json
"""
HOSTILE = """
import array, os, socket, sys, time
from hearth_runtime import frames
CHANNEL, NUMBER = 3, 1  # nothing is hidden: the first call of an instance has number 1

def send(*parts):
    data = b"".join(parts)
    while data:
        data = data[os.write(CHANNEL, data):]

def reply(body, number=NUMBER):
    payload = frames.REPLY_HEAD.pack(200, 0) + body
    return frames.frame(frames.REPLY, number, payload)

def handle(request):
    attack()
    time.sleep(60)

"""
VIOLATIONS = {
    "say ready again": "send(frames.frame(frames.READY, 0, b'{\"init_ns\": 1}'))",
    "say that loading failed": 'send(frames.frame(frames.INIT_FAILED, 0, b\'{"type": "x"}\'))',
    "answer a call that is not its own": "send(reply(b'x', number=2))",
    "answer call 0": "send(reply(b'x', number=0))",
    "answer the largest number": "send(reply(b'x', number=2**32 - 1))",
    "send the node a call": "send(frames.call_frame(1, 0.0, b'', b'', b'', b'', b'', b''))",
    "send a frame of no known kind": "send(frames.frame(77, NUMBER))",
    "set flags that do not exist": "send(frames.frame(frames.REPLY, NUMBER, bytes(6), 0xFE))",
    "stream without a beginning": "send(frames.frame(frames.CHUNK, NUMBER, b'x'))",
    "end a stream that has no beginning": "send(frames.frame(frames.END, NUMBER))",
    "promise headers that do not come": "send(frames.frame(frames.REPLY, NUMBER, b'\\xff' * 6))",
    "send what is no frame": "send(bytes(range(256)) * 16)",
    "announce four gigabytes": "send(b'\\xff' * 4, bytes([frames.REPLY]) + bytes(11))",
    "close the channel and live on": "os.close(CHANNEL)",
    "put something else in its place": "os.dup2(0, CHANNEL)",
    "send half a frame and no more": "send(reply(b'x')[:9]); os.close(CHANNEL)",
}


async def answers_of_a_bystander(node, meanwhile):
    """Run `meanwhile()` while calls of another function are in flight, and check all of those."""
    slow, quick = await node.start(BYSTANDER), await node.start(BYSTANDER)
    in_flight = slow.begin({"for_s": 0.2, "n": -1})
    act = asyncio.ensure_future(meanwhile())
    slowest = n = 0
    while not act.done() or n < 5:
        asked, n = {"for_s": 0, "n": n}, n + 1
        started = time.monotonic()
        outcome = await quick.call(asked)
        assert json.loads(outcome.answer) == asked
        await asyncio.sleep(0.002)
        slowest = max(slowest, time.monotonic() - started)
    assert json.loads((await asyncio.wait_for(in_flight.done, BOUND_S)).answer)["n"] == -1
    await slow.stop()
    await quick.stop()
    return await act, slowest


async def attack(node, source, **limits):
    hostile = await node.start(f"{HOSTILE}def attack():\n    {source}\n", Limits(**limits))
    outcome = await hostile.call()
    return outcome, hostile


def test_what_user_code_writes_to_the_channel_does_reach_the_node(nodes):
    async def body(node):
        outcome, hostile = await attack(node, "send(reply(b'forged'))")
        assert outcome.answer == b"forged"  # of its own call: that is its right
        await hostile.stop()

    nodes.run(body)


@pytest.mark.parametrize("source", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_only_its_own_call_suffers_when_a_function_tries_to(nodes, source):
    async def body(node):
        (outcome, hostile), _ = await answers_of_a_bystander(node, lambda: attack(node, source))
        assert outcome.end is not None
        assert outcome.end.violation or outcome.end.response_too_large, outcome.end
        assert "protocol violation" in outcome.end.reason
        await asyncio.wait_for(hostile.gone.wait(), BOUND_S)

    nodes.run(body)


@pytest.mark.parametrize(
    "source",
    ["send(reply(b'1'), reply(b'2'))", "send(reply(b'1')); time.sleep(0.05); send(reply(b'2'))"],
    ids=["at once", "later"],
)
def test_a_second_answer_to_one_call_ends_the_instance_and_is_not_delivered(nodes, source):
    async def body(node):
        (outcome, hostile), _ = await answers_of_a_bystander(node, lambda: attack(node, source))
        assert outcome.answer == b"1"
        await asyncio.wait_for(hostile.gone.wait(), BOUND_S)
        assert hostile.end.violation

    nodes.run(body)


def test_an_answer_ahead_of_its_call_is_not_kept_for_it(nodes):
    source = """
import os
from hearth_runtime import frames
os.write(3, frames.frame(frames.REPLY, 1, frames.REPLY_HEAD.pack(200, 0) + b"early"))
def handle(request):
    return "late"
"""

    async def body(node):
        with pytest.raises(AssertionError, match="REPLY to call 1"):
            await node.start(source)

    nodes.run(body)


@pytest.mark.parametrize("piece", ["bytes(1 << 16)", "b'x'", "b''"])
def test_an_endless_answer_ends_at_its_limit(nodes, piece):
    source = f"""send(frames.frame(frames.HEAD, NUMBER, frames.REPLY_HEAD.pack(200, 0)))
    many = frames.frame(frames.CHUNK, NUMBER, {piece})
    many *= max(1, (1 << 16) // len(many))
    while True:
        send(many)"""

    async def body(node):
        (outcome, _), slowest = await answers_of_a_bystander(
            node, lambda: attack(node, source, response_bytes=8 << 20)
        )
        assert outcome.end.response_too_large
        assert slowest < 0.5 * SLOW

    nodes.run(body)


def test_a_withheld_answer_holds_up_nobody_else(nodes):
    async def body(node):
        hostile = await node.start(f"{HOSTILE}def attack():\n    send(reply(b'x')[:9])\n")

        async def wait_for_the_deadline():
            call = hostile.begin()
            await asyncio.sleep(0.3)
            assert not call.done.done()
            await hostile.stop()  # what the engine does then
            return await call.done

        outcome, _ = await answers_of_a_bystander(node, wait_for_the_deadline)
        assert outcome.end is not None

    nodes.run(body)


def test_a_flood_of_output_does_not_slow_others_down(nodes):
    source = "while True: os.write(1, bytes(1 << 16))"

    async def body(node):
        hostile = await node.start(f"{HOSTILE}def attack():\n    {source}\n")

        async def flood():
            call = hostile.begin()
            await asyncio.sleep(0.5)
            await hostile.stop()
            return len(call.output)

        flooded, slowest = await answers_of_a_bystander(node, flood)
        assert flooded > 1 << 20  # the control: there was a flood
        assert slowest < 0.2 * SLOW

    nodes.run(body)


PASSING = frozenset({"passed_descriptors"})


@pytest.mark.parametrize("off", [frozenset(), PASSING], ids=["refused", "dropped"])
def test_descriptors_passed_to_the_node_do_not_stay_there(nodes, off):
    """From Linux 6.16 on the sender is refused; before, and in the control, they are dropped."""
    source = """with socket.socket(fileno=os.dup(CHANNEL)) as sock:
        rights = array.array("i", [0] * 100)
        data = reply(b"done")
        for at in range(len(data)):  # the node takes every byte of it
            sock.sendmsg(
                [data[at:at + 1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )"""

    async def body(node):
        before = len(os.listdir("/proc/self/fd"))
        outcome, hostile = await attack(node, source)
        if off or LINUX < (6, 16):
            assert outcome.answer == b"done"
        else:
            assert "Operation not permitted" in outcome.error
        await hostile.stop()
        assert len(os.listdir("/proc/self/fd")) <= before

    nodes.run(body, off)


LINGER = """server = socket.create_server(("127.0.0.1", 0))
    global peers  # who closed them would end the waiting
    peers, lingering = [], []
    for _ in range(3):
        client = socket.create_connection(server.getsockname())
        peers.append(server.accept()[0])
        client.setblocking(False)
        try:
            while True:
                client.send(bytes(1 << 16))  # until no more is taken: now there is much to wait for
        except BlockingIOError:
            pass
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\1\\0\\0\\0")
        except OSError:
            send(reply(b"refused"))
            return
        lingering.append(client.detach())
    data, rights = reply(b"passed"), array.array("i", lingering)
    with socket.socket(fileno=os.dup(CHANNEL)) as sock:
        sock.sendmsg([data[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        [os.close(fd) for fd in lingering]
    send(data[1:])"""


@pytest.mark.parametrize("off", [frozenset(), PASSING | {"seccomp"}], ids=["stopped", "control"])
def test_the_node_does_not_wait_for_a_socket_that_was_passed_to_it(nodes, off):
    """The last to close a socket waits for its data; who drops a passed one is the last."""

    async def body(node):
        hostile = await node.start(f"{HOSTILE}def attack():\n    {LINGER}\n")

        async def a_slow_client():
            """The node waits for its client before it reads on: time for the function to close."""
            call = hostile.begin()
            hostile.sandbox.pause_reading()
            await asyncio.sleep(0.3 * SLOW)
            hostile.sandbox.resume_reading()
            return await call.done

        outcome, slowest = await answers_of_a_bystander(node, a_slow_client)
        await hostile.stop()
        return outcome, slowest

    outcome, slowest = nodes.run(body, off)
    assert outcome.answer == (b"passed" if off else b"refused")
    assert (slowest > 1.0) == bool(off)
