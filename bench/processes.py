"""What processes cost: CPU time, resident memory by fair share, and who belongs to whom."""

from __future__ import annotations

import os
from pathlib import Path

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
UID_BASE = 1_879_048_192  # process.uid_base: whoever runs above it is an instance


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        except OSError:
            continue  # gone while we looked
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def first_child(pid: int) -> int:
    """Return the oldest child: the launcher of a node, its spawner, and that one's zygote."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def role(pid: int, node: int) -> str:
    """Return `node`, `instances`, or `platform` (spawner, zygotes, writer) for a node's process."""
    if pid == node:
        return "node"
    status = Path(f"/proc/{pid}/status").read_text()
    uid = int(status.split("Uid:", 1)[1].split()[1])
    return "instances" if uid >= UID_BASE else "platform"


def state(pid: int) -> str:
    """Return the state letter of a process; `Z` is a zombie, empty one that has just gone."""
    try:
        return _stat(pid)[0]
    except OSError:
        return ""


def cpu_us(pid: int) -> int:
    """Return the CPU microseconds that a process has used, all threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * TICK_US


def cpu_by_role(node: int) -> dict[str, int]:
    """Return CPU microseconds used so far by the node, its instances, and the rest of its tree."""
    used = {"node": 0, "instances": 0, "platform": 0}
    for pid in tree(node):
        try:
            used[role(pid, node)] += cpu_us(pid)
        except OSError:
            continue
    return used


def pss_bytes(pids: list[int]) -> int:
    """Return the proportional set size of some processes: shared pages count by share."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.split("\nPss:", 1)[1].split()[0]) * 1024
    return total


def own_bytes(pid: int) -> int:
    """Return the resident bytes of a process that come from no file."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:", 1)[1].split()[0]) * 1024


def available_bytes() -> int:
    """Return MemAvailable of the machine."""
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:", 1)[1].split()[0]) * 1024
