"""Whatever dies, nothing is left: no process, control group, mount, descriptor or directory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hearth.linux import cgroups, launcher
from pace import SLOW, fewer

NODE = """
import asyncio, sys
from hearth.config import Process, Settings
from hearth.sandbox.process import ProcessBackend

async def main():
    process = Process(spares=3, uid_base=int(sys.argv[2]), isolation_level=sys.argv[3])
    settings = Settings(process=process)
    backend = ProcessBackend(settings, asyncio.get_running_loop(), sys.argv[1])
    await backend.open()
    print(backend._cgroups["token"] or "none", backend._link.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
UID_BASE = 1_900_000_000
LEVEL = "strict" if os.geteuid() == 0 else "lightweight"


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def groups_named(token: str) -> list[str]:
    hierarchies = launcher.discover()
    assert hierarchies is not None or os.geteuid()
    roots = set(hierarchies.roots.values()) if hierarchies is not None else ()
    return [f"{root}/{token}" for root in roots if os.path.isdir(f"{root}/{token}")]


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def start_node(run_dir: Path) -> tuple[subprocess.Popen[str], str, int]:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(run_dir), str(UID_BASE), LEVEL],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    token, launcher_pid = node.stdout.readline().split()
    return node, token, int(launcher_pid)


def wait_until(condition, bound_s=10.0 * SLOW):
    until = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < until, f"not within {bound_s} s"
        time.sleep(0.01)


def test_a_killed_spawner_takes_everything_with_it_and_is_replaced(run, tools):
    async def body(node):
        started = await node.start("import time\ndef handle(request):\n    time.sleep(60)\n")
        call = started.begin()
        token = node.backend._cgroups["token"]
        before = set(tools.processes())
        os.kill(child_of(node.backend._link.process.pid), signal.SIGKILL)
        await started.ended()
        assert call.answer.exception() is not None
        await tools.wait(lambda: not before & set(tools.processes()))
        again = await node.start(tools.hello)
        assert await again.call() == (200, b'{"hello":"x"}')
        assert node.backend._cgroups["token"] != token or not token
        assert not token or not groups_named(token)

    run(body)


def test_a_killed_node_leaves_nothing(tmp_path):
    node, token, launcher_pid = start_node(tmp_path / "run")
    assert groups_named(token) or os.geteuid()
    node.kill()
    node.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{launcher_pid}"))
    assert not groups_named(token)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(launcher.discover() is None, reason="no control groups for this account")
def test_leftovers_of_a_node_that_died_with_its_launcher_are_swept_and_the_living_are_not(
    run, tmp_path
):
    node, token, launcher_pid = start_node(tmp_path / "dead")
    spawner = child_of(launcher_pid)
    node.send_signal(signal.SIGSTOP)  # or it would start a new spawner, which would sweep
    os.kill(launcher_pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{spawner}"))
    node.kill()
    node.wait()
    assert groups_named(token), "the launcher could not clean up, that is the point"
    stray = subprocess.Popen(["/bin/sleep", "60"])
    inside = f"{groups_named(token)[0]}/stray"  # version 2 wants processes in leaves only
    os.mkdir(inside)
    cgroups.write(f"{inside}/cgroup.procs", str(stray.pid))

    async def body(node):
        assert not groups_named(token)
        assert stray.wait(10 * SLOW) == -signal.SIGKILL
        directories = cgroups.Node(launcher.discover()).directories
        assert cgroups.sweep(directories) == []
        assert groups_named(node.backend._cgroups["token"])

    run(body)


def test_a_closed_backend_leaves_nothing(run, tools, tmp_path):
    seen = {}

    async def body(node):
        await node.start(tools.hello)
        seen.update(token=node.backend._cgroups["token"], pids=tools.processes())

    run(body)
    assert not set(seen["pids"]) & set(tools.processes())
    assert not seen["token"] or not groups_named(seen["token"])
    assert not list((tmp_path / "run").iterdir())


def test_many_starts_leak_no_descriptor_group_or_process(run, tools):
    source = textwrap.dedent(tools.hello)

    async def body(node):
        launcher_pid = node.backend._link.process.pid
        spawner = child_of(launcher_pid)
        zygote = child_of(spawner)

        def settled():
            spares = node.backend._spares["none|"]
            hierarchies = {path.parent for path in node.groups}
            return len(spares) == 4 and len(node.groups) == 4 * len(hierarchies)

        async def life():
            started = await node.start(source)
            assert (await started.call())[0] == 200
            started.instance.stop("enough")
            await started.ended()

        def figures():
            pids = (os.getpid(), spawner, zygote)
            return [*(count_fds(pid) for pid in pids), len(tools.processes())]

        await asyncio.gather(*(life() for _ in range(8)))
        await tools.wait(settled)
        before = figures()
        for _ in range(fewer(25, least=5)):
            await asyncio.gather(*(life() for _ in range(8)))
        await tools.wait(settled)
        await tools.wait(
            lambda: all(now <= then for now, then in zip(figures(), before, strict=True))
        )

    run(body, spares=4)
