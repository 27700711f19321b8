"""Options that every verb which talks to a node has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter

Output = Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Remote:
    """Which node to talk to, and how to show what it says."""

    url: Annotated[str, Parameter(env_var="HEARTH_URL")] = "http://127.0.0.1:8080"
    """Address of the node."""
    key: Annotated[str | None, Parameter(env_var="HEARTH_KEY")] = field(default=None, repr=False)
    """API key; better given as HEARTH_KEY, because others can see a command line."""
    output: Output = "table"
    """`json` prints what the API said, in a stable form."""


LOCAL = Remote()
