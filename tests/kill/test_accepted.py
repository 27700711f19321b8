"""End to end: the bytes of a 202 leave the node only after its transaction is on the disk."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from nodes import SLOW, running_node, wait_until

CALLS = 20


def traced(node, path):
    """Trace the node while it accepts some calls, one after the other; return the lines."""
    path.touch()
    tracer = subprocess.Popen(
        [
            "strace", "-f", "-y", "-s", "5000", "-o", path, "-p", str(node.process.pid),
            "-e", "trace=write,pwrite64,pwritev,sendto,sendmsg,writev,fsync,fdatasync",
        ],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        ids = []
        for number in range(CALLS):
            answer = node.request("POST", "/async-function/hello", f"marked-body-{number:04d}")
            assert answer.status == 202
            ids.append(answer.json["id"])
        wait_until(lambda: ids[-1] in path.read_text(errors="replace"), "the trace is written")
    finally:
        tracer.terminate()
        tracer.wait(10 * SLOW)
    return path.read_text(errors="replace").splitlines(), ids


def promises_kept(lines, ids):
    """Return the ids of calls that were written to the log, which was synced, before their 202."""
    kept = []
    for call_id in ids:
        promise = next(
            i for i, line in enumerate(lines) if "HTTP/1.1 202" in line and call_id in line
        )
        written = [
            i for i in range(promise)
            if re.search(r"pwrite64\(.*-wal>", lines[i]) and call_id in lines[i]
        ]  # fmt: skip
        after = range(written[0] + 1 if written else promise, promise)
        if any(_synced(lines[i]) for i in after):
            kept.append(call_id)
    return kept


def _synced(line):
    return bool(
        re.search(r"f(?:data)?sync\(\d+<.*-wal>\)\s*= 0", line)
        or re.search(r"<\.\.\. f(?:data)?sync resumed>.*= 0", line)
    )


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_each_202_leaves_after_the_fsync_of_its_call(tmp_path):
    with running_node(tmp_path / "data") as node:
        node.deploy("hello", "def handle(request):\n    return request.text\n")
        lines, ids = traced(node, tmp_path / "strace.log")
        assert promises_kept(lines, ids) == ids
        unsynced = [line for line in lines if "sync" not in line]
        assert promises_kept(unsynced, ids) == [], "the check must see the difference"
