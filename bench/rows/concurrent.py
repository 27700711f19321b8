"""Different functions with a call in flight each, at once: proven by the functions' own clocks."""

from __future__ import annotations

import json
import selectors
import time
from typing import Any

import corpus
import processes
from bench import Bench
from client import Client, encode, length
from node import Node, NodeError


def measure(bench: Bench) -> dict[str, Any]:
    """Send one waiting call to each function: the last must begin before the first ends."""
    count = bench.size(1000, 100)
    hold = bench.size(40, 8)
    limits = {"HEARTH_EXECUTION_MAX_CONCURRENT_FUNCTIONS": str(count + 10)}
    with bench.corpus_node(count, **limits) as node:
        free = processes.available_bytes()
        begin = time.monotonic()
        answers, lowest = at_once(node, count, hold)
        seconds = time.monotonic() - begin
    begun = max(answer["begun"] for answer in answers)
    ended = min(answer["ended"] for answer in answers)
    numbers = {answer["function"] for answer in answers}
    return {
        "functions": len(numbers),
        "all_at_once": len(numbers) == count and begun < ended,
        "overlap_s": round(ended - begun, 3),
        "last_began_after_s": round(begun - begin, 3),
        "whole_run_s": round(seconds, 1),
        "bytes_per_call_in_flight": (free - lowest) // count,
    }


def at_once(node: Node, count: int, hold: int) -> tuple[list[dict[str, Any]], int]:
    """Return all answers, and the lowest MemAvailable seen on the way.

    Raises:
        NodeError: a call failed, or not all answers came in time.
    """
    body = corpus.PAYLOAD[:-1] + b',"hold":%d}' % hold
    selector = selectors.DefaultSelector()
    for number in range(count):
        client = Client(node.port)
        path = f"/function/{corpus.name(number)}"
        client.socket.sendall(encode("POST", path, body, node.key))
        selector.register(client.socket, selectors.EVENT_READ, (path, bytearray()))
    answers: list[dict[str, Any]] = []
    lowest = processes.available_bytes()
    until = time.monotonic() + hold + 120
    while len(answers) < count:
        if time.monotonic() > until:
            raise NodeError(f"{count - len(answers)} calls got no answer\n{node.tail()}")
        for key, _ in selector.select(0.5):
            path, data = key.data
            piece = key.fileobj.recv(65536)  # type: ignore[union-attr]  # always a socket here
            data += piece
            head, found, rest = bytes(data).partition(b"\r\n\r\n")
            if not piece or (found and len(rest) >= length(head)):
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]  # always a socket here
                if head[9:12] != b"200":
                    raise NodeError(f"{path}: {bytes(data[:400])!r}")
                answers.append(json.loads(rest))
        lowest = min(lowest, processes.available_bytes())
    selector.close()
    return answers, lowest
