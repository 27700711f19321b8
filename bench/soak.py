"""Keeps a node under mixed load and watches what grows: `bench/soak.py [--minutes N]`.

At the same time: wrk with 64 connections against one function, that function deployed anew every
other second, cold starts of fifty others whose instances live three seconds, and bursts of
asynchronous calls. Retention is set low enough to be reached. Each period prints one line of JSON:
memory, descriptors, processes, cgroups, threads, records kept. Exit code 1 when something grew
steadily after the first quarter, a call failed, a limit of retention was passed, or asynchronous
calls were left over.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import corpus
import processes
from bench import Bench
from client import Client, encode
from load import wrk
from node import Node, NodeError
from run import PROJECT, enough_descriptors

FUNCTIONS = 50
CONNECTIONS = 64
CLIENTS = 2
DEPLOY_S = 2.0
BURST = 100
"""Asynchronous calls in one burst; one follows each deploy."""
ALLOWED_GROWTH = 1.15
DRAIN_S = 120.0
MAX_RECORDS, MAX_BYTES = 50_000, 16 << 20
FILE_BYTES = 64 << 20
"""The database file may be larger than its records by this much: pages, indexes and the log."""
SETTINGS = {
    "HEARTH_RETENTION_MAX_COUNT": str(MAX_RECORDS),
    "HEARTH_RETENTION_MAX_BYTES": str(MAX_BYTES),
}
STEADY = ("node", "spawner", "zygote", "descriptors", "threads", "processes", "cgroups")


def main() -> int:
    """Soak, print one line of JSON a period, judge at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--hearth", type=Path, default=PROJECT / ".venv/bin/hearth")
    options = parser.parse_args()
    enough_descriptors()
    with tempfile.TemporaryDirectory(prefix="hearth-soak-") as scratch:
        bench = Bench(str(options.hearth), Path(scratch))
        # A short life for idle instances keeps cold starts and ends in the mix.
        with bench.corpus_node(FUNCTIONS, idle_ttl="3s", **SETTINGS) as node:
            node.deploy("echo", corpus.ECHO, max_concurrency=bench.workers)
            outcomes: Counter[str] = Counter()
            samples = soak(node, options.minutes * 60, outcomes)
            backlog = drained(node)
    verdict = judge(samples, outcomes, backlog)
    print(json.dumps(verdict))
    return 1 if any(verdict[name] for name in ("grown", "passed", "failures", "backlog")) else 0


def soak(node: Node, seconds: float, outcomes: Counter[str]) -> list[dict[str, int]]:
    """Put every kind of load on the node and return what was seen each period."""
    stop = threading.Event()
    kinds: list[Callable[[Node, threading.Event, Counter[str]], None]] = [full_load, redeploys]
    kinds += [cold_calls] * CLIENTS
    threads = [
        threading.Thread(target=guarded, args=(kind, node, stop, outcomes)) for kind in kinds
    ]
    for thread in threads:
        thread.start()
    samples = []
    period = min(60.0, seconds / 8)
    try:
        for _ in range(max(8, int(seconds / period))):
            stop.wait(period)
            samples.append(sample(node) | dict(outcomes))
            print(json.dumps(samples[-1]), flush=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return samples


# --- load --------------------------------------------------------------------------------------


def guarded(
    kind: Callable[[Node, threading.Event, Counter[str]], None],
    node: Node,
    stop: threading.Event,
    outcomes: Counter[str],
) -> None:
    """Put one kind of load on the node until told to stop, and count what goes wrong."""
    while not stop.is_set():
        try:
            kind(node, stop, outcomes)
        except (OSError, NodeError) as error:
            outcomes[f"failed {kind.__name__}: {error}"[:300]] += 1
            stop.wait(1)


def full_load(node: Node, stop: threading.Event, outcomes: Counter[str]) -> None:
    """Run wrk for ten seconds; every answer must be a success."""
    url = f"http://127.0.0.1:{node.port}/function/echo"
    run = wrk(url, corpus.PAYLOAD, connections=CONNECTIONS, seconds=10, key=node.key)
    outcomes["calls by wrk"] += run.requests


def redeploys(node: Node, stop: threading.Event, outcomes: Counter[str]) -> None:
    """Deploy the loaded function anew, then send it a burst of asynchronous calls."""
    for code in (corpus.TALKER, corpus.ECHO):
        node.deploy("echo", code, method="PUT")
        outcomes["deploys"] += 1
        client = Client(node.port)
        request = encode("POST", "/async-function/echo", corpus.PAYLOAD, node.key)
        for _ in range(BURST):
            answer = client.exchange(request)
            kind = "accepted" if answer.status == 202 else f"failed async: {answer.status}"
            outcomes[kind] += 1
        client.close()
        stop.wait(DEPLOY_S)


def cold_calls(node: Node, stop: threading.Event, outcomes: Counter[str]) -> None:
    """Call a hundred functions at random on one connection."""
    choice = random.Random()
    client = Client(node.port)
    for _ in range(100):
        path = f"/function/{corpus.name(choice.randrange(FUNCTIONS))}"
        answer = client.exchange(encode("POST", path, corpus.PAYLOAD, node.key))
        kind = "cold calls" if answer.status == 200 else f"failed cold: {answer.status}"
        outcomes[kind] += 1
        if stop.wait(choice.expovariate(20)):
            break
    client.close()


def drained(node: Node) -> int:
    """Return how many asynchronous calls are left when nothing new has come for long enough."""
    until = time.monotonic() + DRAIN_S
    while (left := backlog(node)) and time.monotonic() < until:
        time.sleep(0.5)  # the metric is all that tells
    return left


def backlog(node: Node) -> int:
    """Return the asynchronous calls that are queued or running."""
    text = node.call("GET", "/metrics").body.decode()
    found = re.search(r"^hearth_async_queue_depth (\d+)", text, re.MULTILINE)
    if found is None:
        raise NodeError("/metrics has no hearth_async_queue_depth")
    return int(found[1])


# --- what is watched ---------------------------------------------------------------------------


def sample(node: Node) -> dict[str, int]:
    """Return what must not grow, and what retention limits."""
    pid = node.process.pid
    launcher = processes.first_child(pid)
    spawner = processes.first_child(launcher)
    status = Path(f"/proc/{pid}/status").read_text()
    cgroups = Path("/proc/cgroups").read_text().splitlines()[1:]
    records, size = kept(node.data_dir)
    return {
        "time": int(time.time()),
        "node": processes.own_bytes(pid),
        "spawner": processes.own_bytes(spawner),
        "zygote": processes.own_bytes(processes.first_child(spawner)),
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status.split("Threads:", 1)[1].split()[0]),
        "processes": len(node.sandboxes()),
        "cgroups": max(int(line.split()[2]) for line in cgroups),
        "records": records,
        "record_bytes": size,
        "file_bytes": sum(f.stat().st_size for f in node.data_dir.glob("hearth.db*")),
        "backlog": backlog(node),
    }


def kept(data_dir: Path) -> tuple[int, int]:
    """Return the records kept and their bytes, as a reader of the database sees them."""
    connection = sqlite3.connect(f"file:{data_dir / 'hearth.db'}?mode=ro", uri=True, timeout=10)
    try:
        records, size = connection.execute("SELECT records, bytes FROM total").fetchone()
    finally:
        connection.close()
    return int(records), int(size)


def judge(
    samples: list[dict[str, int]], outcomes: Counter[str], backlog: int
) -> dict[str, dict[str, float] | list[str] | int]:
    """Return what went wrong, and what was done."""
    return {
        "grown": growth(samples),
        "passed": passed(samples),
        "failures": {name: n for name, n in outcomes.items() if name.startswith("failed")},
        "backlog": backlog,
        "done": {name: n for name, n in outcomes.items() if not name.startswith("failed")},
    }


def growth(samples: list[dict[str, int]]) -> dict[str, float]:
    """Return what the last quarter has more of than the second one, beyond what is allowed."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = {}
    for name in STEADY:
        before = sum(s[name] for s in early) / len(early)
        after = sum(s[name] for s in late) / len(late)
        if after > before * ALLOWED_GROWTH + 2:
            grown[name] = round(after / max(before, 1), 3)
    return grown


def passed(samples: list[dict[str, int]]) -> list[str]:
    """Return the limits of retention that were passed, or not even reached."""
    limits = {
        "records": MAX_RECORDS,
        "record_bytes": MAX_BYTES,
        "file_bytes": MAX_BYTES + FILE_BYTES,
    }
    found = [
        f"{name}: {s[name]} > {limit}"
        for name, limit in limits.items()
        for s in samples
        if s[name] > limit
    ]
    if samples[-1]["records"] < MAX_RECORDS // 2 and samples[-1]["record_bytes"] < MAX_BYTES // 2:
        found.append("retention was not reached, so nothing was shown of it")
    return found


if __name__ == "__main__":
    sys.exit(main())
