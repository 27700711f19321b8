"""What is put into the store comes back, now and after it was closed and opened again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from hearth.config import Retention
from hearth.errors import Conflict, StoreError
from hearth.model import Failure, Function, Key, LogLine, Metrics
from hearth.store.base import AuditEntry
from hearth.store.sqlite import SqliteStore

HELLO = Function(id="f1", name="hello", created_at=1.0, updated_at=2.0, aliases={"latest": 1})


@contextlib.asynccontextmanager
async def opened(directory: Path, **options):
    store = SqliteStore(directory / "hearth.db", **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def test_functions_and_versions_are_back_after_a_restart(run, tmp_path, make_version):
    second = msgspec.structs.replace(HELLO, updated_at=3.0, aliases={"latest": 2, "stable": 1})

    async def deploy():
        async with opened(tmp_path) as store:
            await store.save_version(HELLO, make_version(1))
            await store.save_version(second, make_version(2))

    async def load():
        async with opened(tmp_path) as store:
            return await store.load_functions(), await store.referenced()

    run(deploy())
    functions, referenced = run(load())
    assert functions == [(second, [make_version(1), make_version(2)])]
    assert referenced == {make_version(1).artifact, make_version(2).artifact}


def test_a_version_number_is_never_written_twice(run, tmp_path, make_version):
    async def scenario():
        async with opened(tmp_path) as store:
            await store.save_version(HELLO, make_version(1))
            changed = msgspec.structs.replace(HELLO, aliases={"latest": 7})
            with pytest.raises(Conflict):
                await store.save_version(changed, make_version(1, label="other"))
            [(function, versions)] = await store.load_functions()
            assert function.aliases == {"latest": 1}, "the refused deploy left a trace"
            assert [v.label for v in versions] == ["1.0.0"]

    run(scenario())


def test_two_functions_cannot_have_one_name(run, tmp_path, make_version):
    async def scenario():
        async with opened(tmp_path) as store:
            await store.save_version(HELLO, make_version(1))
            with pytest.raises(Conflict):
                await store.save_version(
                    msgspec.structs.replace(HELLO, id="f2"), make_version(1, function_id="f2")
                )

    run(scenario())


def test_a_deleted_function_is_gone_with_its_versions_but_its_records_stay(
    run, tmp_path, make_version, make_record
):
    async def scenario():
        async with opened(tmp_path) as store:
            await store.save_version(HELLO, make_version(1))
            record = make_record()
            store.add_records([record])
            await store.delete_function("f1")
            assert await store.load_functions() == []
            assert await store.referenced() == set()
            assert await store.get_invocation(record.id) == record

    run(scenario())


def test_keys_are_kept_and_deleted_once(run, tmp_path):
    key = Key(
        id="k1", name="ci", scopes=("invoke", "admin"), secret_sha256=b"\x00" * 32, created_at=1.0
    )

    async def scenario():
        async with opened(tmp_path) as store:
            await store.save_key(key)
            with pytest.raises(Conflict):
                await store.save_key(key)
        async with opened(tmp_path) as store:
            assert await store.load_keys() == [key]
            assert await store.delete_key("k1") is True
            assert await store.delete_key("k1") is False
            assert await store.load_keys() == []

    run(scenario())


def test_the_database_is_readable_by_its_owner_only(run, tmp_path, make_version):
    async def scenario():
        async with opened(tmp_path) as store:
            await store.save_version(HELLO, make_version(1))
            for file in tmp_path.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name

    run(scenario())


# --- the queue ---------------------------------------------------------------------------------


def test_calls_are_claimed_oldest_first_and_once(run, tmp_path, make_call):
    async def scenario():
        async with opened(tmp_path) as store:
            queued = [make_call() for _ in range(5)]
            for call in queued:
                await store.enqueue(call)
            first, rest = await store.claim(2), await store.claim(10)
            assert [c.id for c in first + rest] == [c.id for c in queued]
            assert first[0] == msgspec.structs.replace(queued[0], attempts=1)
            assert await store.claim(10) == []
            assert await store.queue_depth() == 5

    run(scenario())


def test_one_call_is_never_enqueued_twice(run, tmp_path, make_call):
    async def scenario():
        async with opened(tmp_path) as store:
            call = make_call()
            await store.enqueue(call)
            with pytest.raises(Conflict):
                await store.enqueue(call)
            assert await store.queue_depth() == 1

    run(scenario())


def test_a_released_call_keeps_its_place_and_its_attempt_does_not_count(run, tmp_path, make_call):
    async def scenario():
        async with opened(tmp_path) as store:
            queued = [make_call() for _ in range(3)]
            for call in queued:
                await store.enqueue(call)
            await store.claim(1)
            await store.release(queued[0].id)
            again = await store.claim(3)
            assert [c.id for c in again] == [c.id for c in queued]
            assert again[0].attempts == 1

    run(scenario())


def test_a_call_released_with_a_delay_lets_others_pass(run, tmp_path, make_call, clock):
    async def scenario():
        async with opened(tmp_path, clock=clock) as store:
            slow, quick = make_call(), make_call()
            await store.enqueue(slow)
            await store.enqueue(quick)
            await store.claim(1)
            await store.release(slow.id, delay_s=5)
            assert [c.id for c in await store.claim(5)] == [quick.id]
            clock.now += 5
            assert [c.id for c in await store.claim(5)] == [slow.id]

    run(scenario())


def test_calls_left_running_by_a_dead_node_are_queued_again_with_the_attempt_counted(
    run, tmp_path, make_call
):
    async def scenario():
        call = make_call()
        async with opened(tmp_path) as store:
            await store.enqueue(call)
            await store.claim(1)
        async with opened(tmp_path) as store:
            record = await store.get_invocation(call.id)
            assert (record.status, record.attempts) == ("queued", 1)
            [claimed] = await store.claim(1)
            assert claimed.attempts == 2

    run(scenario())


def test_a_settled_call_never_runs_again_and_its_first_outcome_stays(
    run, tmp_path, make_call, make_record
):
    async def scenario():
        call = make_call()
        done = make_record(id=call.id, asynchronous=True, result={"answer": 42})
        async with opened(tmp_path) as store:
            await store.enqueue(call)
            await store.claim(1)
            await store.settle(done)
            await store.settle(msgspec.structs.replace(done, status="failed"))
            await store.release(call.id)
        async with opened(tmp_path) as store:
            assert await store.claim(5) == []
            assert await store.queue_depth() == 0
            assert await store.get_invocation(call.id) == done

    run(scenario())


def test_only_a_queued_call_can_be_cancelled_in_the_queue(run, tmp_path, make_call):
    async def scenario():
        async with opened(tmp_path) as store:
            waiting, running = make_call(), make_call()
            await store.enqueue(running)
            await store.claim(1)
            await store.enqueue(waiting)
            assert await store.cancel_queued(waiting.id) is True
            assert await store.cancel_queued(waiting.id) is False
            assert await store.cancel_queued(running.id) is False
            assert await store.cancel_queued("nothing") is False
            record = await store.get_invocation(waiting.id)
            assert record.status == "cancelled"
            assert record.error.type == "Cancelled"
            assert record.finished_at is not None
            assert await store.claim(5) == []

    run(scenario())


def test_the_body_of_a_settled_call_is_not_kept(run, tmp_path, make_call, make_record):
    async def scenario():
        async with opened(tmp_path) as store:
            call = make_call(body=b"private")
            await store.enqueue(call)
            await store.claim(1)
            await store.settle(make_record(id=call.id))

    run(scenario())
    with sqlite3.connect(tmp_path / "hearth.db") as db:
        assert db.execute("SELECT body, headers, query FROM call").fetchall() == [(None,) * 3]
    db.close()


# --- records -----------------------------------------------------------------------------------


def test_a_record_is_found_whole_right_after_it_was_added(run, tmp_path, make_record):
    record = make_record(
        status="failed",
        http_status=502,
        result={"n": 2**70, "text": "line\nbreak"},
        error=Failure(type="Crashed", message="exit code 3", stack="Traceback"),
        metrics=Metrics(duration=84211, cold_start=True, init=900_000),
        logs=(LogLine(1.5, "stderr", "boom\n"),),
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )

    async def scenario():
        async with opened(tmp_path) as store:
            store.add_records([make_record(), record, make_record()])
            assert await store.get_invocation(record.id) == record
            assert await store.get_invocation("f" * 32) is None
            assert await store.get_invocation("") is None

    run(scenario())


def test_records_that_finish_out_of_order_are_found_and_listed_by_start(run, tmp_path, make_record):
    records = [make_record() for _ in range(3000)]
    shuffled = random.Random(7).sample(records, len(records))

    async def scenario():
        async with opened(tmp_path) as store:
            for start in range(0, 3000, 100):
                store.add_records(shuffled[start : start + 100])
                if start % 1000 == 0:
                    assert await store.get_invocation(shuffled[start].id)
            for record in random.Random(8).sample(records, 50):
                assert await store.get_invocation(record.id) == record
            listed, before = [], None
            while page := await store.list_invocations(limit=700, before=before):
                listed += page
                before = page[-1].id
            assert listed == records[::-1]

    run(scenario())


def test_the_list_merges_both_kinds_filters_and_leaves_results_and_logs_out(
    run, tmp_path, make_record, make_call
):
    async def scenario():
        async with opened(tmp_path) as store:
            line = LogLine(1.0, "stdout", "hi")
            plain = [
                make_record(function=name, status=status, result=1, logs=(line,))
                for name in ("hello", "hell", "other")
                for status in ("succeeded", "failed")
            ]
            store.add_records(plain)
            settled, queued = make_call(), make_call(function="other")
            await store.enqueue(settled)
            await store.claim(1)
            await store.settle(make_record(id=settled.id, result=1, logs=(line,)))
            await store.enqueue(queued)
            everything = await store.list_invocations()
            assert [r.id for r in everything] == sorted((r.id for r in everything), reverse=True)
            assert {r.id for r in everything} == {r.id for r in plain} | {settled.id, queued.id}
            assert all(r.result is None and r.logs == () for r in everything)
            other = await store.list_invocations(function="other")
            assert {r.id for r in other} == {plain[4].id, plain[5].id, queued.id}
            failed = await store.list_invocations(function="hell", status="failed")
            assert [r.id for r in failed] == [plain[3].id]
            waiting = await store.list_invocations(status="queued")
            assert [r.id for r in waiting] == [queued.id]
            assert len(await store.list_invocations(limit=3)) == 3

    run(scenario())


def test_few_records_at_a_time_share_a_row(run, tmp_path, make_record):
    records = [make_record() for _ in range(40)]

    async def scenario():
        async with opened(tmp_path) as store:
            for record in records:
                store.add_records([record])
                assert (
                    await store.get_invocation(record.id) == record
                )  # each in a commit of its own
            assert await store.list_invocations(limit=50) == records[::-1]

    run(scenario())
    db = sqlite3.connect(tmp_path / "hearth.db")
    assert db.execute("SELECT count(*), sum(records) FROM batch").fetchall() == [(1, 40)]
    db.close()


def test_a_record_that_cannot_be_encoded_is_counted_and_hurts_nobody(run, tmp_path, make_record):
    async def scenario():
        async with opened(tmp_path) as store:
            good = make_record()
            store.add_records([make_record(result=object()), make_record(result="\ud800"), good])
            assert await store.list_invocations() == [good]
            assert store.records_dropped == 2

    run(scenario())


def test_when_the_disk_cannot_follow_the_oldest_records_are_dropped_and_counted(
    run, tmp_path, make_record
):
    from hearth.store.records import RecordBuffer

    async def scenario():
        stuck = asyncio.get_running_loop().create_future()
        buffer = RecordBuffer(lambda batches: stuck, batch_records=10, max_bytes=20_000)
        for _ in range(10_000):
            buffer.add([make_record(result="x" * 100)])
        assert buffer.dropped > 9000
        assert buffer.waiting_bytes <= 20_000
        buffer.stop()

    run(scenario())


def test_records_refused_by_the_disk_are_offered_again(run, make_record):
    from hearth.store.records import RecordBuffer

    async def scenario():
        offered, loop = [], asyncio.get_running_loop()

        def flush(batches):
            offered.append([i for b in batches for i in b.ids])
            future = loop.create_future()
            if len(offered) == 1:
                future.set_exception(StoreError("full"))
            else:
                future.set_result(None)
            return future

        buffer = RecordBuffer(flush)
        first, second = make_record(), make_record()
        buffer.add([first])
        await buffer.drain()
        buffer.add([second])
        await buffer.drain()
        assert offered == [[first.id], [first.id, second.id]]
        assert (buffer.waiting_bytes, buffer.dropped) == (0, 0)
        buffer.stop()

    run(scenario())


def test_an_operation_that_fails_undoes_itself_alone(run, tmp_path, make_call):
    async def scenario():
        async with opened(tmp_path) as store:
            twice = make_call()
            calls = [make_call(), twice, twice, make_call()]
            outcomes = await asyncio.gather(*map(store.enqueue, calls), return_exceptions=True)
            assert [type(o) for o in outcomes] == [type(None), type(None), Conflict, type(None)]
            assert await store.queue_depth() == 3

    run(scenario())


def test_the_audit_log_is_listed_newest_first_and_survives(run, tmp_path):
    entries = [
        AuditEntry(
            time=float(n),
            identity="k1",
            action="function.deploy",
            target="hello",
            request_id=f"r{n}",
            outcome="ok",
            remote="127.0.0.1",
        )
        for n in range(3)
    ]

    async def scenario():
        async with opened(tmp_path) as store:
            for entry in entries:
                store.add_audit(entry)
            assert await store.list_audit(2) == entries[:0:-1]
        async with opened(tmp_path) as store:
            assert await store.list_audit() == entries[::-1]

    run(scenario())


def test_a_closed_store_refuses_and_closing_again_is_harmless(run, tmp_path, make_call):
    async def scenario():
        store = SqliteStore(tmp_path / "hearth.db", Retention())
        await store.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreError):
            await store.enqueue(make_call())

    run(scenario())


def test_what_was_added_last_is_on_disk_after_close(run, tmp_path, make_record):
    record = make_record()

    async def write():
        async with opened(tmp_path) as store:
            store.add_records([record])

    async def read():
        async with opened(tmp_path) as store:
            return await store.list_invocations()

    run(write())
    assert run(read()) == [record]


def test_a_closed_database_is_one_file_that_can_be_copied(run, tmp_path, make_record):
    async def scenario():
        async with opened(tmp_path) as store:
            store.add_records([make_record()])
            await store.list_invocations()
            assert (tmp_path / "hearth.db-wal").exists(), "it is there while the node runs"

    run(scenario())
    assert sorted(path.name for path in tmp_path.glob("hearth.db*")) == ["hearth.db"]
