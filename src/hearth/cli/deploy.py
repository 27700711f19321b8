"""`hearth deploy`: pack a folder or a file, send it, say what has become of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from hearth.cli.client import Client, segment
from hearth.cli.functionfile import FILE, KEYS, read_function
from hearth.cli.options import LOCAL, Remote
from hearth.cli.pack import pack
from hearth.cli.progress import Progress
from hearth.cli.render import show_fields, show_json, warn
from hearth.errors import BadInput, NotFound

RUNTIMES = {".py": "python"}
"""Runtime of a lone source file that names none."""


def deploy(
    source: Path,
    /,
    *,
    name: str | None = None,
    runtime: str | None = None,
    handler: str | None = None,
    remote: Remote = LOCAL,
) -> None:
    """Deploy a folder (with its function.yaml), a source file, a zip or a tar.gz.

    A function of that name gets a new version, without a failed call; the same content again
    changes nothing.

    Args:
        source: folder or file.
        name: of the function; beats the file, default: the folder's or file's name.
        runtime: e.g. `python3.11`; beats the file.
        handler: `module.function` or `function`; beats the file.
        remote: which node.
    """
    given = {"name": name, "runtime": runtime, "handler": handler}
    with Progress() as progress:
        progress.phase("packing")
        declaration = _declaration(source, given)
        progress.phase("uploading, building and warming")
        answer, before = _send(Client(remote), declaration)
    if remote.output == "json":
        show_json(answer)
        return
    for warning in answer.get("warnings") or ():
        warn(warning)
    unchanged = before == answer["number"]
    show_fields(_summary(answer, remote.url, unchanged=unchanged))


def _declaration(source: Path, given: dict[str, str | None]) -> dict[str, Any]:
    if source.name == FILE:
        source = source.parent
    if not source.exists():
        raise BadInput(f"there is no file or folder {str(source)!r}")
    declared = read_function(source) if source.is_dir() else {}
    if declared:  # the file is the whole truth: what it does not say goes back to its default
        declared = {key: None for key in KEYS if key not in declared} | declared
    declared |= {key: value for key, value in given.items() if value is not None}
    declared["name"] = declared.get("name") or source.resolve().name.split(".")[0]
    declared["runtime"] = declared.get("runtime") or RUNTIMES.get(source.suffix, "python")
    code = pack(source) if source.is_dir() else _read(source)
    return declared | {"code": base64.b64encode(code).decode()}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _send(client: Client, declaration: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return what the node says of the function now, and the number of its version before."""
    path = f"/functions/{segment(str(declaration['name']))}"
    try:
        before = client.api("GET", path)["number"]
    except NotFound:
        return client.api("POST", "/functions", body=declaration), None
    return client.api("PUT", path, body=declaration), before


def _summary(answer: dict[str, Any], url: str, *, unchanged: bool) -> list[tuple[str, object]]:
    number, label = answer["number"], answer["label"]
    version = f"{number} ({label})" if label else str(number)
    return [
        ("name", answer["name"]),
        ("version", f"{version}, unchanged" if unchanged else version),
        ("contract", answer["contract"]),
        ("mode", answer["mode"]),
        ("url", url.rstrip("/") + answer["url"]),
    ]
