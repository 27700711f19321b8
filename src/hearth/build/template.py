"""The node's end of the process that builds are forked from.

Starting Python and importing archive readers and a parser costs more than building a small
function, so one process does that once, and every build is a fork of it. It begins with the first
build and ends after a minute without one, or with the node.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from hearth_runtime import packets

_END_S = 10.0


class Template:
    """Orders builds; may be used from several threads at once."""

    def __init__(self) -> None:
        """Start nothing before the first build."""
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def build(self, job: dict[str, Any], folder: Path, code_fd: int | None) -> bytes:
        """Have `job` done in `folder` and return the answer; empty if the build died without one.

        Args:
            job: see `hearth.build.worker`.
            folder: becomes the working directory.
            code_fd: the code as a file; None where there is nothing to unpack.
        """
        answer, out = os.pipe2(os.O_CLOEXEC)
        fds = [out, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            self._order(job, (*fds, *([] if code_fd is None else [code_fd])))
        except BaseException:
            os.close(answer)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        with os.fdopen(answer, "rb") as pipe:
            return pipe.read()

    def close(self) -> None:
        """End the process; builds under way are lost."""
        with self._lock:
            self._end()

    def _order(self, job: dict[str, Any], fds: tuple[int, ...]) -> None:
        with self._lock:
            if self._sock is not None:
                with contextlib.suppress(OSError):  # it has ended: a new one is needed
                    packets.send(self._sock, job, fds)
                    return
            self._end()
            packets.send(self._start(), job, fds)

    def _start(self) -> socket.socket:
        self._sock, theirs = packets.pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "hearth.build.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd="/",
                stdin=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # a Ctrl-C of the terminal is for the node
            )
        return self._sock

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
