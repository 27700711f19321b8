"""Host uids of a node's sandboxes: nodes on one host must not hand out the same ones at once.

A node claims a slice of them by a file lock, which the kernel drops when its processes are dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

SLICE = 1 << 16
"""Uids of one node: two for each sandbox."""
_SLICES = 256
_LAST_UID = (1 << 32) - 2
DIRECTORY = "/run/hearth-uids"


class Slice:
    """Uids from `first` on that no other node of this host uses."""

    def __init__(self, first: int, path: str, lock: int) -> None:
        """Hold the lock `lock` on the file at `path`."""
        self.first = first
        self._path = path
        self._lock = lock

    def close(self) -> None:
        """Give them back."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
            os.rmdir(os.path.dirname(self._path))
        os.close(self._lock)


def claim(base: int, directory: str = DIRECTORY) -> Slice:
    """Claim the first free slice at or above `base`.

    Raises:
        OSError: none is free, or the directory of the locks cannot be written to.
    """
    for first in range(base, min(base + _SLICES * SLICE, _LAST_UID - SLICE), SLICE):
        path = f"{directory}/{first}"
        lock = _try_lock(path)
        if lock is not None:
            return Slice(first, path, lock)
    raise OSError(f"no free user ids from process.uid_base {base} on")


def _try_lock(path: str) -> int | None:
    """Lock the file at `path`, made if need be; None if somebody else holds it."""
    while True:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # another node has just removed the empty directory
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # given back between opening and locking
