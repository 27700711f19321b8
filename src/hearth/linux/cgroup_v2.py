"""Control groups, version 2: one hierarchy; controllers are handed down from group to group."""

from __future__ import annotations

import contextlib
import errno
import os

from hearth.linux import cgroups
from hearth.linux.cgroups import Limits, Measure

_CONTROLLERS = ("memory", "cpu", "pids", "io")
_WEIGHT_PER_UNIT = 10
"""`cpu.weight` of a function of 128 MiB; 100, the kernel's default, is one of 1.25 GiB."""
_PERIOD_US = 20_000
"""Short, so that a throttled call is late by 20 ms at most and not by the default 100."""
_LEAF = "node.hearth"
"""Where processes go that stand in the way: a group with controllers below may hold none itself.

Not named like the group of a node (`cgroups.PREFIX`): `sweep` must never take it for a leftover.
"""
_EMPTY_TRIES = 20
"""The processes that are moved may fork meanwhile."""


def discover(mountinfo: str, own: str) -> dict[str, str]:
    """Return, for each controller that can be used, the directory to make groups in.

    As root that is the root of the mount, which may hold processes; else the process's own group.

    Args:
        mountinfo: the text of `/proc/self/mountinfo`.
        own: the text of `/proc/self/cgroup`.
    """
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] != "cgroup2":
            continue
        mounted = left.split()[4]
        group = next((row[3:] for row in own.splitlines() if row.startswith("0::")), "/")
        group = group.removesuffix(f"/{_LEAF}")  # where a node before us in this session put us
        base = mounted if os.geteuid() == 0 else (mounted + group).rstrip("/")
        return usable(base)
    return {}


def usable(base: str) -> dict[str, str]:
    """Return the controllers that can be handed down from the group `base`."""
    needed = (base, f"{base}/cgroup.subtree_control", f"{base}/cgroup.procs")
    if not all(os.access(path, os.W_OK) for path in needed):
        return {}
    there = set(cgroups.read(f"{base}/cgroup.controllers").split())
    return {name: base for name in _CONTROLLERS if name in there}


class V2:
    """The unified hierarchy."""

    version = "v2"

    def __init__(self, roots: dict[str, str]) -> None:
        """Make groups below the one directory in `roots` (see `discover`)."""
        self.roots = {name: roots[name] for name in _CONTROLLERS if name in roots}
        self._base = next(iter(self.roots.values()))

    def prepare(self, token: str) -> None:
        """Hand the controllers down to the node's directory and to the groups inside."""
        for _ in range(_EMPTY_TRIES):
            if self._hand_down(self._base):
                break
            self._empty_base()
        else:
            raise OSError(errno.EBUSY, f"{self._base} does not get empty of processes")
        self._hand_down(f"{self._base}/{token}")

    def _hand_down(self, directory: str) -> bool:
        """Enable the controllers below `directory`; False while it holds processes."""
        names = " ".join(f"+{name}" for name in self.roots)
        try:
            cgroups.write(f"{directory}/cgroup.subtree_control", names)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _empty_base(self) -> None:
        """Move all processes of the base group (a container's root, a delegated one) to a leaf."""
        leaf = f"{self._base}/{_LEAF}"
        os.makedirs(leaf, exist_ok=True)
        for pid in cgroups.read(f"{self._base}/cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                cgroups.write(f"{leaf}/cgroup.procs", pid)

    def group(self, token: str, name: str) -> V2Group:
        """Make the group."""
        path = f"{self._base}/{token}/{name}"
        os.mkdir(path, 0o755)
        return V2Group(path, frozenset(self.roots))


class V2Group:
    """One sandbox's group."""

    def __init__(self, path: str, controllers: frozenset[str]) -> None:
        """Stand for the existing directory `path`."""
        self._path = path
        self._controllers = controllers

    def entrances(self) -> list[int]:
        """Open `cgroup.procs`."""
        return [os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)]

    def birthplace(self) -> int | None:
        """Open the directory, for `clone3`: joining costs 8 ms more (measured, p50)."""
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def limit(self, limits: Limits) -> None:
        """Write the limits of every controller there is."""
        if "memory" in self._controllers:
            self._write("memory.max", str(limits.memory))
            with contextlib.suppress(FileNotFoundError):  # a kernel that does not count swap
                self._write("memory.swap.max", "0")
            # All of the sandbox goes at once, except its init, which is exempt and reports.
            self._write("memory.oom.group", "1")
        if "pids" in self._controllers:
            self._write("pids.max", str(limits.pids))
        if "cpu" in self._controllers:
            self._write("cpu.weight", str(_weight(limits.shares * _WEIGHT_PER_UNIT)))
            if limits.cpu is not None:
                quota = max(round(limits.cpu * _PERIOD_US), 1000)
                self._write("cpu.max", f"{quota} {_PERIOD_US}")
        if "io" in self._controllers:
            with contextlib.suppress(FileNotFoundError):  # needs the BFQ scheduler or io.cost
                self._write("io.weight", f"default {_weight(limits.shares * 100)}")

    def oom_event(self) -> int | None:
        """None: `memory.oom.group` takes the whole sandbox, and its init reports that."""
        return None

    def measure(self) -> Measure:
        """Read peak memory, CPU time and the number of out-of-memory kills."""
        usage = cgroups.field(f"{self._path}/cpu.stat", "usage_usec")
        return Measure(
            memory_peak=cgroups.read_number(f"{self._path}/memory.peak"),
            cpu_ns=None if usage is None else usage * 1000,
            oom_kills=cgroups.field(f"{self._path}/memory.events", "oom_kill") or 0,
        )

    def memory_now(self) -> int | None:
        """Read the memory in use."""
        return cgroups.read_number(f"{self._path}/memory.current")

    def kill(self) -> None:
        """Kill all members at once (Linux ≥ 5.14)."""
        with contextlib.suppress(OSError):
            self._write("cgroup.kill", "1")

    def remove(self) -> bool:
        """Remove the group."""
        return cgroups.remove_directory(self._path)

    def _write(self, name: str, text: str) -> None:
        cgroups.write(f"{self._path}/{name}", text)


def _weight(value: float) -> int:
    return min(max(round(value), 1), 10_000)
