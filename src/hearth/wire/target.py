"""Request targets: which path is meant, once and for all.

A path is decoded exactly once, and routing, authorisation and the function all see that result.
So `%2F` is a slash for everybody. Whatever another party on the way could read differently is
refused instead of repaired: dot segments, NUL and control characters, bytes that are not UTF-8,
broken escapes, fragments, backslashes in disguise of slashes stay literal.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from hearth.errors import MalformedRequest

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?:/|\Z)")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def split_target(target: bytes, method: bytes, host: bytes | None) -> tuple[bytes, bytes, bytes]:
    """Return (decoded path, raw path, raw query) of a request target.

    Origin form is the rule. Absolute form (as sent to a proxy) is taken if it names the same
    authority as `host`; asterisk form belongs to OPTIONS and comes back as the path `*`.

    Raises:
        MalformedRequest: the target has no single meaning.
    """
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return b"*", b"*", b""
        target = _from_absolute(target, host)
    if b"#" in target:
        raise MalformedRequest("a request target has no fragment (#)")
    raw, _, query = target.partition(b"?")
    path = _decode(raw) if b"%" in raw else raw
    if b"/." in path and _DOT_SEGMENT.search(path):
        raise MalformedRequest("the path has a `.` or `..` segment; resolve it before sending")
    return path, raw, query


def _from_absolute(target: bytes, host: bytes | None) -> bytes:
    match = _ABSOLUTE.fullmatch(target)
    if not match:
        raise MalformedRequest("the request target must begin with `/`")
    if host is None or match[1].lower() != host.lower():
        raise MalformedRequest("the target's authority and the Host header differ")
    rest: bytes = match[2]
    return rest if rest.startswith(b"/") else b"/" + rest


def _decode(raw: bytes) -> bytes:
    if _BROKEN_ESCAPE.search(raw):
        raise MalformedRequest("the path has a broken percent escape")
    path = unquote_to_bytes(raw)
    if _CONTROL.search(path):
        raise MalformedRequest("the path has an encoded control character")
    try:
        path.decode()
    except UnicodeDecodeError:
        raise MalformedRequest("the path is not UTF-8") from None
    return path
