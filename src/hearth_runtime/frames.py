r"""The frame protocol between a node and a runtime host, over one stream socket.

Byte layout, big-endian, every frame::

    u32 length   of the payload that follows the 12-byte header
    u8  kind     see the constants below
    u8  flags    OUTPUT: the call wrote to stdout or stderr, drain the pipes before settling it
    u16 zero     reserved
    u32 call     number of the call on this instance, counting from 1; 0 outside a call

    node -> host
      INIT        JSON: what to load (see runtime_host)
      CALL        18-byte call head `!dBBHHI`: deadline (Unix seconds), lengths of id, method, path,
                  query and header block; then these five, then the body
    host -> node
      READY       JSON {"init_ns": int}
      INIT_FAILED JSON {"type", "message", "stack"}
      REPLY       `!HI`: status, length of the header block; then header block, body
      HEAD        as REPLY without body: a streamed answer begins
      CHUNK       bytes of a streamed answer
      END         a streamed answer is complete
      ERROR       JSON {"type", "message", "stack"}: the handler raised

A header block is `name: value\r\n` repeated, names in lower case, Latin-1. A host answers each CALL
with exactly one of REPLY, ERROR, or HEAD CHUNK* (END | ERROR), carrying the number of that CALL.
Anything else is a protocol violation and costs the host its life. The node takes no field of a
host's frame on trust: the host runs user code.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("!IBBHI")
HEADER_BYTES = HEADER.size
CALL_HEAD = struct.Struct("!dBBHHI")
REPLY_HEAD = struct.Struct("!HI")

INIT = 1
CALL = 2
READY = 16
INIT_FAILED = 17
REPLY = 18
HEAD = 19
CHUNK = 20
END = 21
ERROR = 22
FROM_HOST = frozenset((READY, INIT_FAILED, REPLY, HEAD, CHUNK, END, ERROR))

OUTPUT = 1

MAX_PAYLOAD = 256 << 20


class FrameError(ValueError):
    """The peer sent bytes that are not a frame."""


class FrameTooLarge(FrameError):  # noqa: N818 - named like `PayloadTooLarge`
    """The peer announced a payload above the limit."""


def frame(kind: int, call: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return one whole frame."""
    return HEADER.pack(len(payload), kind, flags, 0, call) + payload


def call_frame(  # noqa: PLR0917 - the warm path: keywords cost more than the call
    number: int,
    deadline: float,
    call_id: bytes,
    method: bytes,
    path: bytes,
    query: bytes,
    headers: bytes,
    body: bytes,
) -> bytes:
    """Return a CALL frame; the caller keeps id, method ≤ 255 and path, query ≤ 65535 bytes."""
    head = CALL_HEAD.pack(deadline, len(call_id), len(method), len(path), len(query), len(headers))
    length = (
        len(head) + len(call_id) + len(method) + len(path) + len(query) + len(headers) + len(body)
    )
    return b"".join(
        (HEADER.pack(length, CALL, 0, 0, number), head, call_id, method, path, query, headers, body)
    )


def parse_call(payload: bytes) -> tuple[float, bytes, bytes, bytes, bytes, bytes, bytes]:
    """Split a CALL payload into (deadline, id, method, path, query, header block, body).

    Raises:
        FrameError: the payload is shorter than it says.
    """
    if len(payload) < CALL_HEAD.size:
        raise FrameError("call shorter than its head")
    deadline, n_id, n_method, n_path, n_query, n_headers = CALL_HEAD.unpack_from(payload)
    a = CALL_HEAD.size
    b = a + n_id
    c = b + n_method
    d = c + n_path
    e = d + n_query
    f = e + n_headers
    if f > len(payload):
        raise FrameError("call shorter than its parts")
    return (
        deadline,
        payload[a:b],
        payload[b:c],
        payload[c:d],
        payload[d:e],
        payload[e:f],
        payload[f:],
    )


def parse_reply(payload: bytes) -> tuple[int, bytes, bytes]:
    """Split a REPLY or HEAD payload into (status, header block, body).

    Raises:
        FrameError: the payload is shorter than it says.
    """
    if len(payload) < REPLY_HEAD.size:
        raise FrameError("reply shorter than its head")
    status, n_headers = REPLY_HEAD.unpack_from(payload)
    end = REPLY_HEAD.size + n_headers
    if end > len(payload):
        raise FrameError("header block runs past the reply")
    return status, payload[REPLY_HEAD.size : end], payload[end:]


class Decoder:
    """Turn bytes in pieces of any size into frames; holds at most one partial frame.

    `feed` returns the frames completed by the new bytes as (kind, flags, call, payload). The work
    is linear in the bytes fed, whatever their pieces; the memory is bounded by limit and one piece.
    """

    __slots__ = ("_buffer", "_limit", "_need")

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        """Refuse payloads above `limit` bytes."""
        self._buffer = bytearray()
        self._limit = limit
        self._need = 0
        """Bytes that `_buffer` must hold before looking at it again makes sense."""

    def feed(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that are complete now.

        Raises:
            FrameError: reserved bits are set, or a payload is over the limit. The stream is lost.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            return [] if len(buffer) < self._need else self._split_buffer()
        if len(data) >= HEADER_BYTES:  # the common case first: exactly one whole frame
            length, kind, flags, zero, call = _unpack_header(data)
            if HEADER_BYTES + length == len(data) and not zero and length <= self._limit:
                return [(kind, flags, call, data[HEADER_BYTES:])]
        frames, at = self._split(data)
        if at < len(data):
            buffer += data[at:]
        return frames

    def _split_buffer(self) -> list[tuple[int, int, int, bytes]]:
        with memoryview(self._buffer) as view:
            frames, at = self._split(view)
        if at == len(self._buffer):
            self._buffer = bytearray()  # gives a large frame's memory back
        else:
            del self._buffer[:at]
        return frames

    def _split(self, data: bytes | memoryview) -> tuple[list[tuple[int, int, int, bytes]], int]:
        frames = []
        at, end = 0, len(data)
        self._need = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            length, kind, flags, zero, call = _unpack_header(data, at)
            if length > self._limit:
                raise FrameTooLarge(f"frame of kind {kind} with {length} bytes refused")
            if zero:
                raise FrameError(f"frame of kind {kind} with reserved bits set")
            stop = at + HEADER_BYTES + length
            if stop > end:
                self._need = stop - at
                break
            frames.append((kind, flags, call, bytes(data[at + HEADER_BYTES : stop])))
            at = stop
        return frames, at


_unpack_header = HEADER.unpack_from
