"""What this host can run: a runtime's many names, and the one toolchain behind them."""

from __future__ import annotations

import platform
import re
import sys

from hearth.errors import DeployFailed

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
"""The toolchain of this node, e.g. `python3.11`."""

_FULL = platform.python_version()
_ALIASES = frozenset(
    {"python", f"python{sys.version_info[0]}", PYTHON, f"python{_FULL}", PYTHON.replace(".", "")}
)
_PYTHON_LIKE = re.compile(r"python[\d.]*", re.IGNORECASE)


def available() -> tuple[str, ...]:
    """Return the names that `resolve` takes, longest list first to read well in a message."""
    return tuple(sorted(_ALIASES, key=len))


def resolve(name: str) -> str:
    """Return the toolchain for a runtime name, e.g. `python3.11` for `python`, `python3`.

    A version must be the one this node has: a function is never run on another than it asked for.

    Raises:
        DeployFailed: there is no such runtime here; the message names what there is.
    """
    wanted = name.strip().lower().replace(":", "").replace("-", "")
    if wanted in _ALIASES:
        return PYTHON
    have = ", ".join(available())
    if _PYTHON_LIKE.fullmatch(wanted):
        raise DeployFailed(
            f"runtime {name!r} is not on this node, which has Python {_FULL}; use one of: {have}",
            path="$.runtime",
        )
    raise DeployFailed(
        f"runtime {name!r} is not supported yet; this node has: {have}", path="$.runtime"
    )
