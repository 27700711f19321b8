"""A function's answer as a JSON value."""

from __future__ import annotations

import base64
from typing import Any

import msgspec


def result_of(headers: bytes, body: bytes) -> Any:
    """Return the answer parsed if it is JSON, else its text, else `{"base64": "…"}`.

    An empty answer is null. Headers are the function's block, names in lower case.
    """
    if not body:
        return None
    if _content_type(headers) in (b"", b"application/json"):
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # it said JSON, and is not: then it is text or bytes as it stands
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _content_type(headers: bytes) -> bytes:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""
