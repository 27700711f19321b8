"""What runs inside a sandbox: the standard library only, never `hearth`."""

from __future__ import annotations

from hearth_runtime.request import BadRequest, Request
from hearth_runtime.response import Response

__all__ = ["BadRequest", "Request", "Response"]
