r"""Answers as bytes: one head, joined with its body; streams as chunks.

A header block is `name: value\r\n` repeated; who hands one in has checked it. The opening of a
head (status line and Date) is made once per status and second.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

_REASONS = {status.value: status.phrase for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


def has_no_body(status: int) -> bool:
    """Say whether HTTP forbids a body with this status."""
    return status in {204, 304} or status < 200


def chunk(data: bytes) -> bytes:
    """Return one chunk of a streamed body; empty data would end the stream, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class Openings:
    """Status line and Date for every status, remade when the second changes."""

    __slots__ = ("_cache", "_date")

    def __init__(self, now: float) -> None:
        """Begin at Unix second `now`."""
        self._cache: dict[int, bytes] = {}
        self.tick(now)

    def tick(self, now: float) -> None:
        """Call about once a second."""
        self._date = formatdate(now, usegmt=True)
        self._cache.clear()

    def __getitem__(self, status: int) -> bytes:
        """Return the first two lines of a head."""
        opening = self._cache.get(status)
        if opening is None:
            reason = _REASONS.get(status, "")
            opening = f"HTTP/1.1 {status} {reason}\r\nDate: {self._date}\r\n".encode()
            self._cache[status] = opening
        return opening
