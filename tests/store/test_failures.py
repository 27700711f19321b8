"""A full disk, a damaged file, a newer schema, a second node: refused in words that help."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from hearth.errors import ConfigError, StoreError
from hearth.store import database
from hearth.store.sqlite import SqliteStore


async def open_and_close(directory):
    store = SqliteStore(directory / "hearth.db")
    await store.open()
    await store.close()


def test_a_second_node_is_refused_and_told_who_is_there(run, tmp_path):
    async def scenario():
        first = SqliteStore(tmp_path / "hearth.db")
        await first.open()
        with pytest.raises(ConfigError, match=rf"in use by another node \(process {os.getpid()}\)"):
            await open_and_close(tmp_path)
        await first.close()
        await open_and_close(tmp_path)

    run(scenario())


def test_a_database_of_a_newer_hearth_is_refused_and_left_alone(run, tmp_path):
    run(open_and_close(tmp_path))
    db = sqlite3.connect(tmp_path / "hearth.db")
    db.execute("UPDATE schema_version SET number = 9999")
    db.commit()
    with pytest.raises(ConfigError, match="schema 9999"):
        run(open_and_close(tmp_path))
    assert db.execute("SELECT number FROM schema_version").fetchall() == [(9999,)]
    db.close()


def test_a_file_that_is_no_database_is_refused(run, tmp_path):
    (tmp_path / "hearth.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        run(open_and_close(tmp_path))
    (tmp_path / "hearth.db").unlink()
    run(open_and_close(tmp_path))  # nothing is still locked


def test_a_damaged_page_is_reported_when_it_is_met(run, tmp_path, make_record):
    records = [make_record(result="x" * 200) for _ in range(3000)]

    async def fill():
        store = SqliteStore(tmp_path / "hearth.db")
        await store.open()
        for start in range(0, 3000, 100):
            store.add_records(records[start : start + 100])
            await store.list_invocations(limit=1)
        await store.close()

    async def read():
        store = SqliteStore(tmp_path / "hearth.db")
        await store.open()
        try:
            await store.list_invocations(limit=3000)
        finally:
            await store.close()

    run(fill())
    db = sqlite3.connect(tmp_path / "hearth.db")
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'batch_ids'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with open(tmp_path / "hearth.db", "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(StoreError, match="is damaged"):
        run(read())


def test_a_failing_migration_leaves_the_old_schema(run, tmp_path, monkeypatch):
    run(open_and_close(tmp_path))
    known = database.migrations()
    broken = "CREATE TABLE fresh (a);\nINSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(database, "migrations", lambda: [*known, (2, broken)])
    with pytest.raises(StoreError, match="nowhere"):
        run(open_and_close(tmp_path))
    monkeypatch.setattr(database, "migrations", lambda: [*known, (2, "CREATE TABLE fresh (a);")])
    run(open_and_close(tmp_path))
    db = sqlite3.connect(tmp_path / "hearth.db")
    assert db.execute("SELECT number FROM schema_version").fetchall() == [(2,)]
    assert db.execute("SELECT count(*) FROM fresh").fetchone() == (0,)
    db.close()


def test_migrations_are_numbered_without_gaps():
    assert [number for number, _ in database.migrations()] == [
        n + 1 for n in range(len(database.migrations()))
    ]


def test_a_directory_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "hearth.db").mkdir()
    with pytest.raises(StoreError, match=r"hearth\.db cannot be opened"):
        run(open_and_close(tmp_path))


FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from hearth.errors import StoreError
from hearth.model import InvocationRecord
from hearth.store.base import QueuedCall
from hearth.store.sqlite import SqliteStore

def call(n):
    return QueuedCall(id=f"c{n}", function_id="f", function="f", version=1, method=b"", path=b"",
                      query=b"", headers=b"", body=b"x" * 100_000, created_at=0.0)

async def main(root):
    store = SqliteStore(root / "data/hearth.db")
    await store.open()
    accepted = []
    while len(accepted) < 1000:
        try:
            await store.enqueue(call(len(accepted)))
        except StoreError as error:
            print("refused:", error, error.status)
            break
        accepted.append(f"c{len(accepted)}")
    record = InvocationRecord(id="r", function_id="f", function="f", version=1, status="succeeded")
    store.add_records([record])
    assert await store.queue_depth() == len(accepted), "readers suffer"
    (root / "ballast").unlink()
    await store.enqueue(call(2000))
    assert await store.get_invocation("r") == record, "the record was given up"
    assert await store.queue_depth() == len(accepted) + 1
    assert store.records_dropped == 0
    await store.close()
    print("recovered")

root = Path(sys.argv[1])
(root / "ballast").write_bytes(b"b" * (4 << 20))
asyncio.run(main(root))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting a small disk takes root"
)
def test_a_full_disk_refuses_new_work_keeps_the_old_and_recovers(tmp_path):
    # The mount lives in a namespace of its own and goes with the process.
    script = 'mount -t tmpfs -o size=12m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, recovered = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    assert refused.startswith("refused: The disk below")
    assert refused.endswith("is full: make room; nothing was stored 503")
    assert recovered == "recovered"
