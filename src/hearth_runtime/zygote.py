"""The zygote: an interpreter with its imports done that forks sandboxes on order of the spawner.

It runs inside the template root (see `hearth.linux.root`), single-threaded, and runs no user code.
Descriptor 3 is a packet socket to the spawner. The first packet configures it: `filter` and
`last_filter` (hex of seccomp programs), `preload` (modules), `tmp_bytes`, `nofile`, `without` (what
tests leave out). It answers
`{"ready": true}`. Then each `{"fork": n, "uid", "network"}` with the descriptors that `spare.run`
documents is answered by `{"forked": n}` with a pidfd of A, or `{"failed": n, "message"}`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

from hearth_runtime import packets, rehearsal, runtime_host, spare, syscalls

_REHEARSED_CALLS = 30
"""Enough for the interpreter to specialise what a call runs through."""
_ROOT_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV


class Zygote:
    """Forks sandboxes and writes the id maps of those that are being made."""

    def __init__(self, spawner: socket.socket, config: dict[str, Any]) -> None:
        """Import ahead what every child would import."""
        self._spawner = spawner
        filters = {name: bytes.fromhex(config[name]) for name in ("filter", "last_filter")}
        self._config = {**config, **filters}
        self._config["last_capability"] = syscalls.last_capability()
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(spawner, select.POLLIN)
        self._made: dict[int, tuple[socket.socket, int, int | None]] = {}
        """Sandboxes being made, by descriptor: lifeline, pid and uid of A."""
        for name in (*runtime_host.PRELOAD, *config["preload"]):
            importlib.import_module(name)
        rehearsal.install()
        if "readonly_root" not in config["without"]:
            syscalls.remount("/", _ROOT_FLAGS)
        rehearsal.rehearse(_REHEARSED_CALLS)
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Serve until the spawner is gone."""
        packets.send(self._spawner, {"ready": True})
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._spawner.fileno():
                    self._attend(fd)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        received = packets.receive(self._spawner)
        if received is None:
            return False
        order, fds = received
        try:
            self._fork({**self._config, **order}, fds)
        except OSError as error:
            packets.send(self._spawner, {"failed": order["fork"], "message": str(error)})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, order: dict[str, Any], fds: list[int]) -> None:
        ours, theirs = packets.pair()
        if "pid" not in order["without"]:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._forget()
                ours.detach()
                spare.run(order, fds, theirs.detach())
        finally:
            # Only what is forked next goes into the new namespace; without this a second
            # unshare fails with EINVAL.
            syscalls.setns(self._own_pids, syscalls.CLONE_NEWPID)
        theirs.close()
        self._made[ours.fileno()] = (ours, pid, order["uid"])
        self._poll.register(ours, select.POLLIN)
        pidfd = os.pidfd_open(pid)
        packets.send(self._spawner, {"forked": order["fork"], "pid": pid}, (pidfd,))
        os.close(pidfd)

    def _forget(self) -> None:
        """In a child: let no object close a descriptor number that means something else by now."""
        self._spawner.detach()
        for lifeline, _, _ in self._made.values():
            lifeline.detach()
        self._made.clear()

    def _attend(self, fd: int) -> None:
        lifeline, pid, uid = self._made[fd]
        said = lifeline.recv(16)
        try:
            if said == b"map":
                _map_ids(pid, uid)
                lifeline.send(b"mapped")
                return
            if said == b"forked" and uid is not None:
                # Now, and by us: a process that once had -1000 could set it again itself, so B
                # must never have had it.
                with contextlib.suppress(PermissionError):  # without CAP_SYS_RESOURCE
                    _write(f"/proc/{pid}/oom_score_adj", "-1000")
        except OSError as error:
            print(f"zygote: {error}", file=sys.stderr, flush=True)  # noqa: T201 - no logger in here
        self._poll.unregister(fd)
        del self._made[fd]
        lifeline.close()


def _map_ids(pid: int, uid: int | None) -> None:
    """Map 0 and 1000 to two host uids of the sandbox's own, or 1000 to the only uid there is."""
    inside = spare.INSIDE_UID
    table = f"{inside} 0 1\n" if uid is None else f"0 {uid} 1\n{inside} {uid + 1} 1\n"
    _write(f"/proc/{pid}/uid_map", table)
    _write(f"/proc/{pid}/gid_map", table)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def main() -> None:
    """Run as `python -I -S` inside the template root."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    spawner = socket.socket(fileno=3)
    received = packets.receive(spawner)
    if received is not None:
        Zygote(spawner, received[0]).run()
