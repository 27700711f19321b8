"""Many different functions, each with a call in flight at the same moment, on one real node.

Every handler waits for a file that the test makes beside its code, so nothing depends on how fast
the machine is: the calls are all under way until the test has seen that they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodes import Node, running_node, wait_until
from pace import SLOW

FUNCTIONS = 100 if SLOW > 1 else 1000
"""Fewer only where the machine is emulated."""
NEEDED_BYTES = FUNCTIONS * (4 << 20) + (1 << 30)
GATE = "gate"
SOURCE = f"""
import os
import time

GATE = os.path.join(os.path.dirname(__file__), "{GATE}")


def handle(request):
    begun = time.monotonic()
    while request.json["wait"] and not os.path.exists(GATE):
        time.sleep(0.5)
    return {{"function": {{number}}, "begun": begun, "ended": time.monotonic()}}
"""
_STILL = 40
"""Looks that must show the same; each takes some milliseconds."""
GAUGE = re.compile(r'^hearth_instances\{function="[^"]*",state="(\w+)"\} (\d+)', re.MULTILINE)
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="uids of their own need root"),
    pytest.mark.timeout(240 * SLOW),
]


def test_a_thousand_functions_have_a_call_in_flight_each_at_once(tmp_path):
    free = _available()
    assert free > NEEDED_BYTES, f"this needs {NEEDED_BYTES >> 20} MiB of free memory: {free >> 20}"
    settings = {
        "execution_warm_instance_ttl": "3s",
        "execution_max_concurrent_functions": FUNCTIONS,
    }
    with running_node(tmp_path / "data", **settings) as node:
        _deploy_all(node)
        wait_until(lambda: not _instances(node), "instances of the deploys are gone", 30 * SLOW)
        quiet = _settled(node)
        answers = asyncio.run(_all_at_once(node))
        assert sorted(answer["function"] for answer in answers) == list(range(FUNCTIONS))
        assert max(a["begun"] for a in answers) < min(a["ended"] for a in answers)
        wait_until(lambda: not _instances(node), "idle instances are gone", 30 * SLOW)
        assert _settled(node) == quiet
        assert node.ready()


def _deploy_all(node: Node) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(
            threads.map(
                lambda n: node.deploy(_name(n), SOURCE.replace("{number}", str(n))),
                range(FUNCTIONS),
            )
        )


async def _all_at_once(node: Node) -> list[dict[str, float]]:
    """Call every function on a connection of its own; release them when all are busy at once."""
    calls = [asyncio.ensure_future(_call(node.port, n)) for n in range(FUNCTIONS)]
    try:
        async with asyncio.timeout(60 * SLOW):
            while (await asyncio.to_thread(_instances, node)).get("busy") != FUNCTIONS:
                for call in calls:
                    assert not call.done() or call.result() is None, "none may end before"
                await asyncio.sleep(0.2)
        health = await asyncio.to_thread(node.request, "GET", "/healthz")
        assert health.status == 200
        _release(node)
        return [await call for call in calls]
    finally:
        for call in calls:
            call.cancel()


async def _call(port: int, number: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"wait": true}'
    head = f"POST /function/{_name(number)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    length = re.search(rb"(?i)content-length: (\d+)", answer)
    assert length is not None
    content = await reader.readexactly(int(length[1]))
    writer.close()
    return json.loads(content)


def _release(node: Node) -> None:
    for artifact in (node.data_dir / "artifacts").iterdir():
        (artifact / GATE).touch()


def _name(number: int) -> str:
    return f"f-{number:04}"


def _instances(node: Node) -> dict[str, int]:
    """Return the instances of all functions by state, as `/metrics` says."""
    found: dict[str, int] = {}
    text = node.request("GET", "/metrics").body.decode()
    for state, count in GAUGE.findall(text):
        if int(count):
            found[state] = found.get(state, 0) + int(count)
    return found


def _held(node: Node) -> tuple[int, int]:
    """Return the processes of the node and the descriptors of its own process."""
    assert node.process is not None
    return len(node.processes()), len(os.listdir(f"/proc/{node.process.pid}/fd"))


def _settled(node: Node) -> tuple[int, int]:
    """Return what it holds once that has stopped to change: spares are made behind the calls."""
    last = [(0, 0)]

    def still() -> bool:
        last.append(_held(node))
        return len(last) > _STILL and len(set(last[-_STILL:])) == 1

    wait_until(still, "the spares are there again")
    return last[-1]


def _available() -> int:
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:", 1)[1].split()[0]) << 10
