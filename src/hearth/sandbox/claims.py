"""What a host says about itself in JSON: read strictly, cut to what is worth keeping."""

from __future__ import annotations

from typing import Any

import msgspec

READY_BYTES = 1 << 10
ERROR_BYTES = 1 << 20
TYPE_CHARS = 200
MESSAGE_CHARS = 8 << 10
STACK_CHARS = 64 << 10


class ViolationError(Exception):
    """The host sent what it may not send now."""


class _Ready(msgspec.Struct):
    init_ns: int


class _HostError(msgspec.Struct):
    type: str
    message: str
    stack: str | None = None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_ready = msgspec.json.Decoder(_Ready).decode
_decode_error = msgspec.json.Decoder(_HostError).decode


def parse_ready(payload: bytes) -> int:
    """Return the nanoseconds that a READY claims.

    Raises:
        ViolationError: it is no such claim.
    """
    if len(payload) > READY_BYTES:
        raise ViolationError("READY with too much to say")
    try:
        init_ns = _decode_ready(payload).init_ns
    except _UNREADABLE:
        raise ViolationError("READY without a time") from None
    if init_ns < 0:
        raise ViolationError("READY with a negative time")
    return init_ns


def parse_error(payload: bytes) -> dict[str, Any]:
    """Return `type`, `message` and `stack` of an ERROR or INIT_FAILED.

    Raises:
        ViolationError: it is no description of an error, or far too long.
    """
    if len(payload) > ERROR_BYTES:
        raise ViolationError("error description too large")
    try:
        error = _decode_error(payload)
    except _UNREADABLE:
        raise ViolationError("error description is not understood") from None
    return {
        "type": error.type[:TYPE_CHARS],
        "message": error.message[:MESSAGE_CHARS],
        "stack": error.stack[-STACK_CHARS:] if error.stack else None,
    }
