"""Control groups, version 1: one hierarchy per controller; hybrid systems count as v1 here."""

from __future__ import annotations

import contextlib
import errno
import os

from hearth.linux import cgroups
from hearth.linux.cgroups import Limits, Measure

_WANTED = {"memory": "memory", "cpu": "cpu", "cpuacct": "cpuacct", "pids": "pids", "blkio": "io"}
"""Controller here to its name in version 2."""
_SHARES_PER_UNIT = 128
"""`cpu.shares` of a function of 128 MiB; 1024, the kernel's default, is one of 1 GiB."""
_PERIOD_US = 20_000
"""Short, so that a throttled call is late by 20 ms at most and not by the default 100."""


def discover(mountinfo: str, own: str) -> dict[str, str]:
    """Return, for each controller of interest, the directory of this process's own group.

    Args:
        mountinfo: the text of `/proc/self/mountinfo`.
        own: the text of `/proc/self/cgroup`.
    """
    groups = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    roots = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        if kind != "cgroup":
            continue
        for controller in set(options.split(",")) & set(_WANTED):
            base, group = fields[3].rstrip("/"), groups.get(controller, "/")
            inside = group[len(base) :] if group.startswith(base) else ""
            roots[_WANTED[controller]] = (fields[4] + inside).rstrip("/")
    return {name: path for name, path in roots.items() if os.access(path, os.W_OK)}


class V1:
    """Separate hierarchies."""

    version = "v1"

    def __init__(self, roots: dict[str, str]) -> None:
        """Make groups below `roots` (see `discover`); the memory hierarchy holds the lock."""
        first = {"memory": roots["memory"]} if "memory" in roots else {}
        self.roots = {**first, **roots}

    def prepare(self, token: str) -> None:
        """Nothing to do: hierarchies of version 1 need no delegation."""

    def group(self, token: str, name: str) -> V1Group:
        """Make the group in every hierarchy."""
        paths = {key: f"{root}/{token}/{name}" for key, root in self.roots.items()}
        for path in dict.fromkeys(paths.values()):
            os.mkdir(path, 0o755)
        return V1Group(paths)


class V1Group:
    """One sandbox's groups, one per hierarchy."""

    def __init__(self, paths: dict[str, str]) -> None:
        """Stand for the existing directories `paths`, by controller."""
        self._paths = paths
        self._memory = paths.get("memory")
        self._counts_swap = os.path.exists(f"{self._memory}/memory.memsw.limit_in_bytes")

    def entrances(self) -> list[int]:
        """Open `tasks`, not `cgroup.procs`.

        A thread that moves itself takes no global lock (Linux ≥ 5.17): 0.13 ms here, where
        `cgroup.procs` waits for a grace period of RCU, 10 ms.
        """
        flags = os.O_WRONLY | os.O_CLOEXEC
        return [os.open(f"{path}/tasks", flags) for path in dict.fromkeys(self._paths.values())]

    def birthplace(self) -> int | None:
        """None: only groups of version 2 can be born into."""
        return None

    def limit(self, limits: Limits) -> None:
        """Write the limits of every controller there is."""
        paths = self._paths
        if self._memory:
            self._limit_memory(limits.memory)
        if "pids" in paths:
            cgroups.write(f"{paths['pids']}/pids.max", str(limits.pids))
        if "cpu" in paths:
            shares = min(max(round(limits.shares * _SHARES_PER_UNIT), 2), 262_144)
            cgroups.write(f"{paths['cpu']}/cpu.shares", str(shares))
            if limits.cpu is not None:
                quota = max(round(limits.cpu * _PERIOD_US), 1000)
                cgroups.write(f"{paths['cpu']}/cpu.cfs_period_us", str(_PERIOD_US))
                cgroups.write(f"{paths['cpu']}/cpu.cfs_quota_us", str(quota))
        if "io" in paths:
            weight = min(max(round(limits.shares * 100), 10), 1000)
            with contextlib.suppress(FileNotFoundError):  # only with the BFQ scheduler
                cgroups.write(f"{paths['io']}/blkio.bfq.weight", str(weight))

    def _limit_memory(self, size: int) -> None:
        """Allow `size` bytes with and without swap; at no time may with be less than without."""
        files = [
            f"{self._memory}/memory.limit_in_bytes",
            f"{self._memory}/memory.memsw.limit_in_bytes",
        ]
        if not self._counts_swap:
            del files[1]
        try:
            cgroups.write(files[0], str(size))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            files.reverse()
        for path in files:
            cgroups.write(path, str(size))

    def oom_event(self) -> int | None:
        """Register for out-of-memory conditions: version 1 kills one process, not the group."""
        if not self._memory:
            return None
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{self._memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            cgroups.write(f"{self._memory}/cgroup.event_control", f"{event} {control}")
        except OSError as error:
            os.close(event)
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            os.close(control)
        return event

    def measure(self) -> Measure:
        """Read peak memory, CPU time and the number of out-of-memory kills."""
        measure = Measure()
        if "cpuacct" in self._paths:
            usage = f"{self._paths['cpuacct']}/cpuacct.usage"
            measure = measure._replace(cpu_ns=cgroups.read_number(usage))
        if self._memory:
            control = f"{self._memory}/memory.oom_control"
            measure = measure._replace(
                memory_peak=cgroups.read_number(f"{self._memory}/memory.max_usage_in_bytes"),
                oom_kills=cgroups.field(control, "oom_kill") or 0,
            )
        return measure

    def memory_now(self) -> int | None:
        """Read the memory in use."""
        if not self._memory:
            return None
        return cgroups.read_number(f"{self._memory}/memory.usage_in_bytes")

    def kill(self) -> None:
        """Nothing to do: the death of the sandbox's pid 1 kills its whole pid namespace."""

    def remove(self) -> bool:
        """Remove the group from every hierarchy."""
        return all(cgroups.remove_directory(path) for path in dict.fromkeys(self._paths.values()))
