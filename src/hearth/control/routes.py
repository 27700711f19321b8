"""The route table: the router, the OpenAPI document and `/docs` are all made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from hearth.control.call import Call
from hearth.errors import HearthError

Access = Literal["open", "invoke", "admin"]
Handler = Callable[[Call], Awaitable[Response]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One operation: what it takes, what it gives, and who may use it."""

    method: str
    path: str
    summary: str
    handler: Handler | None = None
    """None: served by the data plane, only described here."""
    access: Access = "admin"
    action: str | None = None
    """Name in the audit log, for what changes something."""
    query: type[msgspec.Struct] | None = None
    request: Any = None
    response: Any = None
    """Type of the JSON answer; None when `media` is something else."""
    other: dict[int, Any] = {}
    """Type of the JSON answer by status, where it is another one."""
    media: tuple[str, ...] = ("application/json",)
    statuses: tuple[int, ...] = (200,)
    """What a good answer may have; they share one shape."""
    errors: tuple[type[HearthError], ...] = ()
    """Beyond those that every route can give."""
    tag: str = "operations"
    description: str = ""
