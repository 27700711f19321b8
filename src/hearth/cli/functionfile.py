"""`function.yaml`, the per-function format of the lightweight design (§4.2), checked before use.

Only what the file itself can get wrong is checked here: keys and the traps of YAML. Values are the
API's business, which checks them for every client.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hearth.config import Mapped, did_you_mean, read_yaml
from hearth.errors import BadInput

FILE = "function.yaml"
KEYS = (
    "name",
    "version",
    "runtime",
    "handler",
    "entry",
    "contract",
    "execution_mode",
    "isolation_level",
    "network",
    "timeout",
    "memory",
    "memory_mb",
    "cpu",
    "cpu_limit",
    "pids",
    "tmp",
    "tmp_size",
    "max_concurrency",
    "instance_concurrency",
    "queue_size",
    "queue_timeout",
    "environment",
    "dependencies",
    "image",
    "scale",
)
"""What `POST /functions` takes, without `code`."""


def read_function(folder: Path) -> dict[str, Any]:
    """Return what the `function.yaml` in `folder` declares; nothing if there is none.

    Raises:
        BadInput: an unknown key, or a value that YAML has made into something else.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    root = read_yaml(str(path))
    _only(root, ("function",), "", str(path))
    function = root.get("function")
    if not isinstance(function, Mapped):
        raise BadInput(f"{path}: write the keys indented below `function:`")
    _only(function, KEYS, "function.", str(path))
    _check_text(function, str(path))
    return dict(function)


def _only(mapping: Mapped, known: tuple[str, ...], prefix: str, path: str) -> None:
    for key, line in mapping.lines.items():
        if key not in known:
            hint = did_you_mean(key, known)
            if not prefix and key in KEYS:
                hint = "; write the keys indented below `function:`"
            raise BadInput(f"unknown key {prefix}{key} ({path}, line {line}){hint}")


def _check_text(function: Mapped, path: str) -> None:
    for key in ("name", "version", "runtime", "handler", "entry", "image"):
        if key in function and not isinstance(function[key], str):
            _refuse(f"function.{key}", function[key], f"{path}, line {function.lines[key]}")
    environment = function.get("environment")
    if isinstance(environment, Mapped):
        for name, value in environment.items():
            if not isinstance(value, str):
                place = f"{path}, line {environment.lines[name]}"
                _refuse(f"function.environment.{name}", value, place)


def _refuse(key: str, value: object, place: str) -> None:
    raise BadInput(f"{key} ({place}) is {value!r} to YAML, not text: write it in quotes")
