"""What a handler is called with: everything is parsed when it is first asked for.

A warm call pays for what it uses: the whole CALL payload is kept as it came, and each property
cuts out and decodes its own part.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import unhexlify
from json.decoder import JSONDecoder

from hearth_runtime.frames import CALL_HEAD, FrameError

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from typing import Any

_HEAD_BYTES = CALL_HEAD.size
_unpack_head = CALL_HEAD.unpack_from
_decoder = JSONDecoder()
_scan = _decoder.scan_once  # type: ignore[attr-defined] # typeshed leaves it out
_UNSET = object()


class BadRequest(ValueError):  # noqa: N818 - a handler raises it as an answer: `raise BadRequest("…")`
    """The caller sent what the function cannot use: uncaught, the answer is status 400."""


class Headers(dict[str, str]):
    """Request headers; names are looked up in any case, repeated ones are joined by a comma."""

    __slots__ = ("_fields",)

    def __init__(self, block: str) -> None:
        """Parse a header block as `hearth_runtime.frames` defines it."""
        super().__init__()
        self._fields: list[tuple[str, str]] = []
        for line in block.split("\r\n"):
            name, colon, value = line.partition(": ")
            if colon:
                self._fields.append((name, value))
                before = dict.get(self, name)
                joint = "; " if name == "cookie" else ", "
                dict.__setitem__(self, name, value if before is None else before + joint + value)

    def __getitem__(self, name: str) -> str:
        return dict.__getitem__(self, name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and dict.__contains__(self, name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the header's value, or `default` without such a header."""
        return dict.get(self, name.lower(), default)

    def all(self, name: str) -> list[str]:
        """Return every value of a repeated header, in order."""
        name = name.lower()
        return [value for known, value in self._fields if known == name]


class Query(dict[str, str]):
    """Query parameters, decoded; `query["a"]` is the first value, `query.all("a")` all of them."""

    __slots__ = ("_fields",)

    def __init__(self, raw: bytes) -> None:
        """Parse `a=1&b=two%20words`; a name without `=` has the empty value."""
        super().__init__()
        self._fields: list[tuple[str, str]] = []
        for part in raw.split(b"&"):
            if part:
                key, _, value = part.partition(b"=")
                field = _unquote(key), _unquote(value)
                self._fields.append(field)
                self.setdefault(*field)

    def all(self, name: str) -> list[str]:
        """Return every value of a repeated parameter, in order."""
        return [value for known, value in self._fields if known == name]


class Request:
    """One call. Sizes are bytes; `deadline` is Unix seconds."""

    __slots__ = (
        "_body_at",
        "_head",
        "_headers",
        "_json",
        "_payload",
        "_query",
        "function",
        "version",
    )

    def __init__(self, payload: bytes, function: str, version: int) -> None:
        """Keep a CALL payload.

        Raises:
            FrameError: the payload is shorter than it says.
        """
        if len(payload) < _HEAD_BYTES:
            raise FrameError("call shorter than its head")
        self._head = _, n_id, n_method, n_path, n_query, n_headers = _unpack_head(payload)
        self._body_at = at = _HEAD_BYTES + n_id + n_method + n_path + n_query + n_headers
        if at > len(payload):
            raise FrameError("call shorter than its parts")
        self._payload = payload
        self._json = self._headers = self._query = _UNSET
        self.function = function
        self.version = version

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.method} {self.path}>"

    def _part(self, index: int) -> bytes:
        start = _HEAD_BYTES + sum(self._head[1:index])
        return self._payload[start : start + self._head[index]]

    @property
    def deadline(self) -> float:
        """When the platform ends the call, in Unix seconds."""
        return self._head[0]  # type: ignore[no-any-return] # struct gives Any; `d` is a float

    @property
    def id(self) -> str:
        """The call's id: `X-Call-Id` of the answer, the key of its record and logs."""
        return self._part(1).decode("latin-1")

    @property
    def method(self) -> str:
        """HTTP method, in capitals."""
        return self._part(2).decode("latin-1")

    @property
    def path(self) -> str:
        """What follows the function's name in the URL, percent-encoded as it came; at least `/`."""
        return self._part(3).decode("latin-1") or "/"

    @property
    def query(self) -> Query:
        """Query parameters."""
        if self._query is _UNSET:
            self._query = Query(self._part(4))
        return self._query  # type: ignore[return-value] # _UNSET is only its stand-in

    @property
    def headers(self) -> Headers:
        """Request headers."""
        if self._headers is _UNSET:
            self._headers = Headers(self._part(5).decode("latin-1"))
        return self._headers  # type: ignore[return-value] # _UNSET is only its stand-in

    @property
    def body(self) -> bytes:
        """The body, byte for byte."""
        return self._payload[self._body_at :]

    @property
    def text(self) -> str:
        """The body as UTF-8 text.

        Raises:
            BadRequest: it is not UTF-8.
        """
        try:
            return str(self._payload[self._body_at :], "utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the body is not UTF-8: {error}") from None

    @property
    def json(self) -> Any:
        """The body parsed as JSON; the same object each time.

        Raises:
            BadRequest: it is not JSON in UTF-8.
        """
        if self._json is _UNSET:
            self._json = parse_json(self.text)
        return self._json


def parse_json(text: str) -> Any:
    """Return what `text` says.

    Raises:
        BadRequest: it is not JSON.
    """
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, StopIteration):
        pass  # surrounding white space, or an error that `decode` words well
    except RecursionError:
        raise BadRequest("the body is JSON nested too deeply") from None
    try:
        return _decoder.decode(text)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is JSON nested too deeply") from None


def _unquote(raw: bytes) -> str:
    """Decode a form-encoded name or value; what is not an escape stays as it is."""
    first, *rest = raw.replace(b"+", b" ").split(b"%")
    if not rest:
        return first.decode("utf-8", "replace")
    pieces = [first]
    for piece in rest:
        try:
            pieces.append(unhexlify(piece[:2]) + piece[2:] if len(piece) > 1 else b"%" + piece)
        except HexError:
            pieces.append(b"%" + piece)
    return b"".join(pieces).decode("utf-8", "replace")
