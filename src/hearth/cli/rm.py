"""`hearth rm`: remove a function."""

from __future__ import annotations

from hearth.cli.client import Client, segment
from hearth.cli.options import LOCAL, Remote
from hearth.cli.progress import Progress
from hearth.cli.render import show_json


def rm(name: str, /, *, remote: Remote = LOCAL) -> None:
    """Remove a function and all its versions; calls in flight are finished first.

    Args:
        name: name or id of the function.
        remote: which node.
    """
    with Progress() as progress:
        progress.phase("draining")
        answer = Client(remote).api("DELETE", f"/functions/{segment(name)}")
    if remote.output == "json":
        show_json(answer or {"name": name, "removed": True})
        return
    print(f"removed {name}")
