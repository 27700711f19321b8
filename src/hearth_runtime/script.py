"""Contract `script`: this process becomes the user's program, for one call.

Payload: the request body as received (`{}` when empty), always on stdin, and in the variable
`FUNCTION_PAYLOAD` up to 100 KiB; above, or with a NUL byte in it, the variable is not set and
`FUNCTION_PAYLOAD_FILE` names a file with it. What the program writes to stdout is its result.

The program sees what `python entry.py` would give it: `__main__`, `sys.argv`, its own folder first
on the path, tracebacks on stderr, atexit handlers, non-daemon threads waited for, exit codes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` costs enum and 3 ms
import atexit
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from hearth_runtime.failure import user_frames
from hearth_runtime.loading import dress_interpreter
from hearth_runtime.output import flush_all
from hearth_runtime.request import Request

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from hearth_runtime.channel import Channel
    from hearth_runtime.loading import Init

MAX_VARIABLE = 100 << 10


def run_script(init: Init, channel: Channel, payload: bytes) -> int:
    """Become the program for the CALL `payload` and return its exit code.

    Raises:
        FrameError: the payload is not that of a CALL.
    """
    request = Request(payload, init.function, init.version)
    os.environ["HEARTH_CALL_ID"] = request.id
    _provide(request.body or b"{}")
    channel.close()
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    path = os.path.join(init.root, init.entry)
    dress_interpreter(path, search=os.path.dirname(path))
    code = _run_main(path)
    return _finish(code)


def exit_code(end: SystemExit) -> int:
    """Return the exit code by CPython's rules; a text is printed to stderr and counts as 1."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201 - what CPython does with `sys.exit("text")`
    return 1


def _provide(body: bytes) -> None:
    stdin = os.memfd_create("payload")
    _write_all(stdin, body)
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.close(stdin)
    for name in ("FUNCTION_PAYLOAD", "FUNCTION_PAYLOAD_FILE"):
        os.environ.pop(name, None)  # the user's, if any
    if len(body) <= MAX_VARIABLE and b"\0" not in body:
        os.environb[b"FUNCTION_PAYLOAD"] = body
        return
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"payload-{os.getpid()}")  # noqa: S108 - the sandbox's private one
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _write_all(file, body)
    os.close(file)
    os.environ["FUNCTION_PAYLOAD_FILE"] = path


def _write_all(fd: int, body: bytes) -> None:
    data = memoryview(body)
    while data:
        data = data[os.write(fd, data) :]


def _run_main(path: str) -> int:
    main = ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = main
    try:
        code = SourceFileLoader("__main__", path).get_code("__main__")  # bytecode made at deploy
        exec(code, main.__dict__)  # type: ignore[arg-type] # noqa: S102 - None only for builtins
    except SystemExit as end:
        return exit_code(end)
    except BaseException as error:
        error.__traceback__ = user_frames(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return -_signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _finish(code: int) -> int:
    """End as the interpreter does: threads, atexit handlers, objects of `__main__`, buffers."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()  # e.g. a file of its own over stdout is flushed
    flush_all()
    if code == -_signal.SIGINT:  # an uncaught KeyboardInterrupt ends by the signal
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    return code
