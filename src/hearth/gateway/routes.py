"""Which part of the node a request is for, and which scope that takes.

Nothing here looks anything up: that a function does not exist is only told to callers who may know.
"""

from __future__ import annotations

from hearth.model import Scope

FUNCTION = b"/function/"
ASYNC_FUNCTION = b"/async-function/"
OPEN_PATHS = frozenset((b"/healthz", b"/readyz"))
_INVOCATION = b"/invocations/"


def split_function(path: bytes, prefix: bytes) -> tuple[str, bytes]:
    """Return (name, path that the function sees) of a decoded path that begins with `prefix`."""
    start = len(prefix)
    slash = path.find(b"/", start)
    if slash < 0:
        return path[start:].decode(), b"/"
    return path[start:slash].decode(), path[slash:]


def control_scope(method: bytes, path: bytes) -> Scope | None:
    """Return what a control route takes; None: open to everybody.

    Whoever may invoke may also look at an invocation by its id, which cannot be guessed. All
    else, known or not, is for administrators, so that a new route is closed until it is opened.
    """
    if path in OPEN_PATHS and method in {b"GET", b"HEAD"}:
        return None
    if path == b"/invoke" and method == b"POST":
        return "invoke"
    if path.startswith(_INVOCATION) and method in {b"GET", b"HEAD"}:
        invocation_id = path[len(_INVOCATION) :]
        if invocation_id and b"/" not in invocation_id:
            return "invoke"
    return "admin"
