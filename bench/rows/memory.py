"""Memory of an idle instance: what 200 more cost, by fair share and by what is left."""

from __future__ import annotations

import time
from typing import Any

import corpus
import processes
from bench import Bench
from client import Client, encode
from node import Node, NodeError

SETTLED_BYTES = 2 << 20


def measure(bench: Bench) -> dict[str, Any]:
    """Call functions once each; the instances stay idle; compare before and after.

    The spares are as many before as after, and shared pages count by share, so the difference of
    the whole tree is what the instances cost.
    """
    count = bench.size(200, 40)
    with bench.corpus_node(count) as node:
        node.call("GET", "/healthz")
        before = settled(node)
        client = Client(node.port)
        for number in range(count):
            path = f"/function/{corpus.name(number)}"
            answer = client.exchange(encode("POST", path, corpus.PAYLOAD, node.key))
            if answer.status != 200:
                raise NodeError(f"{path}: {answer.status} {answer.body[:300]!r}")
        client.close()
        after = settled(node)
        node_pss = processes.pss_bytes([node.process.pid])
    if after["processes"] - before["processes"] < count:
        tail = node.tail()
        raise NodeError(f"{count} calls left too few processes: {before} {after}\n{tail}")
    return {
        "instances": count,
        "processes": after["processes"] - before["processes"],
        "pss_bytes": (after["pss"] - before["pss"]) // count,
        "available_bytes": (before["available"] - after["available"]) // count,
        "node_pss_bytes": node_pss,
    }


def settled(node: Node) -> dict[str, int]:
    """Return the figures once MemAvailable and the number of processes have stopped moving."""
    last = figures(node)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        time.sleep(0.5)  # the condition is that nothing changes over this span
        now = figures(node)
        still = abs(now["available"] - last["available"]) < SETTLED_BYTES
        if still and now["processes"] == last["processes"]:
            return now
        last = now
    return last


def figures(node: Node) -> dict[str, int]:
    """Return processes, their PSS, and MemAvailable."""
    pids = node.sandboxes()
    return {
        "processes": len(pids),
        "pss": processes.pss_bytes(pids),
        "available": processes.available_bytes(),
    }
