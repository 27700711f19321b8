"""The host's end of the socket to the node: blocking, one syscall for a frame each way."""

from __future__ import annotations

import os
from os import read, write

from hearth_runtime.frames import Decoder

_READ_BYTES = 64 << 10
_JOIN_BYTES = 64 << 10
"""Up to here copying a tail behind its head is cheaper than a second syscall."""


class Closed(Exception):  # noqa: N818 - not an error: the node is done with this instance
    """The node closed the channel."""


class Channel:
    """Frames over one stream socket."""

    __slots__ = ("_feed", "_ready", "fd")

    def __init__(self, fd: int) -> None:
        """Use `fd`; neither programs started by user code nor its forked children inherit it."""
        os.set_inheritable(fd, False)
        os.set_blocking(fd, True)
        self.fd = fd
        _open.append(self)
        self._feed = Decoder().feed
        self._ready: list[tuple[int, int, int, bytes]] = []

    def receive(self) -> tuple[int, int, int, bytes]:
        """Return the next frame as (kind, flags, call, payload), waiting for it.

        Raises:
            Closed: the node is gone.
            FrameError: the node sent what is not a frame.
        """
        ready = self._ready
        while not ready:
            ready = self.receive_some()
            if len(ready) == 1:
                return ready[0]
            self._ready = ready
        return ready.pop(0)

    def receive_some(self) -> list[tuple[int, int, int, bytes]]:
        """Read once, waiting for bytes, and return the whole frames; raises as `receive`."""
        try:
            data = read(self.fd, _READ_BYTES)
        except ConnectionError:
            raise Closed from None
        if not data:
            raise Closed
        return self._feed(data)

    @property
    def ahead(self) -> bool:
        """Say whether a further frame is here already."""
        return bool(self._ready)

    def take_ready(self) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that were read but not yet received."""
        ready, self._ready = self._ready, []
        return ready

    def send(self, data: bytes, tail: bytes = b"") -> None:
        """Write both, waiting while the node does not read: that is the back-pressure.

        Raises:
            Closed: the node is gone.
        """
        if len(tail) <= _JOIN_BYTES:
            data, tail = data + tail, b""
        try:
            written = write(self.fd, data)
            if written < len(data):
                self._write_all(memoryview(data)[written:])
            if tail:
                self._write_all(memoryview(tail))
        except ConnectionError:
            raise Closed from None

    def close(self) -> None:
        """Close the socket: the rest of this process's life is not the node's to steer."""
        os.close(self.fd)
        self.fd = -1
        _open.remove(self)

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[write(self.fd, data) :]

    def _disown(self) -> None:
        """In a child forked by user code: a child that returns into the host reads EOF and ends."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self.fd, inheritable=False)
        os.close(null)


_open: list[Channel] = []


def _disown_all() -> None:
    for channel in _open:
        channel._disown()


os.register_at_fork(after_in_child=_disown_all)  # once: a handler is never forgotten
