r"""The header block that a function answers with, before any of it reaches a client.

The block is `name: value\r\n` repeated, as in `hearth_runtime.frames`. The function's process may
have forged it, so each line is checked; headers that belong to the connection or to the platform
are dropped. Functions answer with a handful of different blocks, so verdicts are remembered.
"""

from __future__ import annotations

import re

MAX_BLOCK_BYTES = 64 << 10
MAX_LINES = 100
_REMEMBERED = 1024
_REMEMBERED_BYTES = 512

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_DROPPED = frozenset(
    (
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-call-id",
        b"x-cold-start",
        b"x-duration-seconds",
        b"x-start-time",
    )
)

_clean: dict[bytes, bytes] = {b"": b""}


class BadHeadersError(ValueError):
    """The block is not a header block."""


def clean_block(block: bytes) -> bytes:
    """Return `block` with lower-case names and without the headers a function may not set.

    Raises:
        BadHeadersError: a line is no header, or the block is too large.
    """
    known = _clean.get(block)
    if known is not None:
        return known
    cleaned = _check(block)
    if len(block) <= _REMEMBERED_BYTES:
        if len(_clean) >= _REMEMBERED:
            _clean.clear()  # a function that varies its headers only costs others a new check
            _clean[b""] = b""
        _clean[block] = cleaned
    return cleaned


def _check(block: bytes) -> bytes:
    if len(block) > MAX_BLOCK_BYTES or not block.endswith(b"\r\n"):
        raise BadHeadersError("header block is too large or does not end with a line's end")
    lines = block[:-2].split(b"\r\n")
    if len(lines) > MAX_LINES:
        raise BadHeadersError(f"more than {MAX_LINES} headers")
    kept = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadHeadersError(f"{line[:80]!r} is not a header")
        name = match[1].lower()
        if name not in _DROPPED:
            kept.append(b"%b: %b\r\n" % (name, match[2].rstrip(b" \t")))
    return b"".join(kept)
