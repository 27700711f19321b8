"""Warm call through the full gateway, one connection, one call at a time."""

from __future__ import annotations

from typing import Any

import corpus
from bench import Bench
from client import Client, encode
from distribution import summary
from load import Nginx, wrk

ROUNDS = 4


def measure(bench: Bench) -> dict[str, Any]:
    """Measure Hearth and nginx in turn, so that both see the same machine."""
    calls = bench.size(20_000, 2_000)
    ours: list[int] = []
    theirs: list[int] = []
    with bench.node("warm") as node, Nginx() as nginx:
        node.create_key()
        node.deploy("echo", corpus.ECHO, max_concurrency=bench.workers)
        ask = encode("POST", "/function/echo", corpus.PAYLOAD, node.key)
        ask_nginx = encode("POST", "/", corpus.PAYLOAD)
        for port, request in ((node.port, ask), (nginx.port, ask_nginx)):
            loop(port, request, calls // 10)
        for _ in range(ROUNDS):
            ours += loop(node.port, ask, calls // ROUNDS)
            theirs += loop(nginx.port, ask_nginx, calls // ROUNDS)
        url = f"http://127.0.0.1:{node.port}/function/echo"
        seconds = bench.load_seconds / 3
        by_wrk = wrk(url, corpus.PAYLOAD, connections=1, seconds=seconds, key=node.key)
    return {
        "hearth_ms": summary(ours),
        "nginx_ms": summary(theirs),
        "hearth_wrk_c1": by_wrk._asdict(),
    }


def loop(port: int, request: bytes, count: int) -> list[int]:
    """Return the nanoseconds each of `count` calls took on one connection.

    Raises:
        AssertionError: an answer was not 200.
    """
    client = Client(port)
    taken = []
    for _ in range(count):
        answer = client.exchange(request)
        assert answer.status == 200, answer
        taken.append(answer.total_ns)
    client.close()
    return taken
