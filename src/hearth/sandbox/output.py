"""The node's ends of one instance's stdout and stderr pipes."""

from __future__ import annotations

import contextlib
import os
import sys
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hearth.sandbox.base import Stream

READ_BYTES = 64 << 10
END_READS = 64
"""The same after the end, when at most a pipe's content is left."""
FREE_BYTES = 1 << 20
"""Output up to this is read as fast as it comes; beyond it one read per `SLOW_S`."""
SLOW_S = 0.02


class OutputPipes:
    """Reads both pipes whenever something is in them and passes it on.

    They are read while a call runs, not only at its end: a pipe holds 64 KiB, and a function that
    writes more must not hang. One that floods is slowed down by its own full pipe: beyond
    `FREE_BYTES` it gets about 3 MB/s, so that it cannot take the node's time.
    """

    __slots__ = ("_before", "_fds", "_loop", "_slow", "_take", "_taken")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stdout_fd: int,
        stderr_fd: int,
        take: Callable[[Stream, bytes], None],
        *,
        before: Callable[[], None],
    ) -> None:
        """Own both descriptors; nothing is read before `open`.

        Args:
            loop: listens.
            stdout_fd: read end of a pipe.
            stderr_fd: likewise.
            take: is given what was written.
            before: called before something is read because it has arrived.
        """
        self._before = before
        self._loop = loop
        self._fds: dict[int, Stream] = {stdout_fd: "stdout", stderr_fd: "stderr"}
        self._take = take
        self._taken = 0
        self._slow: dict[int, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Begin to listen."""
        for fd in self._fds:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._readable, fd)

    def drain(self, *, to_end: bool = False) -> None:
        """Pass on what is in the pipes now, and nothing that comes while they are read.

        A host with a further call waits until both pipes are empty, and may write for that call as
        soon as the last byte is taken.

        Args:
            to_end: the writers are gone; read everything there is.
        """
        self._taken = 0
        if to_end:
            for fd in list(self._fds):
                for _ in range(END_READS):
                    if not self._read(fd):
                        break
            return
        for fd, held in [(fd, _waiting(fd)) for fd in self._fds]:
            for at in range(0, held, READ_BYTES):
                self._read(fd, held - at)

    def close(self) -> None:
        """Stop listening and close both ends."""
        for fd in list(self._fds):
            self._shut(fd)

    def _readable(self, fd: int) -> None:
        self._before()
        self._read(fd)
        if self._taken > FREE_BYTES and fd in self._fds:
            self._loop.remove_reader(fd)
            self._slow[fd] = self._loop.call_later(SLOW_S, self._listen_again, fd)

    def _listen_again(self, fd: int) -> None:
        del self._slow[fd]
        self._loop.add_reader(fd, self._readable, fd)

    def _read(self, fd: int, limit: int = READ_BYTES) -> bool:
        """Read once; False when there is nothing more for now or for ever."""
        if fd not in self._fds:
            return False
        try:
            data = os.read(fd, min(limit, READ_BYTES))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._shut(fd)
            return False
        self._taken += len(data)
        self._take(self._fds[fd], data)
        return True

    def _shut(self, fd: int) -> None:
        if self._fds.pop(fd, None) is None:
            return
        timer = self._slow.pop(fd, None)
        if timer is not None:
            timer.cancel()
        self._loop.remove_reader(fd)
        with contextlib.suppress(OSError):
            os.close(fd)


def _waiting(fd: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)
