"""Which machine, which versions, which state: without them a number means nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path


def describe() -> dict[str, str]:
    """Return what a reader needs in order to compare."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{os.cpu_count()} x {cpu_model()}",
        "memory": f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "cgroups": cgroups(),
        "python": platform.python_version(),
        "nginx": first_line("nginx", "-v"),
        "wrk": first_line("wrk", "-v").split("[")[0].strip(),
        "commit": first_line("git", "describe", "--always", "--dirty", "--abbrev=10"),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def cpu_model() -> str:
    """Return the processor's name."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def cgroups() -> str:
    """Return which cgroup version carries the memory controller."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    return "v2" if controllers.exists() and "memory" in controllers.read_text() else "v1"


def first_line(*command: str) -> str:
    """Return the first line a command prints, on either stream."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "not installed"
    return (done.stdout + done.stderr).strip().split("\n", 1)[0]
