"""What every row shares: sizes, a scratch directory, and the corpus of functions deployed once."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import corpus
from node import Node

CORPUS_READY = "corpus-ready"


@dataclass
class Bench:
    """One run of the benchmarks."""

    hearth: str
    scratch: Path
    quick: bool = False
    workers: int = 4
    """`max_concurrency` of the function of the warm rows: the most instances it gets."""
    load_seconds: float = 10.0
    rounds: int = 3
    notes: list[str] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """Return how many to take."""
        return quick if self.quick else full

    def node(self, name: str, **settings: str) -> Node:
        """Return a node on the data directory `name` with settings from the environment."""
        return Node([self.hearth], self.scratch / name, settings)

    def ladder_node(self, name: str, off: str) -> Node:
        """Return a node without the parts named in `off`."""
        command = [sys.executable, str(Path(__file__).with_name("ladder_node.py"))]
        return Node(command, self.scratch / name, {"HEARTH_BENCH_OFF": off})

    def corpus_node(self, count: int, *, idle_ttl: str = "10m", **settings: str) -> Node:
        """Return a node whose data directory holds the first `count` corpus functions, all cold.

        The functions are deployed by an earlier node: a deploy warms an instance, a restart does
        not.
        """
        mark = self.scratch / CORPUS_READY
        present = int(mark.read_text()) if mark.exists() else 0
        if present < count:
            with self.node("corpus") as node:
                node.create_key()
                wanted = ((corpus.name(n), corpus.source(n)) for n in range(present, count))
                begin = time.monotonic()
                node.deploy_all(wanted, max_concurrency=2, scale={"idle_ttl": idle_ttl})
                seconds = time.monotonic() - begin
            self.notes.append(f"{count - present} functions deployed in {seconds:.1f} s")
            mark.write_text(str(count))
        return self.node("corpus", **settings)
