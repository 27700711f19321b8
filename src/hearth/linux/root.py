"""The template root: the read-only file tree that every sandbox of a zygote sees.

Nothing of the host is in it but the system directories, the interpreter, the runtime package and
a handful of files of /etc. It is a tmpfs with read-only binds; sandboxes inherit it by mount
namespace and only add their own /proc, /tmp, /dev/shm and /app/function.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import NamedTuple

from hearth_runtime import syscalls

PREFIX = "/opt/python"
RUNTIME = "/opt/hearth"

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ETC_BINDS = (
    "ld.so.cache",
    "localtime",
    "alternatives",
    "mime.types",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "ca-certificates/extracted",
)
_ETC_FILES = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:1000:1000:function:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": "root:x:0:\nfunction:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class Interpreter(NamedTuple):
    """How the Python of this host is run inside."""

    host_prefix: str
    executable: str
    """Path inside the root."""
    environment: dict[str, str]

    @classmethod
    def of_this_process(cls) -> Interpreter:
        """Describe the interpreter that runs now, with any virtual environment seen through."""
        prefix = os.path.realpath(sys.base_prefix)
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        if prefix == "/usr":
            return cls(prefix, f"/usr/bin/{version}", {})
        return cls(prefix, f"{PREFIX}/bin/{version}", {"LD_LIBRARY_PATH": f"{PREFIX}/lib"})


def enter(root: str, interpreter: Interpreter, runtime: str, *, with_host: bool = False) -> None:
    """Build the tree at the directory `root` and make it this process's root.

    Needs a mount namespace of its own with private propagation, and CAP_SYS_ADMIN over it.
    `runtime` is the directory of the package `hearth_runtime`. `with_host` is for tests that need
    something to escape to: it shows the host's whole tree at /host.
    """
    binds = _system_binds(interpreter, runtime)
    if with_host:
        binds.append(("host", syscalls.open_tree("/", recursive=True)))
    syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NOSUID, "size=4m,nr_inodes=4k,mode=755")
    for directory in ("proc", "tmp", "app/function", "run", "dev/shm", "etc", "var/tmp"):
        os.makedirs(f"{root}/{directory}")
    _write_etc(root)
    _link_system(root, interpreter)
    for target, fd in binds:
        _attach(fd, f"{root}/{target}")
    for link, to in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        os.symlink(to, f"{root}/dev/{link}")
    syscalls.mount(
        "proc", f"{root}/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    )
    _pivot(root)


def _system_binds(interpreter: Interpreter, runtime: str) -> list[tuple[str, int]]:
    """Clone every mount that is wanted, before `root` could hide one of the sources."""
    wanted = [
        (name, f"/{name}")
        for name in _SYSTEM
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")
    ]
    wanted += [
        (f"etc/{name}", f"/etc/{name}") for name in _ETC_BINDS if os.path.exists(f"/etc/{name}")
    ]
    wanted.append((f"{RUNTIME.lstrip('/')}/hearth_runtime", runtime))
    if interpreter.host_prefix != "/usr":
        wanted.append((PREFIX.lstrip("/"), interpreter.host_prefix))
    binds = []
    for target, source in wanted:
        fd = syscalls.open_tree(source, recursive=True)
        syscalls.mount_setattr(fd, _READ_ONLY, recursive=True)
        binds.append((target, fd))
    for name in _DEVICES:
        fd = syscalls.open_tree(f"/dev/{name}")
        # Read-only is about the node in the file system; the device itself is still written to.
        attributes = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
        syscalls.mount_setattr(fd, attributes | syscalls.MOUNT_ATTR_NOEXEC)
        binds.append((f"dev/{name}", fd))
    return binds


def _attach(fd: int, target: str) -> None:
    """Attach a cloned mount, making the directory or empty file it covers."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    syscalls.move_mount(fd, target)
    os.close(fd)


def _write_etc(root: str) -> None:
    for name, text in _ETC_FILES.items():
        with open(f"{root}/etc/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    if os.path.exists("/etc/resolv.conf"):
        with (
            open("/etc/resolv.conf", "rb") as source,
            open(f"{root}/etc/resolv.conf", "wb") as file,
        ):
            file.write(source.read(65536))


def _link_system(root: str, interpreter: Interpreter) -> None:
    """Repeat the host's merged-usr links, and let the interpreter's own path lead to where it is.

    Its binaries may carry a run path and its scripts a shebang with the host's prefix.
    """
    for name in _SYSTEM:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
    if interpreter.host_prefix not in ("/usr", PREFIX) and not interpreter.host_prefix.startswith(
        "/usr/"
    ):
        link = f"{root}{interpreter.host_prefix}"
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(PREFIX, link)


def _pivot(root: str) -> None:
    """Make `root` the root and let go of the host's tree; the zygote makes the root read-only."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".")
    os.chdir("/")
