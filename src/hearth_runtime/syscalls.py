"""The few system calls that Python lacks, bound with ctypes, for both sides of the sandbox wall.

Every function raises OSError with the kernel's errno. Nothing here needs a compiler.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_NUMBERS = {
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277},
}
_MACHINE = os.uname().machine
# Calls added since 2018 have one number on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 428, 429, 436, 442
_CLONE3 = 435
_CLONE_ARGS = struct.Struct("=11Q")
_CLONE_INTO_CGROUP = 0x200000000
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _number(name: str) -> int:
    try:
        return _NUMBERS[_MACHINE][name]
    except KeyError:
        raise OSError(f"{name}: the architecture {_MACHINE} is not supported") from None


def _path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`, which must be of `kind` (a CLONE_NEW… flag)."""
    _checked(_libc.setns(fd, kind), "setns")


def mount(
    source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None
) -> None:
    """Attach a file system, or change or move an attached one."""
    result = _libc.mount(
        _path(source),
        _path(target),
        _path(kind),
        ctypes.c_ulong(flags),
        _path(data),
    )
    _checked(result, f"mount {target}")


def remount(target: str, flags: int) -> None:
    """Change the flags of one mount (not of the file system behind it)."""
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Call umount2(2)."""
    _checked(_libc.umount2(_path(target), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace."""
    _checked(
        _syscall(_number("pivot_root"), _path(new_root), _path(put_old)), f"pivot_root {new_root}"
    )


def open_tree(path: str, *, recursive: bool = False) -> int:
    """Return a descriptor of a detached copy of the mount at `path` (close-on-exec)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _checked(
        _syscall(_OPEN_TREE, AT_FDCWD, _path(path), ctypes.c_uint(flags)), f"open_tree {path}"
    )


def mount_setattr(fd: int, attributes: int, *, recursive: bool = False) -> None:
    """Add MOUNT_ATTR_… `attributes` to the mount behind `fd`."""
    request = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _checked(
        _syscall(_MOUNT_SETATTR, fd, b"", ctypes.c_uint(flags), request, len(request)),
        "mount_setattr",
    )


def move_mount(fd: int, target: str) -> None:
    """Attach the detached mount behind `fd` at `target`."""
    _checked(
        _syscall(_MOVE_MOUNT, fd, b"", AT_FDCWD, _path(target), MOVE_MOUNT_F_EMPTY_PATH),
        f"move_mount {target}",
    )


def fork_into(group: int) -> int:
    """Fork as `os.fork` does, with the child born in the control group (v2) behind `group`.

    Who joins a group waits 10 ms for a grace period of RCU; who is born there does not. For
    single-threaded processes, and for children that fork or exec only: glibc's note of its own
    thread id stays that of the parent in them.
    """
    arguments = _CLONE_ARGS.pack(_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_libc_with_gil.syscall(_CLONE3, arguments, len(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, "clone3")


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    _checked(
        _syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0), "close_range"
    )


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Change a setting of this process."""
    return _checked(
        _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), 0, 0),
        f"prctl {option}",
    )


def last_capability() -> int:
    """Return the number of the highest capability this kernel knows."""
    number = 0
    while _libc.prctl(23, ctypes.c_ulong(number + 1), 0, 0, 0) >= 0:  # PR_CAPBSET_READ
        number += 1
    return number


def drop_bounding_set(last: int) -> None:
    """Make it impossible to gain any capability by exec; those already held stay."""
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability of this thread: effective, permitted, inheritable and ambient."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_syscall(_number("capset"), header, bytes(24)), "capset")


class Filter:
    """A seccomp filter in the form the kernel takes: made once, installed in many forks."""

    __slots__ = ("_code", "_program")

    def __init__(self, program: bytes) -> None:
        """Take `program`, an array of `struct sock_filter`."""
        self._code = ctypes.create_string_buffer(program, len(program))
        self._program = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        """Install it; needs no_new_privs, or CAP_SYS_ADMIN in the own user namespace."""
        _checked(_syscall(_number("seccomp"), 1, 0, self._program), "seccomp")
