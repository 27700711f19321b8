"""HTTP/1.1 requests from bytes, without I/O: strict, bounded, one meaning or none.

llhttp (httptools) parses each head, whole and with a parser of its own, so nothing one message
leaves behind can colour the next. Around it stand the limits that llhttp does not have, and every
refusal that keeps this server and whatever stands before it of one mind about where a request
ends. The rules, each with its test:

1. A head ends at CR LF CR LF; every line ends with CR LF; no other control character occurs.
2. The request line is `method SP target SP HTTP/1.x`; methods are those of llhttp, without
   CONNECT, TRACE and PRI.
3. HTTP/1.1 has exactly one Host, HTTP/1.0 at most one.
4. Content-Length is digits, once; Transfer-Encoding is `chunked`, once, never beside a length and
   never in HTTP/1.0. No folded lines, no blank before a colon.
5. Targets follow `wire.target`.

Nothing is parsed ahead: the bytes of a pipelined request wait until the one before is answered.
A head that equals the one before it on the same connection is not parsed again: clients that keep
a connection mostly send the same head, and what is known about it is then known still.
"""

from __future__ import annotations

import re
from typing import NoReturn

import httptools
import msgspec

from hearth.errors import (
    ExpectationFailed,
    HeadersTooLarge,
    MalformedRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    TargetTooLong,
    UnknownMethod,
    UnsupportedVersion,
)
from hearth.wire.chunked import ChunkedDecoder
from hearth.wire.request import Request
from hearth.wire.target import split_target

MAX_TARGET_BYTES = 8192
REMEMBERED_BYTES = 4096
"""Longest head that a connection keeps in case the next is the same."""
_ALLOWED_BYTES = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_HOST_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_~:[]%"
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VERSION = re.compile(rb"HTTP/\d+(?:\.\d+)?")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE", b"PRI"))

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade http2-settings".split()
)
_SPECIAL = _HOP_BY_HOP | frozenset(
    b"host content-length expect authorization x-api-key traceparent x-call-id".split()
)


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may have; the sizes in bytes."""

    max_header_bytes: int = 32 << 10
    max_headers: int = 100
    max_body: int = 16 << 20


class RequestParser:
    """One connection's requests: `receive` bytes, then take `head` and `body`.

    After any error the connection is lost: answer, close, never parse on.
    """

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_decoder",
        "_forgiven",
        "_last",
        "_last_head",
        "_limits",
        "_remaining",
        "complete",
    )

    def __init__(self, limits: HttpLimits) -> None:
        """Parse within `limits`."""
        self._limits = limits
        self._buffer = b""
        self._decoder: ChunkedDecoder | None = None
        self._remaining = 0
        self._body_bytes = 0
        self._forgiven = False
        self._last_head = b""
        self._last: Request | None = None
        self.complete = True
        """The body of the last head has been taken as a whole."""

    @property
    def waiting(self) -> int:
        """How many bytes are received and not yet taken."""
        return len(self._buffer)

    def receive(self, data: bytes) -> None:
        """Add what came from the peer."""
        self._buffer = self._buffer + data if self._buffer else data

    # --- heads ---------------------------------------------------------------------------------

    def head(self) -> Request | None:
        """Return the next request once its head is there. Its `body` must be taken first.

        Raises:
            HearthError: one of the refusals; its status belongs in the answer.
        """
        buffer = self._buffer
        if buffer[:2] == b"\r\n" and not self._forgiven:  # one empty line, as RFC 9112 §2.2 asks
            self._forgiven = True
            self._buffer = buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if buffer:
                self._check_partial(buffer)
            return None
        end += 4
        if end > self._limits.max_header_bytes:
            self._too_large()
        if end == len(buffer):
            head, self._buffer = buffer, b""
        else:
            head, self._buffer = buffer[:end], buffer[end:]
        if self._last is not None and head == self._last_head:
            request = self._last
        else:
            request = self._parse(head)
            if end <= REMEMBERED_BYTES:
                self._last_head, self._last = head, request
        self._forgiven = False
        self._expect_body(request)
        return request

    def _check_partial(self, buffer: bytes) -> None:
        """Refuse early what can no longer become a head within the limits."""
        if len(buffer) > MAX_TARGET_BYTES and b"\r\n" not in buffer[: MAX_TARGET_BYTES + 32]:
            raise TargetTooLong(limit=f"{MAX_TARGET_BYTES} bytes")
        if len(buffer) > self._limits.max_header_bytes:
            self._too_large()
        if buffer[0] == 0x16 or b"\0" in buffer[:64]:
            raise MalformedRequest("this is not HTTP; perhaps TLS, which is not spoken here")
        if buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise MalformedRequest("a line ends without CR LF")

    def _too_large(self) -> NoReturn:
        raise HeadersTooLarge(limit=f"gateway.max_header_bytes={self._limits.max_header_bytes}")

    def _parse(self, head: bytes) -> Request:
        lines = head.split(b"\r\n")
        breaks = len(lines) - 1
        if head.translate(None, _ALLOWED_BYTES):
            raise MalformedRequest("the head has a control character")
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
            raise MalformedRequest("a line ends without CR LF")
        if breaks - 2 > self._limits.max_headers:
            raise HeadersTooLarge(limit=f"gateway.max_headers={self._limits.max_headers}")
        request, target = _request_line(lines[0])
        _judge(head, request.method)
        _interpret(request, lines[1:-2])
        request.path, request.raw_path, request.query = split_target(
            target, request.method, request.host
        )
        return request

    # --- bodies --------------------------------------------------------------------------------

    def _expect_body(self, request: Request) -> None:
        self._body_bytes = 0
        self._decoder = None
        self._remaining = length = request.content_length
        self.complete = not length
        if length > self._limits.max_body:
            self._body_too_large()
        if request.chunked:
            self._decoder = ChunkedDecoder()
            self.complete = False

    def body(self) -> bytes:
        """Return what has arrived of the current body; `complete` says whether that was all.

        Raises:
            PayloadTooLarge: more than `max_body` has arrived.
            MalformedRequest: it is chunked, and wrongly.
        """
        buffer = self._buffer
        if self._decoder is not None:
            data, used = self._decoder.decode(buffer)
            self._buffer = buffer[used:]
            self._body_bytes += len(data)
            if self._body_bytes > self._limits.max_body:
                self._body_too_large()
            if self._decoder.complete:
                self._decoder = None
                self.complete = True
            return data
        if len(buffer) <= self._remaining:
            self._buffer = b""
        else:
            buffer, self._buffer = buffer[: self._remaining], buffer[self._remaining :]
        self._remaining -= len(buffer)
        self.complete = not self._remaining
        return buffer

    def _body_too_large(self) -> NoReturn:
        raise PayloadTooLarge(limit=f"gateway.max_body={self._limits.max_body}")


class _Verdict:
    """Hears from llhttp that a head is one."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def on_headers_complete(self) -> None:
        self.done = True


def _request_line(line: bytes) -> tuple[Request, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise MalformedRequest("the request line is not `method target version`")
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    elif _VERSION.fullmatch(version):
        raise UnsupportedVersion
    else:
        raise MalformedRequest("the request line does not end with an HTTP version")
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLong(limit=f"{MAX_TARGET_BYTES} bytes")
    if method in _REFUSED_METHODS:
        raise MethodNotAllowed("CONNECT, TRACE and PRI are not allowed here")
    return Request(method, minor), target


def _judge(head: bytes, method: bytes) -> None:
    """Have llhttp refuse what is not a request head."""
    verdict = _Verdict()
    try:
        httptools.HttpRequestParser(verdict).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade may be ignored, and is (RFC 9110 §7.8)
    except httptools.HttpParserInvalidMethodError:
        if _TOKEN.fullmatch(method):
            raise UnknownMethod from None
        raise MalformedRequest("the method is not a token") from None
    except httptools.HttpParserError as error:
        raise MalformedRequest(str(error) or None) from None
    if not verdict.done:
        raise MalformedRequest("the head does not end where it seems to")


def _interpret(request: Request, lines: list[bytes]) -> None:
    """Apply rules 3 and 4 and keep what later steps ask for.

    llhttp has approved the lines, so each is `name:value` and none is folded; a test holds this
    split against llhttp's own. (Five callbacks per head would cost as much as all of llhttp.)
    """
    headers, plain = request.headers, request.plain
    special: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        headers.append((name, value))
        if name not in _SPECIAL:
            plain.append(name + b": " + value + b"\r\n")
        elif name not in special:
            special[name] = value
        elif name == b"connection":
            special[name] += b"," + value
        elif name not in _HOP_BY_HOP or name == b"transfer-encoding":
            raise MalformedRequest(f"more than one {name.decode()} header")
    _framing(request, special)


def _framing(request: Request, special: dict[bytes, bytes]) -> None:
    get = special.get
    request.host = host = get(b"host")
    if host is None:
        if request.minor:
            raise MalformedRequest("HTTP/1.1 requires a Host header")
    elif host.translate(None, _HOST_BYTES):
        raise MalformedRequest("the Host header is not a host")
    coding, length = get(b"transfer-encoding"), get(b"content-length")
    if coding is not None:
        if length is not None or not request.minor or coding.lower() != b"chunked":
            raise MalformedRequest("Transfer-Encoding may only be `chunked`, and stand alone")
        request.chunked = True
    elif length is not None:
        if not length.isdigit() or len(length) > 18:
            raise MalformedRequest("Content-Length is not a number of bytes")
        request.content_length = int(length)
    request.authorization = get(b"authorization")
    request.api_key = get(b"x-api-key")
    if b"connection" in special:
        _persistence(request, special[b"connection"].lower())
    if b"expect" in special and request.minor:
        if special[b"expect"].lower() != b"100-continue":
            raise ExpectationFailed
        request.expects_continue = True
    parent = get(b"traceparent")
    if parent is not None and _TRACEPARENT.fullmatch(parent):
        request.traceparent = parent
    request.call_id = get(b"x-call-id")


def _persistence(request: Request, connection: bytes) -> None:
    request.connection = connection
    if connection == b"keep-alive":
        request.keep_alive = True
        return
    options = {option.strip() for option in connection.split(b",")}
    if b"close" in options:
        request.keep_alive = False
    elif b"keep-alive" in options:
        request.keep_alive = True
