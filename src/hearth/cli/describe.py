"""`hearth describe`: everything known about one function."""

from __future__ import annotations

import json
from typing import Any

from hearth.cli.client import Client, segment
from hearth.cli.options import LOCAL, Remote
from hearth.cli.render import moment, show_fields, show_json


def describe(name: str, /, *, remote: Remote = LOCAL) -> None:
    """Show a function: its version, limits, why it runs as it does, and what has no effect yet.

    Args:
        name: name or id of the function.
        remote: which node.
    """
    answer = Client(remote).ask("GET", f"/functions/{segment(name)}")
    if remote.output == "json":
        show_json(answer)
        return
    versions = [_version(version) for version in answer["versions"]]
    times = {key: moment(answer[key]) for key in ("created_at", "updated_at")}
    shown = answer | times | {"versions": versions}
    show_fields((key, _shown(value)) for key, value in _flat(shown))


def _flat(answer: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in answer.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def _shown(value: Any) -> str | None:
    if value is None or value in ([], {}, ""):
        return None
    if isinstance(value, list):
        return "\n".join(v if isinstance(v, str) else json.dumps(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value)


def _version(version: dict[str, Any]) -> str:
    words = [str(version["number"]), version["label"], moment(version["created_at"])]
    return "  ".join(filter(None, words))
