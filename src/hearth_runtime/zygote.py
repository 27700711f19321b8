"""The zygote: an interpreter with its imports done that forks sandboxes on order of the spawner.

It runs inside the template root (see `hearth.linux.root`), single-threaded, and runs no user code.
Descriptor 3 is a packet socket to the spawner. The first packet configures it: `filter` and
`last_filter` (hex of seccomp programs), `preload` (modules), `tmp_bytes`, `nofile`, `without` (what
tests leave out). It answers `{"ready": true}`. Then each `{"fork": n, "uid", "network",
"born_inside"}` with the descriptors that `spare.run` documents, and the group's directory if it is
to be born inside, is answered by `{"forked": n}` with a pidfd of A, or `{"failed": n, "message"}`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` runs through enumerations in every fork
import gc
import importlib
import os
import socket
from typing import Any

from hearth_runtime import init, packets, rehearsal, runtime_host, spare, syscalls

_REHEARSED_LIVES, _REHEARSED_CALLS = 15, 10
"""Enough for the interpreter to specialise what a life and a call run through."""
_ROOT_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV


class Zygote:
    """Forks sandboxes, and touches little memory doing so.

    What the zygote writes to after a fork is copied, and the child is left alone with the original.
    """

    def __init__(self, spawner: socket.socket, config: dict[str, Any]) -> None:
        """Import ahead what every child would import."""
        self._spawner = spawner
        filters = {n: syscalls.Filter(bytes.fromhex(config[n])) for n in ("filter", "last_filter")}
        self._config = {**config, **filters}
        self._config["last_capability"] = syscalls.last_capability()
        self._namespaces = tuple(
            spare.namespaces(config["without"], host_network=host) for host in (False, True)
        )
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        for name in (*runtime_host.PRELOAD, *config["preload"]):
            importlib.import_module(name)
        rehearsal.install()
        init.install(readable="dumpable" in config["without"])
        if "readonly_root" not in config["without"]:
            syscalls.remount("/", _ROOT_FLAGS)
        for _ in range(_REHEARSED_LIVES):
            rehearsal.rehearse(_REHEARSED_CALLS)
            spare.rehearse_becoming()
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Serve until the spawner is gone."""
        packets.send(self._spawner, {"ready": True})
        while (received := packets.receive(self._spawner)) is not None:
            order, fds = received
            try:
                order.update(self._config)
                order["namespaces"] = self._namespaces[order["network"] == "host"]
                self._fork(order, fds)
            except OSError as error:
                packets.send(self._spawner, {"failed": order["fork"], "message": str(error)})
            finally:
                for fd in fds:
                    os.close(fd)

    def _fork(self, order: dict[str, Any], fds: list[int]) -> None:
        if "pid" not in order["without"]:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = syscalls.fork_into(fds[-1]) if order["born_inside"] else os.fork()
            if pid == 0:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
                self._spawner.detach()  # its number will mean something else
                spare.run(order, fds[:-1] if order["born_inside"] else fds)
        finally:
            # Only what is forked next goes into the new namespace; without this a second
            # unshare fails with EINVAL.
            syscalls.setns(self._own_pids, syscalls.CLONE_NEWPID)
        pidfd = os.pidfd_open(pid)
        forked = b'{"forked":%d,"pid":%d}' % (order["fork"], pid)
        packets.send_bytes(self._spawner, forked, (pidfd,))
        os.close(pidfd)


def main() -> None:
    """Run as `python -I -S` inside the template root."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    spawner = socket.socket(fileno=3)
    received = packets.receive(spawner)
    if received is not None:
        if "oom_score" not in received[0]["without"]:
            _give_up_protection()
        Zygote(spawner, received[0]).run()


def _give_up_protection() -> None:
    """Be as likely a victim of the out-of-memory killer as anybody, whatever the node may be.

    User code inherits this, and the right to go back to what was once had.
    """
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < 0:
            file.write("0")
