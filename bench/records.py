"""What invocation records cost the node: CPU per record, and how late the event loop becomes.

Adds records at a fixed rate on a uvloop loop for a few seconds, for each variant, and prints one
JSON object per variant. `none` is the same loop without a store; `thread` keeps the records and
encodes them on the writer thread instead; `plain` is `loop` without compression.

    python bench/records.py [--rate 25000] [--seconds 4]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from hearth.model import InvocationRecord, Metrics
from hearth.store import records
from hearth.store.sqlite import SqliteStore

TICK_S = 0.001


def make_records(count: int) -> list[InvocationRecord]:
    """Return records as a warm call of a small function leaves them."""
    now = time.time()
    return [
        InvocationRecord(
            id=f"{int(now * 1000) + n:012x}{os.urandom(10).hex()}",
            function_id="0" * 32,
            function="hello",
            version=3,
            status="succeeded",
            http_status=200,
            metrics=Metrics(duration=84_211 + n, queue_wait=1200),
            created_at=now,
            started_at=now,
            finished_at=now,
        )
        for n in range(count)
    ]


class ThreadEncoded:
    """The alternative: records are kept as they are and encoded where they are written."""

    def __init__(self, store: SqliteStore) -> None:
        """Write into `store`."""
        self._store = store
        self._kept: list[InvocationRecord] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, added: list[InvocationRecord]) -> None:
        """Keep records; every 0.1 s they are handed over."""
        self._kept += added
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0.1, self._hand_over)

    def _hand_over(self) -> None:
        kept, self._kept, self._timer = self._kept, [], None
        self._store._writer.submit(partial(self._write, kept))

    def _write(self, kept: list[InvocationRecord], db: sqlite3.Connection) -> None:
        batches = []
        for start in range(0, len(kept), 500):
            part = kept[start : start + 500]
            batch = records.Batch(
                ids=[r.id for r in part],
                functions={r.function for r in part},
                statuses={r.status for r in part},
                lines=[records.encode_lines(part)],
            )
            batch.size = len(batch.lines[0])
            batches.append(batch)
        clock = self._store._clock
        records.write_batches(db, batches, clock=clock, batch_records=500)


async def measure(
    add: Callable[[list[InvocationRecord]], None], rate: int, seconds: float
) -> dict[str, float]:
    """Add records in ticks of a millisecond; return CPU per record and lateness of the ticks."""
    # A second's thousandths share 500 records: a record that was just made is warm in the cache.
    per_tick = int(rate * TICK_S)
    made = make_records(20 * per_tick)
    ticks = [made[n : n + per_tick] for n in range(0, len(made), per_tick)]
    lateness: list[float] = []
    cpu, thread = time.process_time(), time.thread_time()
    begin = time.perf_counter()
    for n in range(int(seconds / TICK_S)):
        due = begin + n * TICK_S
        add(ticks[n % len(ticks)])
        await asyncio.sleep(max(0.0, due + TICK_S - time.perf_counter()))
        lateness.append(time.perf_counter() - due - TICK_S)
    count = len(lateness) * per_tick
    lateness.sort()
    return {
        "cpu_us_per_record": (time.process_time() - cpu) / count * 1e6,
        "loop_us_per_record": (time.thread_time() - thread) / count * 1e6,
        "late_p50_ms": lateness[len(lateness) // 2] * 1e3,
        "late_p99_ms": lateness[int(len(lateness) * 0.99)] * 1e3,
        "late_max_ms": lateness[-1] * 1e3,
        "records_per_s": count / (time.perf_counter() - begin),
    }


async def variant(name: str, rate: int, seconds: float) -> dict[str, float | str]:
    """Measure one variant in a new database."""
    if name == "none":
        return {"variant": name, **await measure(lambda added: None, rate, seconds)}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as directory:
        store = SqliteStore(Path(directory) / "hearth.db")
        await store.open()
        add = ThreadEncoded(store).add if name == "thread" else store.add_records
        result = await measure(add, rate, seconds)
        await store.close()
        size = sum(entry.stat().st_size for entry in os.scandir(directory))
        return {"variant": name, **result, "megabytes": size / 1e6}


def leave_as_it_is(data: bytes, _level: int) -> bytes:
    """Stand in for zlib."""
    return data


def main() -> None:
    """Measure every variant and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=25_000)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    for name in ("none", "loop", "thread", "plain"):
        if name == "plain":
            zlib.compress = leave_as_it_is  # type: ignore[assignment] # last variant, never undone
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(variant(name, options.rate, options.seconds))
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
        print(json.dumps(rounded))


if __name__ == "__main__":
    main()
