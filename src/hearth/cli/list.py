"""`hearth list`: what is deployed."""

from __future__ import annotations

from hearth.cli.client import Client
from hearth.cli.options import LOCAL, Remote
from hearth.cli.render import moment, show_json, show_table


def list_functions(*, remote: Remote = LOCAL) -> None:
    """List the functions of a node.

    Args:
        remote: which node.
    """
    answer = Client(remote).ask("GET", "/functions")
    if remote.output == "json":
        show_json(answer)
        return
    rows = [
        (
            function["name"],
            function["version"],
            function["runtime"],
            function["contract"],
            function["mode"],
            sum(function["instances"].values()),
            moment(function["updated_at"]),
        )
        for function in answer["functions"]
    ]
    headers = ("NAME", "VERSION", "RUNTIME", "CONTRACT", "MODE", "INSTANCES", "UPDATED")
    show_table(headers, rows, empty="no functions yet: hearth new NAME, then hearth deploy NAME")
