"""What an ordinary user's node cannot enforce: it is refused, or named, and what is left holds."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
import uvloop

from hearth.config import Process, Settings
from hearth.errors import IsolationUnavailable
from hearth.linux import doctor
from hearth.model import Limits
from hearth.sandbox.process import ProcessBackend
from nodes import declaration, running_node

MIB = 1 << 20


def test_strict_is_refused_and_says_what_is_missing(tmp_path):
    async def main():
        settings = Settings(process=Process(isolation_level="strict"))
        backend = ProcessBackend(settings, asyncio.get_running_loop(), str(tmp_path / "run"))
        with pytest.raises(IsolationUnavailable) as refused:
            await backend.open()
        return refused.value.message

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        message = runner.run(main())
    assert "needs root" in message
    assert "lightweight` does without" in message


def test_what_is_weaker_is_named_for_every_version(run, tools):
    async def body(node):
        started = await node.start(tools.hello)
        missing = " ".join(node.backend.missing(started.instance.version))
        assert "share one host uid" in missing
        for name in ("memory", "cpu", "pids"):
            assert (f"`{name}`" in missing) == (name not in node.controllers)

    run(body)


def test_a_deploy_warns_of_what_is_weaker_and_strict_is_refused(tmp_path):
    source = "def handle(request):\n    return 'hello'\n"
    with running_node(tmp_path / "data", process_isolation_level="lightweight") as node:
        made = node.request("POST", "/functions", declaration("weak", source))
        assert made.status == 201
        assert any("share one host uid" in text for text in made.json["warnings"]), made.json
        assert node.request("POST", "/function/weak", b"{}").body == b"hello"
        strict = declaration("strong", source, isolation_level="strict")
        refused = node.request("POST", "/functions", strict)
        assert refused.status >= 400
        assert "share one host uid" in refused.error["message"]


def test_the_doctor_names_the_same(run):
    rows = {row.mechanism.split(" (")[0]: row for row in doctor.checks()}

    async def body(node):
        assert not rows["run as root"].ok
        for name in ("memory", "cpu", "pids"):
            assert rows[f"cgroup {name}"].ok == (name in node.controllers), rows
        for name in ("user", "mount", "pid", "net", "ipc", "uts", "cgroup"):
            assert rows[f"{name} namespace"].ok

    run(body)


def test_without_a_controller_a_process_may_still_not_have_more_memory_than_the_limit(run):
    source = f"""
    import os
    def handle(request):
        child = os.fork()
        try:
            bytearray({200 * MIB})
            got = "all"
        except MemoryError:
            got = "no"
        if child == 0:
            os._exit(0 if got == "no" else 1)
        return [got, os.waitpid(child, 0)[1]]
    """

    async def body(node):
        if "memory" in node.controllers:
            pytest.skip("this account has a controller, which test_process_life tries")
        started = await node.start(source, limits=Limits(memory_bytes=64 * MIB))
        assert json.loads((await started.call())[1]) == ["no", 0]

    run(body)


def test_open_files_of_the_user_cannot_be_reached(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    source = f"""
    import os
    def handle(request):
        return [os.path.exists({str(secret)!r}), os.path.exists({os.path.expanduser("~")!r})]
    """

    async def body(node):
        assert json.loads((await (await node.start(source)).call())[1]) == [False, False]

    run(body)
