"""The small parent of the spawner: claims what must be given back, and gives it back.

It stays in the host's pid namespace and does four things: sweep what dead nodes left, claim
directories for control groups and mounts, fork the spawner as pid 1 of a new pid namespace (so that
its death, however sudden, is the death of everything it ever made), and, when that is over, remove
the directories. It holds no state of sandboxes and talks to nobody after the start.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
from typing import Any

from hearth.linux import cgroup_v1, cgroup_v2, cgroups, uids
from hearth_runtime import packets, syscalls

BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from hearth.linux.launcher import main; main(int(sys.argv[2]))"
)
"""Run as `python -I -S -c BOOTSTRAP <directory of the packages> <socket>`."""


def main(fd: int) -> None:
    """Serve the node at the other end of the packet socket `fd` until it or the spawner is gone.

    The node's first packet: `run_dir`, `strict`, `spares`, `uid_base`, `lease_grace`, `tmp_bytes`,
    `memory` and `pids` (limits to set ahead), `nofile`, `without` (what tests leave out, see
    `hearth.linux.mechanisms`).
    """
    node = socket.socket(fileno=fd)
    received = packets.receive(node)
    if received is None:
        return
    config = received[0]
    groups, run_dir, uid_slice, root = None, None, None, os.geteuid() == 0
    try:
        groups = _claim_groups(strict=config["strict"])
        _refuse_if_weak(config, groups)
        run_dir = _claim_directory(config["run_dir"])
        if root:
            uid_slice = uids.claim(config["uid_base"])
            config["uid_base"] = uid_slice.first
        _raise_open_files()
        _enter_namespaces(own_pids=not root or "pid" not in config["without"])
        pid = os.fork()
        if pid == 0:
            config["nofile"] = min(config["nofile"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            _run_spawner(node, {**config, "run_dir": run_dir, "root": root}, groups)
        node.close()
        _wait(pid)
    except OSError as error:
        with contextlib.suppress(OSError):
            packets.send(node, {"fatal": f"{error}"})
    finally:
        if groups is not None:
            groups.close()
        if run_dir is not None:
            shutil.rmtree(run_dir, ignore_errors=True)
        if uid_slice is not None:
            uid_slice.close()


def discover() -> cgroups.Hierarchies | None:
    """Find where this process may make control groups, None if nowhere.

    Version 1 wins if it has the memory controller: then the unified mount has none.
    """
    mountinfo, own = cgroups.read_all("/proc/self/mountinfo"), cgroups.read_all("/proc/self/cgroup")
    old = cgroup_v1.discover(mountinfo, own)
    if "memory" in old:
        return cgroup_v1.V1(old)
    new = cgroup_v2.discover(mountinfo, own)
    return cgroup_v2.V2(new) if new else None


def _claim_groups(*, strict: bool) -> cgroups.Node | None:
    hierarchies = discover()
    if hierarchies is None:
        return None
    groups = cgroups.Node(hierarchies)
    cgroups.sweep(groups.directories)
    try:
        groups.open()
    except OSError as error:
        groups.close()
        if strict:
            raise
        print(f"no control groups: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log
        return None
    return groups


def _claim_directory(parent: str) -> str:
    """Make a directory of our own, without those of launchers that were killed.

    Its lock lasts as long as this process or the spawner, so the living can be told from the dead.
    """
    for name in os.listdir(parent):
        lock = cgroups.try_lock(f"{parent}/{name}")
        if lock is not None:
            shutil.rmtree(f"{parent}/{name}", ignore_errors=True)
            os.close(lock)
    while True:
        path = f"{parent}/sandbox-{secrets.token_hex(4)}"
        os.mkdir(path)
        if cgroups.try_lock(path) is not None and os.path.isdir(path):
            return path  # else somebody swept between making and locking


def _refuse_if_weak(config: dict[str, Any], groups: cgroups.Node | None) -> None:
    if not config["strict"]:
        return
    there = groups.hierarchies.roots if groups is not None else {}
    missing = [f"control group controller {name}" for name in cgroups.REQUIRED if name not in there]
    if os.geteuid() != 0:
        missing.append("a uid of its own for every sandbox (needs root)")
    if missing:
        raise OSError("missing: " + "; ".join(missing))


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _enter_namespaces(*, own_pids: bool) -> None:
    """Leave for a pid namespace of our own; an ordinary user needs a user namespace first."""
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        cgroups.write("/proc/self/setgroups", "deny")
        cgroups.write("/proc/self/uid_map", f"0 {uid} 1")
        cgroups.write("/proc/self/gid_map", f"0 {gid} 1")
    if own_pids:
        syscalls.unshare(syscalls.CLONE_NEWPID)


def _run_spawner(node: socket.socket, config: dict[str, Any], groups: cgroups.Node | None) -> None:
    from hearth.linux.spawner import Spawner

    status = 1
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", "/proc", "proc", flags)
        Spawner(node, config, groups).run()
        status = 0
    except OSError as error:
        with contextlib.suppress(OSError):
            packets.send(node, {"fatal": f"{error}"})
        print(f"spawner: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log is stderr
    finally:
        os._exit(status)


def _wait(pid: int) -> None:
    """Wait for the spawner; a polite request to stop is passed on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(pid, signal.SIGKILL))
    os.waitpid(pid, 0)
