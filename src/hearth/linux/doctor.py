"""What this host can enforce: every mechanism of process mode is tried for real, in a child."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hearth.linux import cgroups, launcher, seccomp
from hearth_runtime import syscalls

_PROBE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from hearth.linux.doctor import probe; probe()"
)
_PROBE_LIMIT_S = 60
_MIB = 1 << 20

_NAMESPACES = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "net": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
_FIX_USERNS = (
    "sysctl user.max_user_namespaces=65536; on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in Docker run with --privileged"
)
_FIX_KERNEL = "needs Linux 5.12 or newer"
_FIX_CONTAINER = "inside a container: run it with --privileged"
_FIX_CGROUPS = (
    "run as root, or let systemd delegate: `systemd-run --user --scope -p Delegate=yes hearth up`"
)


class Check(NamedTuple):
    """One row of `hearth doctor`."""

    mechanism: str
    ok: bool
    """False: `isolation_level: strict` refuses to start here."""
    detail: str
    fix: str


def checks() -> list[Check]:
    """Try everything in a fresh single-threaded process, because trying means forking."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, source],
        capture_output=True,
        timeout=_PROBE_LIMIT_S,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return [Check("probe", False, reason or f"ended with {done.returncode}", "report this")]
    return [Check(*row) for row in json.loads(done.stdout)]


def probe() -> None:
    """Print all rows as JSON; what `checks` runs in a process of its own."""
    print(json.dumps(list(_rows())))  # noqa: T201 - its output is its result


def _rows() -> Iterator[Check]:
    yield _root()
    yield _try("user namespace", _user_namespace, _FIX_USERNS)
    for name, flag in _NAMESPACES.items():
        yield _try(f"{name} namespace", lambda flag=flag: _unshare(flag), _FIX_CONTAINER)  # type: ignore[misc] # bound early
    yield _try("read-only detached mounts", _detached_mount, _FIX_KERNEL)
    yield _try("size-limited tmpfs", _small_tmpfs, _FIX_CONTAINER)
    yield _try("own /proc", _own_proc, _FIX_CONTAINER)
    yield _try("capabilities dropped", _capabilities, _FIX_CONTAINER)
    yield _try("seccomp filter", _seccomp, "needs CONFIG_SECCOMP_FILTER on x86_64 or aarch64")
    yield _try("pidfd", _pidfd, _FIX_KERNEL)
    yield from _groups()
    yield _oom_protection()


# --- trying ------------------------------------------------------------------------------------


def _try(mechanism: str, act: Callable[[], str], fix: str) -> Check:
    """Run `act` in a forked child; it returns a detail, or raises what went wrong."""
    said = _in_child(act)
    return Check(mechanism, said[:1] == "+", said[1:], "" if said[:1] == "+" else fix)


def _in_child(act: Callable[[], str]) -> str:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            said = "+" + act()
        except BaseException as error:
            said = f"-{error}"
        os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()  # not to its end: grandchildren may hold it open
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return said or f"-ended by {signal.Signals(os.WTERMSIG(status)).name}"


def _expect(code: int, act: Callable[[], object], what: str) -> None:
    try:
        act()
    except OSError as error:
        if error.errno == code:
            return
        raise
    raise OSError(f"{what} was possible")


def _become_root_somewhere() -> None:
    """As an ordinary user: get the rights that the other mechanisms need."""
    if os.geteuid() != 0:
        _user_namespace()


# --- what is tried -----------------------------------------------------------------------------


def _root() -> Check:
    ok = os.geteuid() == 0
    detail = "every sandbox gets host uids of its own" if ok else "sandboxes share your uid"
    return Check("run as root", ok, detail, "" if ok else "start as root, or use lightweight")


def _user_namespace() -> str:
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    cgroups.write("/proc/self/setgroups", "deny")
    cgroups.write("/proc/self/uid_map", f"0 {uid} 1")
    cgroups.write("/proc/self/gid_map", f"0 {gid} 1")
    return "made and mapped"


def _unshare(flag: int) -> str:
    _become_root_somewhere()
    syscalls.unshare(flag)
    return "made"


@contextlib.contextmanager
def _private_directory() -> Iterator[str]:
    """Give a directory, in a mount namespace that ends with this process."""
    with tempfile.TemporaryDirectory(prefix="hearth-doctor-") as directory:
        _become_root_somewhere()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", directory, "tmpfs", 0, "size=64k")
        try:
            yield directory
        finally:
            syscalls.umount(directory)


def _detached_mount() -> str:
    with _private_directory() as directory:
        source, target = f"{directory}/source", f"{directory}/target"
        os.mkdir(source)
        os.mkdir(target)
        fd = syscalls.open_tree(source)
        syscalls.mount_setattr(fd, syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(fd, target)
        os.close(fd)
        _expect(errno.EROFS, lambda: os.mkdir(f"{target}/x"), "writing to a read-only mount")
        syscalls.umount(target)
    return "attached, and not writable"


def _small_tmpfs() -> str:
    with _private_directory() as directory:
        fd = os.open(f"{directory}/fill", os.O_CREAT | os.O_WRONLY)
        _expect(
            errno.ENOSPC,
            lambda: [os.write(fd, bytes(4096)) for _ in range(64)],
            "writing 256 KiB to a tmpfs of 64 KiB",
        )
        os.close(fd)
    return "full at its size"


def _own_proc() -> str:
    _become_root_somewhere()
    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)

    def look() -> str:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("proc", "/proc", "proc")
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
        if pids != ["1"]:
            raise OSError(f"foreign processes are visible: {len(pids)}")
        return "shows its own processes only"

    said = _in_child(look)
    if said[:1] != "+":
        raise OSError(said[1:])
    return said[1:]


def _capabilities() -> str:
    _become_root_somewhere()
    syscalls.drop_bounding_set(syscalls.last_capability())
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.drop_capabilities()
    status = cgroups.read_all("/proc/self/status")
    held = [line for line in status.splitlines() if line.startswith("Cap") and int(line[7:], 16)]
    if held:
        raise OSError(f"some are left: {held}")
    return "none left, none to regain"


def _seccomp() -> str:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.Filter(seccomp.program()).install()
    syscalls.Filter(seccomp.last_program()).install()
    _expect(errno.EPERM, lambda: syscalls.unshare(syscalls.CLONE_NEWUSER), "unshare")
    _expect(errno.EPERM, lambda: syscalls.mount(None, "/", None, syscalls.MS_PRIVATE), "mount")
    return "refuses what it should"


def _pidfd() -> str:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    return "opened, signalled, waited for"


# --- control groups ----------------------------------------------------------------------------


def _groups() -> Iterator[Check]:
    hierarchies = launcher.discover()
    if hierarchies is None:
        for name in cgroups.REQUIRED:
            yield Check(f"cgroup {name}", False, "no group can be made", _FIX_CGROUPS)
        return
    node = cgroups.Node(hierarchies)
    try:
        node.open()
        yield _group_check(node, "memory", _exceed_memory)
        yield _group_check(node, "pids", _exceed_pids)
        yield _group_check(node, "cpu", _exceed_cpu)
    except OSError as error:
        yield Check("cgroups", False, str(error), _FIX_CGROUPS)
    finally:
        node.close()
    there = "io" in hierarchies.roots
    detail = "present" if there else "not available here; nothing else depends on it"
    yield Check("cgroup io (optional)", True, detail, "")


def _group_check(node: cgroups.Node, name: str, exceed: Callable[[cgroups.Group], str]) -> Check:
    mechanism = f"cgroup {name} ({node.hierarchies.version})"
    if name not in node.hierarchies.roots:
        return Check(mechanism, False, "the controller is not available", _FIX_CGROUPS)
    group = node.group(name)
    try:
        group.limit(cgroups.Limits(memory=16 * _MIB, pids=4, cpu=0.1))
        return Check(mechanism, True, exceed(group), "")
    except OSError as error:
        return Check(mechanism, False, str(error), _FIX_CGROUPS)
    finally:
        group.kill()


def _inside(group: cgroups.Group, act: Callable[[], str]) -> str:
    def enter() -> str:
        for fd in group.entrances():
            os.write(fd, b"0")
        return act()

    return _in_child(enter)


def _exceed_memory(group: cgroups.Group) -> str:
    said = _inside(group, lambda: str(len(bytearray(64 * _MIB))))
    if said.startswith("+"):
        raise OSError("64 MiB could be had in a group of 16 MiB")
    return "killed at its limit"


def _exceed_pids(group: cgroups.Group) -> str:
    def act() -> str:
        for _ in range(8):
            if os.fork() == 0:
                time.sleep(2)  # the group is killed long before
                os._exit(0)
        return "8 forks"

    said = _inside(group, act)
    if said.startswith("+"):
        raise OSError("8 processes could be had in a group of 4")
    return "no more than its limit"


def _exceed_cpu(group: cgroups.Group) -> str:
    def act() -> str:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
        return str(time.process_time())

    said = _inside(group, act)
    used = float(said[1:]) if said.startswith("+") else 1.0
    if used > 0.15:
        raise OSError(f"used {used:.2f} s of 0.3 s with a quota of a tenth")
    return "held to its quota"


def _oom_protection() -> Check:
    def act() -> str:
        cgroups.write("/proc/self/oom_score_adj", "-1000")
        return "the init of a sandbox outlives its function"

    said = _in_child(act)
    detail = said[1:] if said[:1] == "+" else f"not available ({said[1:]}); ends are still reported"
    return Check("out-of-memory protection (optional)", True, detail, "")
