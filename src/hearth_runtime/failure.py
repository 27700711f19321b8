"""From an exception of user code to what its caller may read."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    import traceback
    from types import TracebackType

_PLATFORM = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NOT_THE_USERS = (_PLATFORM, "<frozen importlib")
MAX_MESSAGE = 8 << 10
MAX_STACK = 64 << 10


def describe(error: BaseException) -> dict[str, str]:
    """Return `type`, `message` and `stack`, without frames of the platform and of bounded size."""
    try:
        message = str(error)
    except Exception:
        message = "<its message could not be formatted>"
    try:
        stack = _format(error)
    except Exception:
        stack = ""
    return {
        "type": type(error).__name__,
        "message": _printable(message[:MAX_MESSAGE]),
        "stack": _printable(stack[-MAX_STACK:]),
    }


def user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame of user code on."""
    while trace and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        trace = trace.tb_next
    return trace


def _format(error: BaseException) -> str:
    from traceback import TracebackException

    summary = TracebackException(type(error), error, error.__traceback__, compact=True)
    _strip(summary, seen=set())
    return "".join(summary.format())


def _strip(summary: traceback.TracebackException | None, *, seen: set[int]) -> None:
    """Leave out frames of this package and of the import machinery, in causes and groups too."""
    if summary is None or id(summary) in seen:
        return
    seen.add(id(summary))
    summary.stack[:] = [
        frame for frame in summary.stack if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    _strip(summary.__cause__, seen=seen)
    _strip(summary.__context__, seen=seen)
    for part in summary.exceptions or ():
        _strip(part, seen=seen)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
