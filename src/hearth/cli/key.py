"""`hearth key`: who may call this node."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from hearth.cli.client import Client, segment
from hearth.cli.options import LOCAL, Remote
from hearth.cli.render import moment, show_json, show_table

app = App(name="key", help="Create, list and remove API keys.")


@app.command
def create(
    name: str,
    /,
    *,
    scope: Annotated[tuple[Literal["invoke", "admin"], ...], Parameter(negative=())] = ("invoke",),
    remote: Remote = LOCAL,
) -> None:
    """Create an API key and print its secret, this once.

    Args:
        name: for people to recognise it by.
        scope: `invoke` may call functions, `admin` everything; give the option twice for both.
        remote: which node.
    """
    answer = Client(remote).ask("POST", "/keys", body={"name": name, "scopes": list(scope)})
    if remote.output == "json":
        show_json(answer)
        return
    print(answer["secret"])
    print("it is not shown again; to use it: export HEARTH_KEY=…", file=sys.stderr)


@app.command(name="list")
def list_keys(*, remote: Remote = LOCAL) -> None:
    """List the API keys, without their secrets.

    Args:
        remote: which node.
    """
    answer = Client(remote).ask("GET", "/keys")
    if remote.output == "json":
        show_json(answer)
        return
    rows = [
        (key["id"], key["name"], " ".join(key["scopes"]), moment(key["created_at"]))
        for key in answer["keys"]
    ]
    open_to_all = "no keys: whoever reaches this node may do everything"
    show_table(("ID", "NAME", "SCOPES", "CREATED"), rows, empty=open_to_all)


@app.command(name="rm")
def remove(key_id: str, /, *, remote: Remote = LOCAL) -> None:
    """Remove an API key; it stops working at once.

    Args:
        key_id: of the key, as `hearth key list` shows it.
        remote: which node.
    """
    answer = Client(remote).ask("DELETE", f"/keys/{segment(key_id)}")
    if remote.output == "json":
        show_json(answer or {"id": key_id, "removed": True})
        return
    print(f"removed {key_id}")
