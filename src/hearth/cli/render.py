"""What people and programs read: tables on a terminal, plain lines in a pipe, JSON on request."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

# A function's logs, answers and errors are its author's text: it must not drive the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text` with the characters replaced that could command a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def show_json(data: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def show_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str | None = None
) -> None:
    """Print rows under headers; with colours and lines only on a terminal.

    Without any row, `empty` is said on stderr.
    """
    cells = [[printable("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not cells and empty:
        print(empty, file=sys.stderr)
    if sys.stdout.isatty():
        _rich_table(headers, cells)
        return
    table = [list(headers), *cells]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print one `name  value` line for each field that is not None."""
    known = [(name, printable(str(value))) for name, value in fields if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        first, *rest = value.splitlines() or [""]
        print(f"{name.ljust(width)}  {first}".rstrip())
        for line in rest:
            print(" " * (width + 2) + line)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr)


def milliseconds(nanoseconds: int | None) -> str:
    """Return e.g. `1.25 ms`; a dash for what was not measured."""
    return "-" if nanoseconds is None else f"{nanoseconds / 1e6:.2f} ms"


def size(count: int | None) -> str:
    """Return e.g. `12.5 MiB`; a dash for what was not measured."""
    if count is None:
        return "-"
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"


def moment(unix: float | None) -> str:
    """Return a local date and time; a dash for what has not happened."""
    return "-" if unix is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def _rich_table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
