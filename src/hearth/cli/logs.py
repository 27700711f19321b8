"""`hearth logs`: what a function wrote, call by call."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from cyclopts import Parameter

from hearth.cli.client import Client, segment
from hearth.cli.options import LOCAL, Remote
from hearth.cli.render import printable
from hearth.errors import BadInput


def logs(
    name: str | None = None,
    /,
    *,
    id_: Annotated[str | None, Parameter(name="--id")] = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    tail: int = 20,
    remote: Remote = LOCAL,
) -> None:
    """Print what a function wrote to stdout and stderr.

    Args:
        name: of the function; not needed with --id.
        id_: only of this call.
        follow: go on printing until Ctrl-C.
        tail: how many of the last calls.
        remote: which node.
    """
    if id_ is not None:
        path, query = f"/invocations/{segment(id_)}/logs", {"follow": 1 if follow else None}
    elif name is not None:
        path = f"/functions/{segment(name)}/logs"
        query = {"tail": tail, "follow": 1 if follow else None}
    else:
        raise BadInput("name the function, or a call with --id")
    for line in Client(remote).lines(path, query=query):
        if remote.output == "json":
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(_shown(line), flush=True)


def _shown(line: dict[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    call = [line["id"]] if "id" in line else []  # in full: it is what --id takes
    return printable(f"{' '.join([clock, *call, line['stream']])}  {line['text'].rstrip()}")
