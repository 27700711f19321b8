"""Starts thousands of sandboxes and compares what is there before and after: `bench/leak.py`.

    python bench/leak.py [--starts 10000] [--at-once 8]

Each start is a cold one through the process backend: take a spare, load a function, call it, end
it. One JSON object is printed: the figures before and after, and which of them have grown. Exit
code 1 when one has, or a call went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

import processes
from hearth.config import Process, Settings
from hearth.sandbox.base import CallRequest
from hearth.sandbox.process import ProcessBackend
from process_cold_start import Start, version, write_function

SPARES = 8
WARM_UP = 200
SETTLE_S = 30.0
FUNCTIONS = 20
ROLES = ("node", "launcher", "spawner", "zygote")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_SLABS = ("net_namespace", "pid_namespace", "mnt_cache")


class Host:
    """What the process tree of this node holds, by role and in the kernel."""

    def __init__(self, directory: Path) -> None:
        """Find the four processes that live as long as the node.

        Raises:
            LookupError: there is no sandbox at this moment.
        """
        pids = [os.getpid()]
        for _ in ROLES[1:]:
            pids.append(processes.first_child(pids[-1]))
        self.pids = dict(zip(ROLES, pids, strict=True))
        self.directory = directory
        self.groups = groups_of(processes.tree(os.getpid()))

    def figures(self) -> dict[str, int]:
        """Return what must be the same when as many sandboxes are there."""
        tree = processes.tree(os.getpid())
        found = {
            "processes": len(tree),
            "zombies": sum(processes.state(pid) == "Z" for pid in tree),
            "files": sum(1 for _ in self.directory.rglob("*")),
        }
        for role, pid in self.pids.items():
            found[f"descriptors of {role}"] = len(os.listdir(f"/proc/{pid}/fd"))
            found[f"threads of {role}"] = len(os.listdir(f"/proc/{pid}/task"))
            found[f"mounts of {role}"] = Path(f"/proc/{pid}/mountinfo").read_text().count("\n")
        for kind in _NAMESPACES:
            found[f"{kind} namespaces"] = len({namespace(pid, kind) for pid in tree})
        for top in self.groups:
            found[f"groups in {top}"] = sum(len(names) for _, names, _ in os.walk(top))
        return found

    def machine(self) -> dict[str, int]:
        """Return what others on the machine move too, and what the kernel frees when it likes."""
        found = {}
        for line in Path("/proc/cgroups").read_text().splitlines()[1:]:
            name, _, count, _ = line.split()
            found[f"kernel's groups of {name}"] = int(count)
        slabs = Path("/proc/slabinfo")
        for line in slabs.read_text().splitlines()[2:] if os.access(slabs, os.R_OK) else ():
            name, active, *_ = line.split()
            if name in _SLABS:
                found[f"kernel's {name}"] = int(active)
        return found

    def memory(self) -> dict[str, int]:
        """Return the bytes of their own (not of files) of the processes that live on."""
        return {f"memory of {role}": processes.own_bytes(pid) for role, pid in self.pids.items()}


def groups_of(tree: list[int]) -> list[str]:
    """Return the group that holds those of all sandboxes of this node, in each hierarchy."""
    own = (re.search(r"/(hearth-[0-9a-f]+)/", cgroup_of(pid)) for pid in tree)
    name = next((found[1] for found in own if found), None)
    if name is None:
        raise LookupError("no sandbox is there")
    tops = (os.walk(root) for root in hierarchies())  # walk: other nodes' groups come and go
    return [f"{top}/{name}" for walk in tops for top, names, _ in walk if name in names]


def cgroup_of(pid: int) -> str:
    """Return the control groups of a process; empty when it has just gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def hierarchies() -> list[Path]:
    """Return where control groups are mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4]) for line in lines if " - cgroup" in line]


def namespace(pid: int, kind: str) -> str:
    """Return which namespace a process is in; empty when it has just gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


async def find_host(directory: Path) -> Host:
    """Return the host as soon as there is a spare, by which its control groups are found."""
    until = time.monotonic() + SETTLE_S
    while True:
        try:
            return Host(directory)
        except LookupError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)  # all spares were used up a moment ago


async def live(backend: ProcessBackend, code: str, name: str) -> None:
    """Start an instance, call it once, end it."""
    start = Start()
    instance = backend.start(version(name), code, start)
    await start.ready
    request = CallRequest("1", b"POST", b"/", b"", b"", b'{"name": "x"}', time.time() + 60)
    instance.call(request, start)
    answer = await start.reply
    assert answer == b'{"hello":"x"}', answer
    instance.stop("enough")
    await start.gone


async def starts(backend: ProcessBackend, codes: list[str], count: int, at_once: int) -> None:
    """Make that many cold starts, so many at once."""
    turns = iter(range(count))

    async def work() -> None:
        for turn in turns:
            number = turn % len(codes)
            await live(backend, codes[number], f"f{number}")

    await asyncio.gather(*(work() for _ in range(at_once)))


async def settled(wanted: dict[str, int] | None, host: Host) -> dict[str, int]:
    """Return the figures as soon as none is above `wanted`, or, without that, as spares are full.

    After a bounded time the last figures are returned as they are.
    """
    until, last = time.monotonic() + SETTLE_S, host.figures()
    while time.monotonic() < until:
        await asyncio.sleep(0.3)  # the kernel announces none of these
        now = host.figures()
        if wanted is None and now == last and now["pid namespaces"] == SPARES + 2:
            return now
        if wanted is not None and not above(wanted, now):
            return now
        last = now
    return last


def above(before: dict[str, int], after: dict[str, int]) -> dict[str, list[int]]:
    """Return what has grown."""
    return {k: [before[k], after[k]] for k in before if after[k] > before[k]}


async def kernel_grown(host: Host, before: dict[str, int], count: int) -> dict[str, list[int]]:
    """Return the kernel's counts that rose by more than half of the starts, to the end.

    A leak is at least one for each start; less is other nodes on the machine, and what the kernel
    frees later.
    """
    allowed = {name: number + count // 2 for name, number in before.items()}
    until = time.monotonic() + SETTLE_S
    # the kernel announces none of these
    while (grown := above(allowed, host.machine())) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    return grown


async def measure(count: int, at_once: int, directory: Path) -> dict[str, Any]:
    """Compare before and after `count` starts; memory may grow in the first half only."""
    run_dir = directory / "run"
    settings = Settings(process=Process(spares=SPARES))
    backend = ProcessBackend(settings, asyncio.get_running_loop(), str(run_dir))
    await backend.open()
    codes = [write_function(directory / f"f{n}") for n in range(FUNCTIONS)]
    try:
        await starts(backend, codes, WARM_UP, at_once)
        host = await find_host(directory)
        before, machine = await settled(None, host), host.machine()
        begin = time.monotonic()
        await starts(backend, codes, count // 2, at_once)
        memory = host.memory()
        await starts(backend, codes, count - count // 2, at_once)
        seconds = time.monotonic() - begin
        after = await settled(before, host)
        allowed = {name: size + (size >> 3) + (1 << 20) for name, size in memory.items()}
        grown = above(before, after) | above(allowed, host.memory())
        grown |= await kernel_grown(host, machine, count)
        memories = {name: [memory[name], size] for name, size in host.memory().items()}
    finally:
        await backend.close()
    left = [str(path) for path in (*run_dir.iterdir(), *map(Path, host.groups)) if path.exists()]
    return {
        "starts": count,
        "per_second": round(count / seconds, 1),
        "grown": grown,
        "left": left,
        "figures": {name: [before[name], after[name]] for name in before},
        "kernel": {name: [number, host.machine()[name]] for name, number in machine.items()},
        "memory": memories,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--starts", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hearth-leak-") as directory:
        Path(directory).chmod(0o755)
        os.environ["TMPDIR"] = directory  # so that temporary files are counted too
        result = uvloop.run(measure(options.starts, options.at_once, Path(directory)))
    print(json.dumps(result))
    return 1 if result["grown"] or result["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
