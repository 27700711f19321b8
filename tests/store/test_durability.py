"""What was promised is there after `kill -9`, and the promise follows the fsync."""

from __future__ import annotations

import random
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hearth.store.sqlite import SqliteStore

NODE = Path(__file__).with_name("writing_node.py")
KILLS = 40


def killed_while_writing(directory: Path, round_: int, delay_s: float) -> dict[str, set[str]]:
    """Run a writer, kill it `delay_s` after its first promise, return what it had promised."""
    child = subprocess.Popen(
        [sys.executable, str(NODE), str(directory), str(round_)], stdout=subprocess.PIPE
    )
    try:
        said = child.stdout.readline()
        kill_at = time.monotonic() + delay_s
        while (left := kill_at - time.monotonic()) > 0:
            if select.select([child.stdout], [], [], left)[0]:
                said += child.stdout.read1(1 << 16)
    finally:
        child.kill()
    said += child.stdout.read()
    child.stdout.close()
    assert child.wait() == -9, "it ended by itself"
    promised = {"accepted": set(), "settled": set()}
    for line in said.decode().splitlines():
        word, call_id = line.split()
        promised[word].add(call_id)
    return promised


def test_everything_promised_is_there_after_each_of_many_kills(run, tmp_path):
    chance = random.Random(20_261_121)
    accepted, settled = set(), set()

    async def check():
        store = SqliteStore(tmp_path / "hearth.db")
        await store.open()
        try:
            states = {
                call_id: (await store.get_invocation(call_id)).status
                for call_id in fresh["accepted"]
            }
            lost = [i for i in fresh["settled"] if states.get(i, "succeeded") != "succeeded"]
            unknown = [i for i, status in states.items() if status not in {"queued", "succeeded"}]
            finished = await store._read(
                lambda db: db.execute(
                    "SELECT count(*) FROM call WHERE settled_at IS NOT NULL"
                ).fetchone()[0]
            )
            return lost, unknown, finished, await store.queue_depth()
        finally:
            await store.close()

    for round_ in range(KILLS):
        fresh = killed_while_writing(tmp_path, round_, chance.uniform(0, 0.12))
        accepted |= fresh["accepted"]
        settled |= fresh["settled"]
        lost, unknown, finished, queued = run(check())
        assert (lost, unknown) == ([], [])
        # What was committed but not yet promised may be there as well, so at least.
        assert finished >= len(settled)
        assert finished + queued >= len(accepted)
    assert len(accepted) > KILLS, "too little happened to prove anything"
    assert settled


# --- the order of system calls -------------------------------------------------------------------


def traced(directory: Path, *flags: str) -> list[str]:
    log = directory / "strace.log"
    tracer = ["strace", "-f", "-y", "-s", "200", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o"]
    subprocess.run(
        [*tracer, log, sys.executable, NODE, directory, "once", *flags],
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    return log.read_text().splitlines()


def fsynced_before_the_promise(lines: list[str]) -> bool:
    """Tell whether the log file was synced after the call was written to it and before the word."""
    begin = next(i for i, line in enumerate(lines) if '"begin' in line)
    promise = next(i for i, line in enumerate(lines) if '"accepted the-one-call' in line)
    written = [i for i in range(begin, promise) if re.search(r"pwrite64\(.*-wal>", lines[i])]
    assert written, "nothing was written to the log before the promise"
    for i in range(written[-1] + 1, promise):
        done = re.search(r"f(?:data)?sync\(\d+<.*-wal>\)\s*= 0", lines[i])
        resumed = re.search(r"<\.\.\. f(?:data)?sync resumed>.*= 0", lines[i])
        if done or resumed:
            return True
    return False


needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@needs_strace
def test_a_call_is_fsynced_before_it_is_accepted(tmp_path):
    assert fsynced_before_the_promise(traced(tmp_path))


@needs_strace
def test_without_synchronous_full_the_same_check_fails(tmp_path):
    assert not fsynced_before_the_promise(traced(tmp_path, "unsafe"))
