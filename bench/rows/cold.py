"""Cold start to the first byte: many different functions, quiet between calls."""

from __future__ import annotations

import time
from typing import Any

import corpus
from bench import Bench
from client import Client, encode
from distribution import summary
from node import Node, NodeError

GAP_S = 0.025  # at least 20 ms of quiet, as a tight loop hides what the kernel puts off


def measure(bench: Bench) -> dict[str, Any]:
    """Measure with spares ready and without, each on a node that has run nothing yet."""
    count = bench.size(500, 60)
    result: dict[str, Any] = {"functions": count, "gap_ms": GAP_S * 1000}
    with bench.corpus_node(count) as node:
        result["spare_ms"] = summary(starts(node, count))
    with bench.corpus_node(count, HEARTH_PROCESS_SPARES="0") as node:
        result["no_spare_ms"] = summary(starts(node, count))
    return result


def starts(node: Node, count: int) -> list[int]:
    """Return the nanoseconds to the first byte of the first call of each function.

    Raises:
        NodeError: a call failed, or was not a cold one.
    """
    client = Client(node.port)
    client.exchange(encode("GET", "/healthz"))
    taken = []
    for number in range(count):
        time.sleep(GAP_S)
        path = f"/function/{corpus.name(number)}"
        answer = client.exchange(encode("POST", path, corpus.PAYLOAD, node.key))
        if answer.status != 200 or answer.json()["function"] != number:
            raise NodeError(f"{path}: {answer.status} {answer.body[:300]!r}\n{node.tail()}")
        if answer.header("X-Cold-Start") != "true":
            raise NodeError(f"{path} was not a cold start: {answer.head!r}")
        taken.append(answer.first_byte_ns)
    client.close()
    return taken
