"""stdout, stderr and logging of user code: nothing is lost in a crash, each byte has its call.

The streams write through at each line: what a function printed is in the pipe when it dies. When a
call ends, `settle` flushes what is left and tells whether the pipes hold anything, no matter who
wrote it: Python, C code or a child process.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import time
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD

from hearth_runtime.frames import OUTPUT

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_EMPTY = bytes(4)
_taken: list[Output] = []
_DRAIN_POLL_S = 0.00005


class Output:
    """The standard streams of this process."""

    __slots__ = ("_flush_stderr", "_flush_stdout", "_stderr", "_stdout")

    def __init__(self) -> None:
        """Take over `sys.stdout` and `sys.stderr`; a fatal signal leaves its stack on stderr."""
        # Error handlers as in CPython under LANG=C.UTF-8.
        self._stdout = _open(1, "w", name="<stdout>", errors="surrogateescape")
        self._stderr = _open(2, "w", name="<stderr>", errors="backslashreplace")
        stdin = _open(0, "r", name="<stdin>", errors="surrogateescape")
        streams = {"stdin": stdin, "stdout": self._stdout, "stderr": self._stderr}
        vars(sys).update(streams | {f"__{name}__": stream for name, stream in streams.items()})
        self._flush_stdout: Callable[[], object] = self._stdout.flush
        self._flush_stderr: Callable[[], object] = self._stderr.flush
        faulthandler.enable(self._stderr)

    def settle(self) -> int:
        """Flush, and return the flag OUTPUT if stdout or stderr hold something to be read."""
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            _flush(sys.stdout)
            _flush(sys.stderr)
        try:
            self._flush_stdout()
            self._flush_stderr()
            empty = ioctl(1, FIONREAD, _EMPTY) == _EMPTY == ioctl(2, FIONREAD, _EMPTY)
        except (OSError, ValueError):  # user code closed or redirected them
            empty = False
        return 0 if empty else OUTPUT

    def await_drained(self) -> None:
        """Wait until the node has read what is in the pipes.

        Calls that were sent ahead follow each other without the node in between, and it can tell
        whose output it reads only by when it reads it.
        """
        with suppress(OSError):  # user code closed them
            while ioctl(1, FIONREAD, _EMPTY) != _EMPTY or ioctl(2, FIONREAD, _EMPTY) != _EMPTY:
                time.sleep(_DRAIN_POLL_S)


def take_over() -> Output:
    """Return the one `Output` of this process; a fork of the zygote finds it made."""
    if not _taken:
        _taken.append(Output())
    return _taken[0]


def flush_all() -> None:
    """Flush the standard streams as they are now; for the end of the process."""
    _flush(sys.stdout)
    _flush(sys.stderr)


def configure_logging() -> None:
    """Send `logging` to the live `sys.stderr`, now or when it is imported.

    The level is `HEARTH_LOG_LEVEL` (default INFO).
    """
    if "logging" in sys.modules:
        _configure(sys.modules["logging"])
    elif _logging_import not in sys.meta_path:
        sys.meta_path.insert(0, _logging_import)


def _open(fd: int, mode: str, *, name: str, errors: str) -> io.TextIOWrapper:
    raw: Any = io.FileIO(fd, mode, closefd=False)
    raw.name = name  # as CPython itself names its standard streams
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream: Any = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=True)
    stream.mode = mode
    return stream  # type: ignore[no-any-return] # Any only to set the two attributes


def _flush(stream: Any) -> None:
    with suppress(Exception):  # the user's object: whatever it does, the call is over
        stream.flush()


class _LoggingImport:
    """Configures `logging` right after user code imports it; costs nothing to those who do not."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != "logging":
            return None
        sys.meta_path.remove(_logging_import)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_configure(module: Any) -> None:
            execute(module)
            _configure(module)

        loader.exec_module = execute_and_configure
        return spec


_logging_import: Any = _LoggingImport()  # Any: `find_spec` is all that an import finder needs


def _configure(logging: Any) -> None:
    # The handler of last resort rather than one on the root logger: it writes to the live
    # sys.stderr, and the user's own `basicConfig` still takes effect.
    handler, root = getattr(logging, "lastResort", None), getattr(logging, "root", None)
    if handler is None or root is None:
        return  # not the standard library's
    handler.setLevel(logging.NOTSET)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    try:
        root.setLevel(os.environ.get("HEARTH_LOG_LEVEL", "INFO").upper())
    except ValueError:
        root.setLevel(logging.INFO)
