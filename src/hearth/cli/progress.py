"""Says on stderr what is being waited for, once it takes more than a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

PATIENCE_S = 1.0
"""Whoever waits less than this is told nothing."""
_REDRAW_S = 0.2


class Progress:
    """Shows the current phase: one line redrawn on a terminal, a line for each phase elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """Watch from `__enter__` on; `stream` is stderr unless given."""
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._patience_s = patience_s
        self._phase, self._shown, self._width = "", "", 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._live and self._width:
            self._write("\r" + " " * self._width + "\r")

    def phase(self, text: str) -> None:
        """Name what is being done from now on."""
        self._phase = text

    def _watch(self) -> None:
        if self._done.wait(self._patience_s):
            return
        self._draw()
        while not self._done.wait(_REDRAW_S):
            self._draw()

    def _draw(self) -> None:
        elapsed = int(time.monotonic() - self._started)
        if self._live:
            line = f"{self._phase} … {elapsed} s"
            self._width = max(self._width, len(line))
            self._write("\r" + line.ljust(self._width))
        elif self._phase != self._shown:
            self._shown = self._phase
            self._write(f"{self._phase} …\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
