"""What becomes of a fork of the zygote: A, init of a new pid namespace, and B, the spare itself.

A enters the cgroups, forks B, makes the namespaces and mounts while B waits, and then gives up its
interpreter for a tiny program that only waits (`init`). B joins what A has made. So B, which stays,
does not hold the memory that all that work has touched. User code never is pid 1, because the
kernel shields pid 1 from signals of its own namespace. B then waits, prepared as far as possible,
for the packet that makes it an instance (`_become`); after that it holds nothing but its channel,
its output pipes and `/dev/null`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
import sys
from typing import Any, NoReturn

from hearth_runtime import init, packets, rehearsal, runtime_host, syscalls

CHANNEL, CONTROL = 3, 4
INSIDE_UID = 1000
CODE = "/app/function"
TMP = "/tmp"  # noqa: S108 - a mount point of the sandbox
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - as above

_MASKED_FILES = ("kcore", "keys", "key-users", "timer_list", "sched_debug", "kmsg", "kpagecount")
_READ_ONLY = ("sys", "irq", "bus", "fs", "sysrq-trigger")
_UNSHARED, _MAPPED, _ISOLATED = b"unshared", b"mapped", b"isolated"
"""What A and B tell each other."""
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_NAMESPACES = {
    "user": syscalls.CLONE_NEWUSER,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "net": syscalls.CLONE_NEWNET,
}


def run(order: dict[str, Any], fds: list[int]) -> NoReturn:
    """Turn this fresh fork (pid 1 of a new pid namespace) into A; called by the zygote.

    Args:
        order: `uid` (host uid of the sandbox's root, None for an ordinary user), `network`,
            `namespaces` (flags), `tmp_bytes`, `filter` and `last_filter`, `last_capability`,
            `nofile`, `without` (what tests leave out, see `hearth.linux.mechanisms`).
        fds: control, channel, stdout, stderr, then `tasks`/`cgroup.procs` files of the cgroups.
    """
    control = None
    try:
        for fd in fds[4:]:
            os.write(fd, b"0")
        _arrange(order, fds)
        control = socket.socket(fileno=CONTROL)
        outside = os.readlink("/proc/self")  # A's pid in the pid namespace of this /proc
        to_b, to_a = packets.pair()
        child = os.fork()
        if child == 0:
            to_b.close()
            _park(order, control, outside, to_a)
        to_a.close()
        _isolate(order, to_b)
        to_b.send(_ISOLATED)
        _drop_rights(order)
        to_b.close()
        init.become(child, CONTROL)
    except BaseException as error:
        _give_up(control, error)


def _arrange(order: dict[str, Any], fds: list[int]) -> None:
    """Put what is needed at fixed numbers and close all else, whatever the zygote had open."""
    control, channel, stdout, stderr = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds[:4])
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for source, target in ((channel, CHANNEL), (control, CONTROL)):
        os.dup2(source, target, inheritable=False)
    if "descriptors" not in order["without"]:
        syscalls.close_from(CONTROL + 1)


def _isolate(order: dict[str, Any], to_b: socket.socket) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    _mount_proc(masked="masked_proc" not in order["without"])
    syscalls.unshare(order["namespaces"])
    to_b.send(_UNSHARED)
    if to_b.recv(16) != _MAPPED:
        raise OSError("the user ids could not be mapped")
    _become_root(order)
    _mount_private(order)
    if "uts" not in order["without"]:
        socket.sethostname("function")
    if "net" not in order["without"] and order["network"] != "host":
        _loopback_up()


def namespaces(without: list[str], *, host_network: bool) -> int:
    """Return the flags of all namespaces of a sandbox but the one of pids."""
    shared = {*without, *(["net"] if host_network else [])}
    flags = [flag for name, flag in _NAMESPACES.items() if name not in shared]
    return sum(flags, syscalls.CLONE_NEWNS)


def _become_root(order: dict[str, Any]) -> None:
    """Become root of the sandbox, which is nobody outside."""
    if order["uid"] is not None:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _mount_private(order: dict[str, Any]) -> None:
    """Mount what only this sandbox can write to."""
    flags = syscalls.MS_NOSUID | (0 if "nodev" in order["without"] else syscalls.MS_NODEV)
    tmp, shared = tmp_options(order["tmp_bytes"]), "size=16m,nr_inodes=1k,mode=1777"
    if "tmp_size" in order["without"]:
        tmp = shared = "mode=1777"
    syscalls.mount("tmpfs", TMP, "tmpfs", flags, tmp)
    syscalls.mount("tmpfs", SHARED_MEMORY, "tmpfs", flags | syscalls.MS_NOEXEC, shared)


def tmp_options(size: int) -> str:
    """Return mount options of a `/tmp` of `size` bytes, with one inode per 4 KiB."""
    return f"size={size},nr_inodes={max(size >> 12, 64)},mode=1777"


def _mount_proc(*, masked: bool) -> None:
    """Replace /proc by one of the new pid namespace, covering what tells or changes too much.

    The old one must be visible until the new one exists, or an ordinary user may not mount it. Made
    before the user namespace, all of it is locked for whoever later gains rights inside that.
    """
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", TMP, "proc", flags)
    syscalls.umount("/proc")
    syscalls.mount(TMP, "/proc", None, syscalls.MS_MOVE)
    if not masked:
        return
    for name in _MASKED_FILES:
        if os.path.exists(f"/proc/{name}"):
            syscalls.mount("/dev/null", f"/proc/{name}", None, syscalls.MS_BIND)
    for name in _READ_ONLY:
        path = f"/proc/{name}"
        if os.path.exists(path):
            syscalls.mount(path, path, None, syscalls.MS_BIND)
            syscalls.remount(path, flags | syscalls.MS_RDONLY)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _drop_rights(order: dict[str, Any]) -> None:
    """In A: give up what execve would give back to root, and the ends that only B needs."""
    os.dup2(0, 1)
    os.dup2(0, 2)
    os.close(CHANNEL)
    if "dumpable" not in order["without"]:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.drop_bounding_set(order["last_capability"])
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.drop_capabilities()


def _park(
    order: dict[str, Any], control: socket.socket, outside: str, to_a: socket.socket
) -> NoReturn:
    """Prepare B as far as possible, wait for the packet that says what to become, and become it."""
    try:
        _join(order, outside, to_a)
        without = order["without"]
        os.setsid()
        if "core" not in without:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["nofile"], order["nofile"]))
        if "capabilities" not in without:
            syscalls.drop_bounding_set(order["last_capability"])
        if "no_new_privileges" not in without:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if "seccomp" not in without:
            order["filter"].install()
        rehearsal.rehearse(1)
        rehearse_becoming()
        packets.send_bytes(control, b'{"parked":true}')
        received = packets.receive(control)
        if received is None:
            os._exit(0)
        _become(order, received[0], received[1])
        control.close()
    except BaseException as error:
        _give_up(control, error)
    runtime_host.serve(CHANNEL)


def _join(order: dict[str, Any], outside: str, to_a: socket.socket) -> None:
    """Map A's ids, which takes a right outside, and enter all that A then makes."""
    init_of_us = os.pidfd_open(os.getppid())
    if to_a.recv(16) != _UNSHARED:
        os._exit(0)  # A has said why
    if "user" not in order["without"]:
        _map_ids(outside, order["uid"])
    if order["uid"] is not None:
        # Now, and by us: a process that once had -1000 could set it again itself, so B
        # must never have had it.
        with contextlib.suppress(PermissionError):  # without CAP_SYS_RESOURCE
            _write(f"/proc/{outside}/oom_score_adj", "-1000")
    to_a.send(_MAPPED)
    if to_a.recv(16) != _ISOLATED:
        os._exit(0)
    to_a.close()
    syscalls.setns(init_of_us, order["namespaces"])
    os.close(init_of_us)
    _become_root(order)


def _map_ids(pid: str, uid: int | None) -> None:
    """Map 0 and 1000 to two host uids of the sandbox's own, or 1000 to the only uid there is."""
    table = f"{INSIDE_UID} 0 1\n" if uid is None else f"0 {uid} 1\n{INSIDE_UID} {uid + 1} 1\n"
    _write(f"/proc/{pid}/uid_map", table)
    _write(f"/proc/{pid}/gid_map", table)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def rehearse_becoming() -> None:
    """Touch what `_become` will run through, with nothing at stake."""
    ours, theirs = packets.pair()
    packets.send_bytes(ours, b'{"tmp_bytes":67108864,"rlimits":{}}', (0,))
    received = packets.receive(theirs)
    if received is not None:
        os.close(received[1][0])
    ours.close()
    theirs.close()
    with contextlib.suppress(OSError):
        syscalls.move_mount(-1, CODE)
    os.chdir("/")


def _become(order: dict[str, Any], duty: dict[str, Any], fds: list[int]) -> None:
    """Take the code, give up every right, never to regain it. User code has not run yet."""
    without = order["without"]
    syscalls.move_mount(fds[0], CODE)
    os.close(fds[0])
    if duty["tmp_bytes"] != order["tmp_bytes"] and "tmp_size" not in without:
        flags = syscalls.MS_REMOUNT | syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("tmpfs", TMP, "tmpfs", flags, tmp_options(duty["tmp_bytes"]))
    for name, limit in duty["rlimits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if order["uid"] is not None and "uid" not in without:
        uid = INSIDE_UID if "user" not in without else order["uid"] + 1
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if "capabilities" not in without:
        syscalls.drop_capabilities()
    if "dumpable" not in without:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if "seccomp" not in without:
        order["last_filter"].install()
    os.chdir(CODE)


def _give_up(control: socket.socket | None, error: BaseException) -> NoReturn:
    """Say why, to the spawner if it can be reached, and end."""
    text = f"{type(error).__name__}: {error}"
    try:
        if control is not None:
            packets.send(control, {"error": text})
        else:
            print(f"spare: {text}", file=sys.__stderr__, flush=True)
    finally:
        os._exit(70)
