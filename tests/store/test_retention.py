"""Records stay inside age, count and bytes, and so does the file, at full load."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import msgspec

from hearth.config import Bytes, Retention, Seconds
from hearth.store.sqlite import SqliteStore


async def open_store(directory: Path, clock=None, **limits) -> SqliteStore:
    store = SqliteStore(directory / "hearth.db", Retention(**limits), clock)
    await store.open()
    return store


async def totals(store: SqliteStore) -> tuple[int, int]:
    return await store._read(lambda db: db.execute("SELECT records, bytes FROM total").fetchone())


def test_the_count_limit_holds_and_the_newest_stay(run, tmp_path, make_record):
    records = [make_record() for _ in range(2000)]

    async def scenario():
        store = await open_store(tmp_path, max_count=100)
        for start in range(0, 2000, 50):
            store.add_records(records[start : start + 50])
            kept = await store.list_invocations(limit=1000)
            assert len(kept) <= 100
            assert kept == records[start + 49 :: -1][: len(kept)], "not the newest ones"
        assert len(kept) >= 90
        await store.close()

    run(scenario())


def test_the_age_limit_holds_also_for_records_that_shared_a_row(run, tmp_path, clock, make_record):
    async def scenario():
        store = await open_store(tmp_path, clock, max_age=Seconds(1000))
        saved: dict[str, float] = {}
        for _ in range(60):
            record = make_record()
            store.add_records([record])
            await store.list_invocations()
            saved[record.id] = clock.now
            for kept in await store.list_invocations(limit=1000):
                assert clock.now - saved[kept.id] <= 1000
            clock.now += 50
        assert len(await store.list_invocations(limit=1000)) >= 15
        await store.close()

    run(scenario())


def test_settled_calls_count_too_and_waiting_ones_are_never_forgotten(
    run, tmp_path, clock, make_record, make_call
):
    async def scenario():
        store = await open_store(tmp_path, clock, max_count=20, max_age=Seconds(100))
        waiting = make_call()
        for _ in range(60):
            call = make_call()
            await store.enqueue(call)
            await store.claim(1)
            await store.settle(make_record(id=call.id))
            store.add_records([make_record()])
        await store.enqueue(waiting)
        assert len(await store.list_invocations(limit=100)) <= 21
        clock.now += 1_000_000
        store.add_records([make_record()])
        kept = await store.list_invocations(limit=100)
        assert waiting.id in {record.id for record in kept}
        assert len(kept) == 2
        await store.close()

    run(scenario())


def test_after_ten_times_the_byte_limit_the_file_is_smaller_than_twice_it(
    run, tmp_path, make_record
):
    limit = 8 << 20
    noise = random.Random(3)

    async def scenario():
        store = await open_store(tmp_path, max_bytes=Bytes(limit))
        written = 0
        while written < 10 * limit:
            # Random text, so that compression does not make the test pass.
            records = [make_record(result=noise.randbytes(3000).hex()) for _ in range(100)]
            store.add_records(records)
            await store.get_invocation(records[0].id)
            written += 100 * 3000
            size = sum(f.stat().st_size for f in tmp_path.iterdir())
            assert size < 2 * limit
            assert (await totals(store))[1] <= limit
        assert (await totals(store))[1] > limit // 2, "far more was removed than had to be"
        await store.close()

    run(scenario())


def test_a_smaller_limit_gives_the_disk_space_back(run, tmp_path, make_record):
    noise = random.Random(4)

    async def fill():
        store = await open_store(tmp_path)
        for _ in range(20):
            store.add_records(
                [make_record(result=noise.randbytes(20_000).hex()) for _ in range(50)]
            )
            await store.list_invocations(limit=1)
        await store.close()

    async def shrink():
        store = await open_store(tmp_path, max_bytes=Bytes(1 << 20))
        for _ in range(20):
            await store._writer.submit(store._trimmer.sweep)
        await store.close()

    run(fill())
    before = (tmp_path / "hearth.db").stat().st_size
    run(shrink())
    after = (tmp_path / "hearth.db").stat().st_size
    assert before > 16 << 20
    assert after < before - (12 << 20)


def test_the_totals_that_retention_trusts_are_right(run, tmp_path, make_record, make_call):
    chance = random.Random(5)

    async def scenario():
        store = await open_store(tmp_path, max_count=200)
        for _ in range(100):
            store.add_records([make_record(result="x" * chance.randrange(99)) for _ in range(9)])
            call = make_call()
            await store.enqueue(call)
            if chance.random() < 0.7:
                for claimed in await store.claim(chance.randrange(1, 4)):
                    await store.settle(make_record(id=claimed.id))
            await store.list_invocations(limit=1)
        await store.close()

    run(scenario())
    db = sqlite3.connect(tmp_path / "hearth.db")
    counted = db.execute(
        """
        SELECT (SELECT sum(records) FROM batch) + (SELECT count(*) FROM call WHERE record NOT NULL),
               (SELECT sum(length(data) + length(tails) + 256) FROM batch)
               + (SELECT sum(length(record) + 256) FROM call WHERE record NOT NULL)
        """
    ).fetchone()
    assert db.execute("SELECT records, bytes FROM total").fetchone() == counted
    assert 150 < counted[0] <= 200
    db.close()


def test_the_audit_log_keeps_its_newest_entries(run, tmp_path, monkeypatch):
    from hearth.store import retention
    from hearth.store.base import AuditEntry

    monkeypatch.setattr(retention, "_AUDIT_ENTRIES", 10)
    entry = AuditEntry(
        time=1.0, identity="k", action="a", target="t", request_id="r", outcome="ok", remote=""
    )

    async def scenario():
        store = await open_store(tmp_path)
        for n in range(50):
            store.add_audit(msgspec.structs.replace(entry, time=float(n)))
        await store._writer.submit(store._trimmer.sweep)
        assert [e.time for e in await store.list_audit()] == [float(n) for n in range(49, 39, -1)]
        await store.close()

    run(scenario())
