"""A node's stand-in for the kill tests: writes as fast as it can, says on stdout what is promised.

Usage: writing_node.py DATA_DIR ROUND | writing_node.py DATA_DIR once [unsafe]
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

import uvloop

from hearth.model import InvocationRecord
from hearth.store.base import QueuedCall
from hearth.store.sqlite import SqliteStore


def say(word: str, call_id: str) -> None:
    os.write(1, f"{word} {call_id}\n".encode())  # one write: whole or not at all


def call(call_id: str) -> QueuedCall:
    return QueuedCall(
        id=call_id,
        function_id="f1",
        function="hello",
        version=1,
        method=b"POST",
        path=b"/",
        query=b"",
        headers=b"",
        body=b"marked-body " + call_id.encode(),
        created_at=time.time(),
    )


def record(call_id: str) -> InvocationRecord:
    return InvocationRecord(
        id=call_id, function_id="f1", function="hello", version=1, status="succeeded", result=1
    )


async def accept(store: SqliteStore, ids) -> None:
    for call_id in ids:
        await store.enqueue(call(call_id))
        say("accepted", call_id)


async def work(store: SqliteStore) -> None:
    while True:
        for claimed in await store.claim(5):
            await store.settle(record(claimed.id))
            say("settled", claimed.id)
        await asyncio.sleep(0)


async def note(store: SqliteStore, ids) -> None:
    for call_id in ids:
        store.add_records([record(call_id)])
        await asyncio.sleep(0.0001)


async def until_killed(store: SqliteStore, round_: str) -> None:
    ids = (f"{int(time.time() * 1000):012x}{int(round_):04x}{n:016x}" for n in itertools.count())
    await asyncio.gather(*(accept(store, ids) for _ in range(20)), work(store), note(store, ids))


async def main(directory: Path, what: str, *flags: str) -> None:
    store = SqliteStore(directory / "hearth.db")
    await store.open()
    if "unsafe" in flags:
        await store._writer.submit(_switch_fsync_off)
    if what == "once":
        os.write(1, b"begin\n")
        await accept(store, ["the-one-call"])
        await store.close()
    else:
        await until_killed(store, what)


def _switch_fsync_off(connection) -> None:
    # Not possible inside a transaction: leave it for a moment.
    connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("SAVEPOINT job")


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), *sys.argv[2:]))
