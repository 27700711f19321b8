"""From what a handler returned to what goes over the wire."""

from __future__ import annotations

import re
from json.encoder import (  # type: ignore[attr-defined] # typeshed leaves the C encoder out
    JSONEncoder,
    c_make_encoder,
    encode_basestring,
)

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    HeaderFields: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

JSON_TYPE = b"content-type: application/json\r\n"
TEXT_TYPE = b"content-type: text/plain; charset=utf-8\r\n"
BINARY_TYPE = b"content-type: application/octet-stream\r\n"

_BINARY = (bytes, bytearray, memoryview)
_JSON = (dict, list, int, float)  # bool is an int
_NO_BODY = frozenset((204, 304))
_name_of_header = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_value_of_header = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


class Response:
    """An answer with a status and headers of its own."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: Any = None, status: int | None = None, headers: HeaderFields | None = None
    ) -> None:
        """Answer `body` (anything a handler may return but another Response or a tuple).

        Args:
            body: as returned by a handler: dict, list, str, bytes, None, a generator, …
            status: 200 to 599; by default 200, or 204 without a body.
            headers: a mapping, or pairs where a name repeats (`set-cookie`). A `content-type`
                here replaces the one that follows from the body.
        """
        self.body = body
        self.status = status
        self.headers = headers

    def __repr__(self) -> str:
        return f"<Response {self.status or ''} {type(self.body).__name__}>"


def encode(answer: Any) -> tuple[int, bytes, Any]:
    """Return status, header block and body: bytes, or the iterator of a streamed answer.

    Raises:
        TypeError: a part of the answer has a type that cannot be sent; it is named.
        ValueError: a status or a header is not one that HTTP allows.
    """
    status, headers = None, None
    if isinstance(answer, tuple):
        if not 2 <= len(answer) <= 3:
            raise TypeError("a tuple answer is (body, status) or (body, status, headers)")
        answer = Response(*answer)
    if isinstance(answer, Response):
        answer, status, headers = answer.body, answer.status, answer.headers
    content_type, body = _encode_body(answer)
    if status is None:
        status = 204 if answer is None else 200
    else:
        _check_status(status, body)
    return status, content_type if not headers else _header_block(content_type, headers), body


def to_json(value: Any) -> bytes:
    """Return compact UTF-8 JSON.

    Raises:
        TypeError: a value has no JSON form; its type is named.
        ValueError: a NaN or infinity, or a lone surrogate in a string.
    """
    return "".join(_to_json_pieces(value, 0)).encode()


def piece_bytes(piece: Any) -> bytes:
    """Return one piece of a streamed answer as bytes.

    Raises:
        TypeError: it is neither str nor bytes.
    """
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, _BINARY):
        return bytes(piece)
    raise TypeError(f"a stream yields str or bytes, not {_type_name(piece)}")


def _encode_body(body: Any) -> tuple[bytes, Any]:
    if isinstance(body, str):
        return TEXT_TYPE, body.encode()
    if isinstance(body, _JSON):
        return JSON_TYPE, to_json(body)
    if isinstance(body, _BINARY):
        return BINARY_TYPE, bytes(body)
    if body is None:
        return b"", b""
    if hasattr(body, "__next__") or hasattr(body, "__anext__"):
        return BINARY_TYPE, body
    raise TypeError(f"a {_type_name(body)} cannot be sent as an answer")


def _check_status(status: Any, body: Any) -> None:
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"a status is an int, not {_type_name(status)}")
    if not 200 <= status <= 599:
        raise ValueError(f"a status is between 200 and 599, not {status}")
    if status in _NO_BODY and body != b"":
        raise ValueError(f"an answer with status {status} has no body")


def _header_block(content_type: bytes, headers: HeaderFields) -> bytes:
    fields = headers.items() if hasattr(headers, "items") else headers
    lines = []
    for name, value in fields:
        line = _header_line(name, value)
        if line.startswith("content-type:"):
            content_type = b""
        lines.append(line)
    return content_type + "".join(lines).encode("latin-1")


def _header_line(name: Any, value: Any) -> str:
    text = str(value) if isinstance(value, int) else value
    if not isinstance(name, str) or not isinstance(text, str):
        raise TypeError(f"header {name!r} has a value of type {_type_name(value)}, not str")
    if not _name_of_header(name):
        raise ValueError(f"{name!r} is not a header name")
    if not _value_of_header(text):
        raise ValueError(f"header {name!r} has a character that HTTP does not allow")
    return f"{name.lower()}: {text.strip()}\r\n"


def _type_name(value: Any) -> str:
    return type(value).__qualname__


def _no_json_form(value: Any) -> Any:
    raise TypeError(f"a {_type_name(value)} has no JSON form; convert it first")


def _json_encoder() -> Any:
    """Return the C encoder, made once: `JSONEncoder.encode` makes a new one for each value."""
    if c_make_encoder is None:
        encoder = JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_no_json_form
        )
        return lambda value, _level: (encoder.encode(value),)
    # markers None: a cycle ends in RecursionError instead of being tracked at each level
    return c_make_encoder(
        None, _no_json_form, encode_basestring, None, ":", ",", False, False, False
    )


_to_json_pieces = _json_encoder()
