"""`hearth key`: who may call this node."""

from __future__ import annotations

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
        scope: `invoke` may call functions, `admin` everything; may be given twice.
        remote: which node.
    """
    answer = Client(remote).api("POST", "/keys", body={"name": name, "scopes": list(scope)})
    if remote.output == "json":
        show_json(answer)
        return
    print(answer["secret"])


@app.command(name="list")
def list_keys(*, remote: Remote = LOCAL) -> None:
    """List the API keys, without their secrets.

    Args:
        remote: which node.
    """
    answer = Client(remote).api("GET", "/keys")
    if remote.output == "json":
        show_json(answer)
        return
    rows = [
        (key["id"], key["name"], " ".join(key["scopes"]), moment(key["created_at"]))
        for key in answer["keys"]
    ]
    show_table(("ID", "NAME", "SCOPES", "CREATED"), rows)


@app.command(name="rm")
def remove(id_: str, /, *, remote: Remote = LOCAL) -> None:
    """Remove an API key; it stops working at once.

    Args:
        id_: of the key, as `hearth key list` shows it.
        remote: which node.
    """
    answer = Client(remote).api("DELETE", f"/keys/{segment(id_)}")
    if remote.output == "json":
        show_json(answer or {"id": id_, "removed": True})
        return
    print(f"removed {id_}")
