"""Measures the rows of the performance table on this machine and writes what was found.

    bench/run.py [--quick] [--workers N] [ROW ...]        (make bench ARGS=...)

Rows: warm throughput cold memory concurrent ladder leak; all when none is named. A full run writes
docs/benchmarks.{json,md,svg}; rows that are not measured keep their last figures. A quick one
(`--quick`) writes to .cache/bench, since its figures are too few to be quoted.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import report
from bench import Bench
from node import NodeError
from rows import cold, concurrent, ladder, leak, memory, throughput, warm

PROJECT = Path(__file__).resolve().parents[1]
ROWS = {
    "warm": warm.measure,
    "throughput": throughput.measure,
    "cold": cold.measure,
    "memory": memory.measure,
    "concurrent": concurrent.measure,
    "ladder": ladder.measure,
    "leak": leak.measure,
}


def main() -> int:
    """Measure the rows asked for; 1 when one could not be measured or falls short of its bar."""
    options = arguments()
    enough_descriptors()
    out = options.out or (PROJECT / (".cache/bench" if options.quick else "docs"))
    out.mkdir(parents=True, exist_ok=True)
    results = out / "benchmarks.json"
    data: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    broken = False
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        bench = Bench(
            str(options.hearth),
            Path(scratch),
            quick=options.quick,
            workers=options.workers,
            load_seconds=3 if options.quick else 10,
        )
        for name in options.rows or ROWS:
            broken |= not measure(name, bench, data)
            results.write_text(json.dumps(data, indent=1) + "\n")
    report.write(data, out)
    for line in report.table(data):
        print(line)
    return 1 if broken or report.short(data) else 0


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[*ROWS, []])
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it works")
    parser.add_argument("--workers", type=int, default=2, help="instances of the warm function")
    parser.add_argument("--out", type=Path, help="directory for the results")
    parser.add_argument(
        "--hearth", type=Path, default=PROJECT / ".venv/bin/hearth", help="the command to start"
    )
    return parser.parse_args()


def enough_descriptors() -> None:
    """Raise the soft limit, which nodes inherit: a thousand instances have several each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(name: str, bench: Bench, data: dict[str, Any]) -> bool:
    """Measure one row into `data`; return whether that worked."""
    print(f"bench: {name} …", file=sys.stderr, flush=True)
    begin = time.monotonic()
    stamp = {"machine": machine.describe(), "quick": bench.quick}
    try:
        result = ROWS[name](bench)
    except (NodeError, OSError, AssertionError) as error:
        print(f"bench: {name} could not be measured: {error}", file=sys.stderr, flush=True)
        data.pop(name, None)
        return False
    seconds = round(time.monotonic() - begin, 1)
    data[name] = {**stamp, "took_s": seconds, "notes": list(bench.notes), **result}
    bench.notes.clear()
    print(f"bench: {name} took {seconds} s", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
