"""Keeps a node under mixed load and watches what grows: `bench/soak.py [--minutes N]`.

Once a minute: memory of the node, its file descriptors, processes, cgroups, threads, and errors.
Exit code 1 when something grew steadily after the first quarter, or a call failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import corpus
import processes
from bench import Bench
from client import Client, encode
from node import Node
from run import PROJECT, enough_descriptors

FUNCTIONS = 50
CLIENTS = 4
ALLOWED_GROWTH = 1.15


def main() -> int:
    """Soak, print one line of JSON a minute, judge at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--hearth", type=Path, default=PROJECT / ".venv/bin/hearth")
    options = parser.parse_args()
    enough_descriptors()
    with tempfile.TemporaryDirectory(prefix="hearth-soak-") as scratch:
        bench = Bench(str(options.hearth), Path(scratch))
        # A short life for idle instances keeps cold starts and ends in the mix.
        with bench.corpus_node(FUNCTIONS, idle_ttl="3s") as node:
            samples, failures = soak(node, options.minutes * 60)
    grown = growth(samples)
    print(json.dumps({"grown": grown, "failures": failures}))
    return 1 if grown or failures else 0


def soak(node: Node, seconds: float) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Return what was seen each period, and the failures by kind."""
    stop = threading.Event()
    outcomes: Counter[str] = Counter()
    clients = [threading.Thread(target=load, args=(node, stop, outcomes)) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    samples = []
    period = min(60.0, seconds / 8)
    try:
        for _ in range(max(8, int(seconds / period))):
            stop.wait(period)
            samples.append(sample(node) | {"answered": outcomes["200"]})
            print(json.dumps(samples[-1]), flush=True)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    return samples, {kind: count for kind, count in outcomes.items() if kind != "200"}


def load(node: Node, stop: threading.Event, outcomes: Counter[str]) -> None:
    """Call functions at random until told to stop; a new connection every hundred calls."""
    choice = random.Random(threading.get_ident())
    while not stop.is_set():
        try:
            client = Client(node.port)
            for _ in range(100):
                path = f"/function/{corpus.name(choice.randrange(FUNCTIONS))}"
                answer = client.exchange(encode("POST", path, corpus.PAYLOAD, node.key))
                outcomes[str(answer.status)] += 1
                stop.wait(choice.expovariate(200))
            client.close()
        except OSError as error:
            outcomes[type(error).__name__] += 1
            stop.wait(0.1)


def sample(node: Node) -> dict[str, int]:
    """Return what must not grow."""
    pid = node.process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    cgroups = Path("/proc/cgroups").read_text().splitlines()[1:]
    return {
        "pss": processes.pss_bytes([pid]),
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status.split("Threads:", 1)[1].split()[0]),
        "processes": len(node.sandboxes()),
        "cgroups": max(int(line.split()[2]) for line in cgroups),
        "disk": sum(f.stat().st_size for f in node.data_dir.rglob("*") if f.is_file()),
        "time": int(time.time()),
    }


def growth(samples: list[dict[str, int]]) -> dict[str, float]:
    """Return what the last quarter has more of than the second one, beyond what is allowed.

    The disk may grow up to its retention; everything else has to level off.
    """
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = {}
    for name in ("pss", "descriptors", "threads", "processes", "cgroups"):
        before = sum(s[name] for s in early) / len(early)
        after = sum(s[name] for s in late) / len(late)
        if after > before * ALLOWED_GROWTH + 2:
            grown[name] = round(after / max(before, 1), 3)
    return grown


if __name__ == "__main__":
    sys.exit(main())
