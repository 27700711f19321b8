"""`hearth invocations`: what became of the last calls."""

from __future__ import annotations

from typing import Any, Literal

from hearth.cli.client import Client
from hearth.cli.options import LOCAL, Remote
from hearth.cli.render import milliseconds, moment, show_json, show_table, size

Status = Literal["queued", "running", "succeeded", "failed", "timeout", "cancelled"]


def invocations(
    name: str | None = None,
    /,
    *,
    status: Status | None = None,
    limit: int = 20,
    remote: Remote = LOCAL,
) -> None:
    """List the last calls, newest first.

    Args:
        name: only of this function.
        status: only those that ended, or are, like this.
        limit: how many.
        remote: which node.
    """
    query = {"function": name, "status": status, "limit": limit}
    answer = Client(remote).ask("GET", "/invocations", query=query)
    if remote.output == "json":
        show_json(answer)
        return
    headers = ("ID", "FUNCTION", "STATUS", "DURATION", "MEMORY", "COLD", "CREATED", "ERROR")
    show_table(headers, map(_row, answer["invocations"]), empty="no such calls")


def _row(record: dict[str, Any]) -> tuple[object, ...]:
    metrics = record.get("metrics") or {}
    error = record.get("error") or {}
    return (
        record["id"],
        f"{record['function']}@{record['version']}",
        record["status"],
        milliseconds(metrics.get("duration")),
        size(metrics.get("memory_peak")),
        "cold" if metrics.get("cold_start") else "",
        moment(record.get("created_at")),
        f"{error['type']}: {error['message']}" if error else "",
    )
