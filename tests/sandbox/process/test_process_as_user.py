"""An ordinary user gets sandboxes with `lightweight`, and a clear no with `strict`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 65533
NODE = """
import asyncio, json, sys, time
from hearth.config import Process, Settings
from hearth.errors import IsolationUnavailable
from hearth.model import Version
from hearth.sandbox.base import CallRequest
from hearth.sandbox.process import ProcessBackend

class Listener:
    def __init__(self):
        self.ready, self.gone = asyncio.Event(), asyncio.Event()
        self.answer = asyncio.get_running_loop().create_future()
    def on_ready(self, instance, init_ns): self.ready.set()
    def on_output(self, *event): pass
    def on_gone(self, instance, end): self.end = end; self.gone.set(); self.ready.set()
    def on_reply(self, status, headers, body): self.answer.set_result(body.decode())
    def on_error(self, *error): self.answer.set_result(repr(error))
    def on_lost(self, end): self.answer.set_result(repr(end))

async def main():
    settings = Settings(process=Process(spares=1, isolation_level=sys.argv[1]))
    backend = ProcessBackend(settings, asyncio.get_running_loop(), sys.argv[2])
    try:
        await backend.open()
    except IsolationUnavailable as error:
        print(json.dumps({"refused": error.message}))
        return
    version = Version(function_id="f", function="f", number=1, label="", digest="", artifact="",
        runtime="python3.11", entry="handler.py", handler="handle", contract="handler")
    listener = Listener()
    instance = backend.start(version, sys.argv[3], listener)
    await asyncio.wait_for(listener.ready.wait(), 20)
    instance.call(CallRequest("1", b"GET", b"/", b"", b"", b"", time.time() + 9), listener)
    answer = await asyncio.wait_for(listener.answer, 20)
    instance.stop("enough")
    await asyncio.wait_for(listener.gone.wait(), 20)
    print(json.dumps({"answer": answer, "missing": backend.missing(version)}))
    await backend.close()

asyncio.run(main())
"""
LOOK = """
import os, socket
def can_read(path):
    try:
        return bool(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
def handle(request):
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
    return {
        "caps": int(status["CapPrm"], 16) | int(status["CapBnd"], 16),
        "pids": sorted(int(n) for n in os.listdir("/proc") if n.isdigit()),
        "seccomp": status["Seccomp"],
        "interfaces": len(socket.if_nameindex()),
        "init": can_read("/proc/1/mem"),
    }
"""


@pytest.fixture
def as_user(tmp_path):
    """Run the node as an ordinary user, with an interpreter that the user can reach."""
    python = "/usr/bin/python3"
    version = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if os.geteuid() != 0 or version != [str(n) for n in sys.version_info[:2]]:
        pytest.skip("needs root to become somebody else, and a system Python of the same version")
    import msgspec

    import hearth

    paths = [Path(module.__file__).parent.parent for module in (hearth, msgspec)]
    home = Path("/tmp") / f"hearth-test-user-{os.getpid()}"
    home.mkdir()
    (home / "handler.py").write_text(LOOK)
    os.chown(home, UID, UID)

    def run(level: str) -> dict:
        done = subprocess.run(
            [
                "setpriv",
                f"--reuid={UID}",
                f"--regid={UID}",
                "--clear-groups",
                python,
                "-c",
                NODE,
                level,
                f"{home}/run",
                str(home),
            ],
            env={"PYTHONPATH": ":".join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield run
    shutil.rmtree(home)


def test_lightweight_gives_an_ordinary_user_namespaces_and_filters(as_user):
    result = as_user("lightweight")
    seen = json.loads(result["answer"])
    assert seen == {"caps": 0, "pids": [1, 2], "seccomp": "2", "interfaces": 1, "init": False}
    assert any("share one host uid" in text for text in result["missing"])


def test_strict_refuses_an_ordinary_user_and_says_what_is_missing(as_user):
    refused = as_user("strict")["refused"]
    assert "needs root" in refused
    assert "memory" in refused
