"""What the spawner knows of one sandbox and of one zygote."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from typing import Any

from hearth.linux import root, seccomp
from hearth.linux.cgroups import Group, Limits, Measure
from hearth_runtime import init, packets, syscalls

_CODE_FLAGS = {
    "readonly_code": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
}
_CHANNEL_BUFFER = 1 << 20
_SO_PASSRIGHTS = 83
"""Whether descriptors may be passed to a socket (Linux 6.16): dropping them can be work."""
_ZYGOTE = (
    "import array, binascii, contextlib, ctypes, faulthandler, fcntl, gc, importlib.util, json, "
    "re, resource, socket, struct, termios, traceback, typing; gc.collect(); gc.disable(); "
    f"import sys; sys.path.insert(0, {root.RUNTIME!r}); "
    "from hearth_runtime.zygote import main; main()"
)
"""The standard library comes first, and its garbage goes: what forks write to, if only to count
references, then lies together and not on pages shared with what nobody uses."""


class Sandbox:
    """A sandbox from the order to fork it until its last trace is gone."""

    def __init__(
        self,
        number: int,
        stock: str,
        *,
        group: Group | None,
        slot: int,
        limits: Limits,
        without: list[str],
    ) -> None:
        """Make the sockets and pipes; `ours` go to the node, `theirs` inside.

        `limits` are the likely ones: set ahead, and set again only for who needs others. `without`
        is what tests leave out.
        """
        self._without = without
        self.number = number
        self.stock = stock
        self.group = group
        self.slot = slot
        self.pidfd: int | None = None
        self._limits = limits
        if group is not None:
            group.limit(limits)
        self.oom_event = group.oom_event() if group is not None else None
        self.parked = False
        self.assigned = False
        self.status: int | None = None
        self.error: str | None = None
        self.out_of_memory = False
        self.control, self._control = packets.pair()
        self.control.setblocking(False)
        channel, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (channel, inside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BUFFER)
        if "passed_descriptors" not in without:
            with contextlib.suppress(OSError):  # older kernels: the node drops them unseen
                channel.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        stdout, stderr = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        self.ours = [channel.detach(), stdout[0], stderr[0]]
        self.theirs = [self._control.detach(), inside.detach(), stdout[1], stderr[1]]
        place = group.birthplace() if group is not None else None
        self.born_inside = place is not None
        if place is not None:
            self.theirs.append(place)
        elif group is not None:
            self.theirs += group.entrances()

    def close_theirs(self) -> None:
        """Let go of the inner ends, once the zygote has them."""
        _close(self.theirs)

    def close_ours(self) -> None:
        """Let go of the outer ends, once the node has them."""
        _close(self.ours)

    def assign(self, duty: dict[str, Any]) -> None:
        """Make it an instance: limits, code, go.

        Raises:
            OSError: the code is not there, or the sandbox is dead.
        """
        self.assigned = True
        limits = Limits(memory=duty["memory"], pids=duty["pids"], cpu=duty["cpu"])
        if self.group is not None and limits != self._limits:
            self.group.limit(limits)
        fd = syscalls.open_tree(duty["code"])
        try:
            attributes = [flag for name, flag in _CODE_FLAGS.items() if name not in self._without]
            syscalls.mount_setattr(fd, sum(attributes))
            rlimits: dict[str, int] = {}
            if self.group is None:  # weaker, but better than nothing
                rlimits = {"DATA": limits.memory, "NPROC": limits.pids}
            order = {"tmp_bytes": duty["tmp_bytes"], "rlimits": rlimits}
            packets.send(self.control, order, (fd,))
        finally:
            os.close(fd)

    def listen(self) -> bool:
        """Take what came from inside; True if it has just become ready."""
        try:
            while (received := packets.receive_bytes(self.control)) is not None:
                if len(received[0]) == init.STATUS_BYTES:  # no JSON object of ours is as short
                    self.status = int.from_bytes(received[0], sys.byteorder)
                    _close(received[1])
                    continue
                message, fds = packets.decode(*received)
                _close(fds)
                self.error = message.get("error", self.error)
                if "parked" in message:
                    self.parked = True
                    return True
        except OSError:  # nothing there yet, or nobody; its death is told by the pidfd
            pass
        return False

    def is_dead(self) -> bool:
        """Ask the kernel whether its pid 1, and so everything in it, has ended."""
        poll = select.poll()
        if self.pidfd is not None:
            poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """Kill everything inside at once."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.group is not None and "group_kill" not in self._without:
            self.group.kill()

    def report(self) -> dict[str, Any]:
        """Say how it ended; call once it is dead, before its group is removed."""
        measure = self.group.measure() if self.group is not None else Measure()
        return {
            "gone": self.number,
            "stock": self.stock,
            "status": self.status,
            "error": self.error,
            "oom": self.out_of_memory or measure.oom_kills > 0,
            "memory_peak": measure.memory_peak,
            "cpu_ns": measure.cpu_ns,
        }

    def close(self) -> None:
        """Close every descriptor."""
        self.close_ours()
        self.close_theirs()
        self.control.close()
        _close([fd for fd in (self.pidfd, self.oom_event) if fd is not None])
        self.pidfd = self.oom_event = None


class Zygote:
    """The spawner's end of a zygote."""

    def __init__(self, preload: list[str], config: dict[str, Any]) -> None:
        """Start it; it says `ready` when its imports are done."""
        self.preload = preload
        self.ready = False
        self.sock, inside = packets.pair()
        self.pid = os.fork()
        if self.pid == 0:
            _exec_zygote(inside, config["run_dir"], config["without"])
        inside.close()
        settings = {
            "filter": seccomp.program().hex(),
            "last_filter": seccomp.last_program().hex(),
            "preload": preload,
            "tmp_bytes": config["tmp_bytes"],
            "nofile": config["nofile"],
            "without": config["without"],
        }
        packets.send(self.sock, settings)

    def order(self, sandbox: Sandbox, *, uid: int | None, network: str) -> None:
        """Have a sandbox forked."""
        order = {
            "fork": sandbox.number,
            "uid": uid,
            "network": network,
            "born_inside": sandbox.born_inside,
        }
        packets.send(self.sock, order, tuple(sandbox.theirs))
        sandbox.close_theirs()


def _exec_zygote(inside: socket.socket, run_dir: str, without: list[str]) -> None:
    try:
        os.dup2(inside.fileno(), 3)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        syscalls.close_from(4)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        interpreter = root.Interpreter.of_this_process()
        directory = f"{run_dir}/root"
        os.makedirs(directory, exist_ok=True)
        root.enter(
            directory,
            interpreter,
            os.path.dirname(packets.__file__),
            with_host="root" in without,
        )
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}  # noqa: S108 - inside
        if "environment" in without:
            environment = {**os.environ, **environment}
        executable = interpreter.executable
        os.execve(  # noqa: S606 - no shell wanted
            executable,
            [executable, "-I", "-S", "-c", _ZYGOTE],
            {**environment, **interpreter.environment},
        )
    except BaseException as error:
        os.write(2, f"zygote: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
