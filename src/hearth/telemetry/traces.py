"""W3C trace context by hand: accept a `traceparent`, make one, pass a child on."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_HEADER = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)


class Trace(NamedTuple):
    """One position in a trace; ids are lower-case hex."""

    trace_id: str
    span_id: str
    sampled: bool = False

    def header(self) -> str:
        """Return the value of the `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Trace:
        """Return a new position below this one."""
        return self._replace(span_id=os.urandom(8).hex())


def parse(header: bytes) -> Trace | None:
    """Return what a `traceparent` says, or None if it is not one and a new trace must begin.

    A future version may carry more fields; only those known today are taken over.
    """
    match = _HEADER.fullmatch(header)
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    sampled = bool(int(match[4], 16) & 1)
    return Trace(match[2].decode(), match[3].decode(), sampled)


def start(*, sampled: bool = False) -> Trace:
    """Begin a new trace."""
    return Trace(os.urandom(16).hex(), os.urandom(8).hex(), sampled)
