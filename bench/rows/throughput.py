"""Throughput with keep-alive: everything on, beside nginx `return 200`, interleaved."""

from __future__ import annotations

import statistics
from typing import Any

import corpus
from bench import Bench
from load import Load, Nginx, wrk
from node import Node

CONNECTIONS = (32, 64)


def measure(bench: Bench) -> dict[str, Any]:
    """Measure nginx and Hearth in turn, for each number of connections."""
    result: dict[str, Any] = {"workers": bench.workers}
    with bench.node("warm") as node, Nginx() as nginx:
        node.create_key()
        node.deploy("echo", corpus.ECHO, max_concurrency=bench.workers, queue_size=1000)
        hearth_run(bench, node, 32, bench.load_seconds / 3)  # warm-up
        for connections in CONNECTIONS:
            rounds = [
                (nginx_run(bench, nginx, connections), hearth_run(bench, node, connections))
                for _ in range(bench.size(bench.rounds, 1))
            ]
            result[f"c{connections}"] = compare(rounds)
    result["ratio"] = max(result[f"c{c}"]["ratio"] for c in CONNECTIONS)
    return result


def hearth_run(
    bench: Bench, node: Node, connections: int, seconds: float | None = None
) -> dict[str, Any]:
    """Return one run against the echo function with the CPU microseconds per request."""
    url = f"http://127.0.0.1:{node.port}/function/echo"
    before = node.cpu()
    load = wrk(
        url,
        corpus.PAYLOAD,
        connections=connections,
        seconds=seconds or bench.load_seconds,
        key=node.key,
    )
    after = node.cpu()
    used = {role: (after[role] - before[role]) / load.requests for role in after}
    return described(load, used)


def nginx_run(bench: Bench, nginx: Nginx, connections: int) -> dict[str, Any]:
    """Return one run against nginx with the CPU microseconds per request."""
    before = nginx.cpu_us()
    url = f"http://127.0.0.1:{nginx.port}/"
    load = wrk(url, corpus.PAYLOAD, connections=connections, seconds=bench.load_seconds)
    return described(load, {"nginx": (nginx.cpu_us() - before) / load.requests})


def described(load: Load, used: dict[str, float]) -> dict[str, Any]:
    """Return a run as JSON."""
    used["wrk"] = load.client_cpu_us / load.requests
    return {
        "per_second": round(load.per_second),
        "p50_ms": load.p50_us / 1000,
        "p99_ms": load.p99_us / 1000,
        "cpu_us": {role: round(value, 2) for role, value in used.items()},
    }


def compare(rounds: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians of both sides and their ratio."""
    nginx = sorted((r[0] for r in rounds), key=lambda run: run["per_second"])[len(rounds) // 2]
    hearth = sorted((r[1] for r in rounds), key=lambda run: run["per_second"])[len(rounds) // 2]
    ratios = [ours["per_second"] / theirs["per_second"] for theirs, ours in rounds]
    return {
        "nginx": nginx,
        "hearth": hearth,
        "ratio": round(statistics.median(ratios), 4),
        "rounds": [{"nginx": n["per_second"], "hearth": h["per_second"]} for n, h in rounds],
    }
