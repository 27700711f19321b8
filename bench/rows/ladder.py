"""What each feature costs: CPU microseconds per request with one more switched on at each rung.

`bench/ladder_node.py` leaves parts out and the node says which; a rung whose node does not say so
is refused, since it would show a cost of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import corpus
from bench import Bench
from node import NodeError
from rows.throughput import hearth_run


@dataclass(frozen=True)
class Rung:
    """One step: what is still off, whether a key is checked, and the function that is called."""

    title: str
    off: str
    key: bool = True
    code: str = corpus.ECHO


RUNGS = (
    Rung("bare", "sandbox,records,metrics", key=False),
    Rung("+ sandboxed worker (strict)", "records,metrics", key=False),
    Rung("+ API key checked", "records,metrics"),
    Rung("+ invocation records", "metrics"),
    Rung("+ metrics", ""),
    Rung("+ a printed line per call", "", code=corpus.TALKER),
)


def measure(bench: Bench) -> dict[str, Any]:
    """Climb the ladder; each rung has a node of its own."""
    return {"rungs": [climb(bench, index, rung) for index, rung in enumerate(RUNGS)]}


def climb(bench: Bench, index: int, rung: Rung) -> dict[str, Any]:
    """Return what one request costs on one rung, or why that cannot be measured."""
    try:
        with bench.ladder_node(f"ladder-{index}", rung.off) as node:
            if node.switched_off() != set(filter(None, rung.off.split(","))):
                raise NodeError(f"the node does not honour HEARTH_BENCH_OFF={rung.off}")
            if rung.key:
                node.create_key()
            node.deploy("echo", rung.code, max_concurrency=bench.workers)
            hearth_run(bench, node, 32, bench.load_seconds / 5)  # warm-up
            run = hearth_run(bench, node, 32, bench.load_seconds / 2)
            if "sandbox" in rung.off:  # plain children have no uids by which to tell them
                run["cpu_us"] |= {"instances": run["cpu_us"]["platform"], "platform": 0.0}
            return {"title": rung.title, **run}
    except NodeError as error:
        return {"title": rung.title, "refused": str(error)[:500]}
