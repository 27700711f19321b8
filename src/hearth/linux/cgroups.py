"""Control groups of one node, whatever the kernel offers: one set of verbs, backends v2 and v1.

A node owns a directory `hearth-<token>` in each hierarchy and below it one group per sandbox. It
holds a file lock on each; the kernel drops the lock when its processes are dead, so
anyone can tell leftovers from the living without trusting process ids (`sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import time
from typing import NamedTuple, Protocol

PREFIX = "hearth-"
REQUIRED = ("memory", "cpu", "pids")
"""Controllers without which a sandbox is not limited as promised."""
_REMOVE_FOR_S = 2.0


class Limits(NamedTuple):
    """What a group may use."""

    memory: int
    """Bytes, without any swap."""
    pids: int
    cpu: float | None
    """Cores; None: only the weight."""

    @property
    def shares(self) -> float:
        """The weight: one share per 128 MiB of memory, as the specification has it."""
        return self.memory / (128 << 20)


class Measure(NamedTuple):
    """What a group has used; None where it cannot be told."""

    memory_peak: int | None = None
    cpu_ns: int | None = None
    oom_kills: int = 0


class Group(Protocol):
    """One sandbox's group."""

    def entrances(self) -> list[int]:
        """Open the files into which a single-threaded process writes "0" to move itself here.

        The move is left to the process because it can wait for milliseconds, see `tasks` in v1.
        """

    def birthplace(self) -> int | None:
        """Open the directory for a process to be born in, where that is possible (version 2).

        Who is born inside needs no entrance.
        """

    def limit(self, limits: Limits) -> None:
        """Set the limits; microseconds."""

    def oom_event(self) -> int | None:
        """Return an eventfd that counts out-of-memory conditions, where that is needed."""

    def measure(self) -> Measure:
        """Read the figures so far."""

    def memory_now(self) -> int | None:
        """Read the memory in use."""

    def kill(self) -> None:
        """Kill all members where the kernel can do that in one step."""

    def remove(self) -> bool:
        """Remove the group; False while something in it still ends."""


class Hierarchies(Protocol):
    """Where groups are made."""

    version: str
    """`v1`, `v2`."""
    roots: dict[str, str]
    """Controller to the directory below which this node may make groups."""

    def prepare(self, token: str) -> None:
        """Make the node's own directories ready for groups inside."""

    def group(self, token: str, name: str) -> Group:
        """Make a sandbox's group."""


class Node:
    """The groups of one node."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        """Nothing is made yet."""
        self.hierarchies = hierarchies
        self.token = ""
        self._locks: list[int] = []

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers that cannot be used here."""
        return tuple(name for name in (*REQUIRED, "io") if name not in self.hierarchies.roots)

    @property
    def directories(self) -> list[str]:
        """The distinct directories that hold `hearth-…` groups."""
        return list(dict.fromkeys(self.hierarchies.roots.values()))

    def open(self) -> None:
        """Claim directories of our own; `sweep` first."""
        while not self._claim():
            self.close()  # somebody swept between making and locking
        self.hierarchies.prepare(self.token)

    def _claim(self) -> bool:
        self.token = PREFIX + secrets.token_hex(4)
        for directory in self.directories:
            path = f"{directory}/{self.token}"
            os.mkdir(path, 0o755)
            lock = try_lock(path)
            if lock is None:
                return False
            self._locks.append(lock)
            if not os.path.isdir(path):
                return False
        return True

    def group(self, name: str) -> Group:
        """Make the group of a sandbox."""
        return self.hierarchies.group(self.token, name)

    def close(self) -> None:
        """Kill and remove everything of this node."""
        for directory in reversed(self.directories):
            _remove_tree(f"{directory}/{self.token}")
        while self._locks:
            os.close(self._locks.pop())


def sweep(directories: list[str]) -> list[str]:
    """Kill and remove what dead nodes left behind; return the names of what was removed.

    Each directory has a lock of its own, because two nodes may share one hierarchy and not another.
    """
    removed = set()
    for directory in directories:
        for name in _hearths(directory):
            lock = try_lock(f"{directory}/{name}")
            if lock is not None:
                _remove_tree(f"{directory}/{name}")
                os.close(lock)
                removed.add(name)
    return sorted(removed)


def write(path: str, text: str) -> None:
    """Write a control file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """Read a control file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def read_all(path: str) -> str:
    """Read a file of /proc of any length."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def read_number(path: str) -> int | None:
    """Read a number, None if the file is missing or says something else."""
    try:
        return int(read(path))
    except (OSError, ValueError):
        return None


def field(path: str, name: str) -> int | None:
    """Read `name` from a file of `name value` lines."""
    try:
        for line in read(path).splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return None


def remove_directory(path: str) -> bool:
    """Remove a group's directory; False while it is busy."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _hearths(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.startswith(PREFIX)]
    except OSError:
        return []


def try_lock(path: str) -> int | None:
    """Lock a directory; None if somebody else holds it or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _remove_tree(path: str) -> None:
    """Kill every member and remove the groups, deepest first, for at most two seconds."""
    until = time.monotonic() + _REMOVE_FOR_S
    for directory, _, _ in os.walk(path, topdown=False):
        while os.path.isdir(directory):
            for pid in _members(directory):
                _kill(pid)
            if remove_directory(directory) or time.monotonic() > until:
                break
            time.sleep(0.005)


def _members(directory: str) -> list[int]:
    try:
        return [int(pid) for pid in read(f"{directory}/cgroup.procs").split()]
    except (OSError, ValueError):
        return []


def _kill(pid: int) -> None:
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
