"""The one form in which errors of the platform travel."""

from __future__ import annotations

import math

import msgspec

from hearth.errors import HearthError, MethodNotAllowed

_encode = msgspec.json.Encoder().encode


def problem(error: HearthError, request_id: str, *, show_stack: bool = False) -> bytes:
    """Return `{"error": {"type", "message", "component", …, "request_id"}}`.

    Args:
        error: what went wrong.
        request_id: the `X-Call-Id` of the answer.
        show_stack: the caller may see the function's own stack (never the platform's).
    """
    body = {"type": error.type, "message": error.message, "component": error.component}
    if error.limit is not None:
        body["limit"] = error.limit
    if error.path is not None:
        body["path"] = error.path
    if show_stack and error.stack:
        body["stack"] = error.stack
    body["request_id"] = request_id
    return _encode({"error": body})


def problem_headers(error: HearthError) -> bytes:
    """Return the header block that belongs to it."""
    block = b"Content-Type: application/json\r\n"
    wait = error.retry_after_s
    if wait is None and error.status in {429, 503}:
        wait = 1.0
    if wait is not None:
        block += b"Retry-After: %d\r\n" % max(1, math.ceil(wait))
    if error.status == 401:
        block += b'WWW-Authenticate: Bearer realm="hearth"\r\n'
    if isinstance(error, MethodNotAllowed):
        block += b"Allow: %b\r\n" % error.allow.encode()
    return block
