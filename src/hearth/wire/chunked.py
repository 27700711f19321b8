"""The chunked transfer coding, strictly: what is not exactly RFC 9112 §7.1 ends the connection.

Extensions are skipped and trailers are checked and dropped, both inside `MAX_LINE_BYTES` and
`MAX_TRAILER_BYTES`. No bare LF, no whitespace before the size, no sign, no `0x`.
"""

from __future__ import annotations

import re

from hearth.errors import HeadersTooLarge, MalformedRequest

MAX_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8192
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class ChunkedDecoder:
    """Turns the bytes after a head into the body they carry, one request long."""

    __slots__ = ("_need_crlf", "_remaining", "_trailer_bytes", "_trailing", "complete")

    def __init__(self) -> None:
        """Expect a first chunk."""
        self.complete = False
        self._remaining = 0
        self._need_crlf = False
        self._trailing = False
        self._trailer_bytes = 0

    def decode(self, data: bytes) -> tuple[bytes, int]:
        """Return (body bytes found, how many bytes of `data` were consumed).

        Give what was not consumed again, with more behind it. Stops right behind the message.

        Raises:
            MalformedRequest: this is not the chunked coding.
            HeadersTooLarge: the trailers are.
        """
        pieces = []
        at = 0
        while not self.complete:
            if self._remaining:
                piece = data[at : at + self._remaining]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                self._need_crlf = not self._remaining
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._check_partial(len(data) - at)
                break
            if end == at or data[end - 1] != 13:
                raise MalformedRequest("a line of the chunked body ends without CR LF")
            self._line(data[at : end - 1])
            at = end + 1
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _line(self, line: bytes) -> None:
        if self._need_crlf:
            if line:
                raise MalformedRequest("a chunk is longer than its size says")
            self._need_crlf = False
        elif self._trailing:
            self._trailer(line)
        else:
            self._size(line)

    def _size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if not match or len(line) > MAX_LINE_BYTES:
            raise MalformedRequest("a chunk does not begin with its size in hex")
        self._remaining = int(match[1], 16)
        self._trailing = not self._remaining

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.complete = True
            return
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise HeadersTooLarge("the trailers are too large", limit=f"{MAX_TRAILER_BYTES} bytes")
        if not _TRAILER.fullmatch(line):
            raise MalformedRequest("a trailer is not a header line")

    def _check_partial(self, waiting: int) -> None:
        if self._need_crlf and waiting > 1:
            raise MalformedRequest("a chunk is longer than its size says")
        if waiting > (MAX_TRAILER_BYTES if self._trailing else MAX_LINE_BYTES):
            raise MalformedRequest("a line of the chunked body is too long")
