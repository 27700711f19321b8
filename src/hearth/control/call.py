"""One request on the control API, read with care, and how it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hearth.control.parts import Identity, Parts
from hearth.errors import BadInput, NotFound, PayloadTooLarge

T = TypeVar("T")
JSON = "application/json"


@dataclass(kw_only=True)
class Call:
    """A request with everything that a handler needs."""

    parts: Parts
    request: Request
    identity: Identity
    request_id: str
    target: str = "-"
    """What the audit log names; handlers set it once they know."""

    @property
    def is_admin(self) -> bool:
        """Say whether the caller may see everything."""
        return "admin" in self.identity.scopes

    def ref(self, name: str) -> str:
        """Return a path parameter and note it as the target.

        Raises:
            NotFound: nothing can have such a name.
        """
        value = str(self.request.path_params[name])
        if not value.isascii() or not value.isprintable() or len(value) > 64:
            raise NotFound(f"there is no {value[:64]!a}")
        self.target = value
        return value

    def query(self, kind: type[T]) -> T:
        """Return the query parameters.

        Raises:
            BadInput: an unknown, repeated or wrong parameter.
        """
        given: dict[str, str] = {}
        known = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]  # every query type is a Struct
        for key, value in self.request.query_params.multi_items():
            if key not in known:
                names = ", ".join(sorted(known)) or "none"
                raise BadInput(f"unknown query parameter {key[:100]!r}; known: {names}", path="$")
            if key in given:
                raise BadInput(f"query parameter {key} is given twice", path=f"$.{key}")
            given[key] = value
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            raise bad_input(error) from error

    async def body(self) -> bytes:
        """Return the whole body, which must be JSON.

        Raises:
            BadInput: the content type says something else.
            PayloadTooLarge: it is longer than `gateway.max_body`.
        """
        limit = int(self.parts.settings.gateway.max_body)
        pieces, size = [], 0
        async for piece in self.request.stream():
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge(limit=f"gateway.max_body={limit}")
            pieces.append(piece)
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if size and kind != JSON and not kind.endswith("+json"):
            # what a web page can send without asking first is never JSON: this stops forged forms
            raise BadInput("send JSON with the header Content-Type: application/json", path="$")
        return b"".join(pieces)

    async def read(self, kind: type[T]) -> T:
        """Return the body as a `kind`.

        Raises:
            BadInput: it is not JSON or not of that shape.
        """
        return decode(await self.body(), kind)


def decode(body: bytes, kind: type[T]) -> T:
    """Return JSON as a `kind`.

    Raises:
        BadInput: it is not JSON or not of that shape; with the JSON path.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise bad_input(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", path="$") from error


def bad_input(error: msgspec.ValidationError) -> BadInput:
    """Return our error for msgspec's, with the path apart."""
    message, _, where = str(error).partition(" - at `")
    return BadInput(message, path=where.rstrip("`") or "$")


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status, headers, JSON)
