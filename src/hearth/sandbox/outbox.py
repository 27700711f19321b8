"""Bytes on their way to an instance, as fast as its socket takes them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket


class Outbox:
    """Sends at once where it can and keeps the rest until the socket is writable again.

    It needs no bound of its own: an instance is only sent the calls it has room for.
    """

    __slots__ = ("_closed", "_fd", "_loop", "_send", "_unsent")

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: socket.socket) -> None:
        """Send to the non-blocking socket `channel`."""
        self._loop = loop
        self._fd = channel.fileno()
        self._send = channel.send
        self._unsent: deque[memoryview] = deque()
        self._closed = False

    def send(self, data: bytes) -> None:
        """Send `data` after everything before it; dropped once the peer or this side has closed."""
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        if self._closed:
            return
        try:
            sent = self._send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # the peer is going; its end is reported elsewhere
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._loop.add_writer(self._fd, self._writable)

    def close(self) -> None:
        """Drop what is unsent, and whatever is given from now on."""
        self._closed = True
        self._unsent.clear()
        self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._send(unsent[0])
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    return
                unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            unsent.clear()
        self._loop.remove_writer(self._fd)
