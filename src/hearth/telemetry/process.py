"""The node's own process, under the names every Prometheus client uses."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from hearth.telemetry.exposition import head, sample

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def process_samples() -> Iterator[str]:
    """Yield CPU, memory, descriptors and start time of this process."""
    with open("/proc/self/stat", "rb") as file:
        # The command in parentheses may hold anything, also spaces and parentheses.
        fields = file.read().rpartition(b")")[2].split()
    user, system, started, virtual, resident = (int(fields[i]) for i in (11, 12, 19, 20, 21))
    cpu = (user + system) / _TICKS
    yield _one("process_cpu_seconds_total", "User and system CPU time.", cpu, counter=True)
    yield _one("process_resident_memory_bytes", "Resident memory.", resident * _PAGE)
    yield _one("process_virtual_memory_bytes", "Virtual memory.", virtual)
    yield _one("process_start_time_seconds", "Start, Unix time.", _boot_time() + started / _TICKS)
    yield _one("process_open_fds", "Open descriptors.", _open_descriptors())
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield _one("process_max_fds", "Most open descriptors.", limit)


def _one(name: str, help_text: str, value: float, *, counter: bool = False) -> str:
    return head(name, "counter" if counter else "gauge", help_text) + sample(name, "", value)


def _open_descriptors() -> int:
    # Since Linux 6.2 the directory's size is the number of descriptors; before, it is 0.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _boot_time() -> float:
    with open("/proc/stat", "rb") as file:
        for line in file:
            if line.startswith(b"btime "):
                return float(line.split()[1])
    return 0.0
