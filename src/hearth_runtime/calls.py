"""Answering calls one at a time: the warm path."""

from __future__ import annotations

import json
from struct import Struct

from hearth_runtime import frames
from hearth_runtime.channel import Closed
from hearth_runtime.failure import describe
from hearth_runtime.request import BadRequest, Request
from hearth_runtime.response import JSON_TYPE, encode, piece_bytes, to_json

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    from hearth_runtime.channel import Channel
    from hearth_runtime.output import Output

    Pending: TypeAlias = tuple[int, Any]

_pack_reply = Struct(frames.HEADER.format + frames.REPLY_HEAD.format.removeprefix("!")).pack
_REPLY_HEAD_BYTES = frames.REPLY_HEAD.size
_MAX_BODY = frames.MAX_PAYLOAD - (1 << 20)
_MAX_CHUNK = 1 << 20


class Host:
    """One loaded function and its way back to the node."""

    __slots__ = ("_function", "_handle", "_settle", "_version", "await_drained", "channel")

    def __init__(
        self,
        handle: Callable[[Any], Any],
        channel: Channel,
        output: Output,
        *,
        function: str,
        version: int,
    ) -> None:
        """Answer calls by `handle`; its requests carry `function` and `version`."""
        self._handle = handle
        self._settle = output.settle
        self.await_drained = output.await_drained
        self._function = function
        self._version = version
        self.channel = channel

    def answer(self, kind: int, _flags: int, call: int, payload: bytes) -> Pending | None:
        """Run one CALL and answer it; return (call, what was returned) if that needs an event loop.

        Raises:
            Closed: the node is gone.
            FrameError: it is not a CALL.
            SystemExit: the user's code asked for it.
        """
        if kind != frames.CALL:
            raise frames.FrameError(f"expected a CALL, got kind {kind}")
        request = Request(payload, self._function, self._version)
        try:
            answer = self._handle(request)
            if type(answer) is dict:
                status, headers, body = 200, JSON_TYPE, to_json(answer)
            elif hasattr(answer, "__await__"):
                return call, answer
            else:
                status, headers, body = encode(answer)
        except BaseException as error:
            self.fail(call, error)
            return None
        if hasattr(body, "__anext__"):
            return call, answer
        self.conclude(call, status, headers, body)
        return None

    def conclude(self, call: int, status: int, headers: bytes, body: Any) -> None:
        """Send an encoded answer, whole or streamed."""
        if type(body) is not bytes:
            self._stream(call, status, headers, body)
        elif len(body) <= _MAX_BODY:
            n_headers = len(headers)
            length = _REPLY_HEAD_BYTES + n_headers + len(body)
            head = _pack_reply(length, frames.REPLY, self._settle(), 0, call, status, n_headers)
            self.channel.send(head + headers, body)
        else:
            self.fail(call, ValueError(f"an answer is at most {_MAX_BODY} bytes; yield more"))

    def end(self, call: int) -> None:
        """Complete a streamed answer."""
        self.channel.send(frames.frame(frames.END, call, flags=self._settle()))

    def fail(self, call: int, error: BaseException, *, streaming: bool = False) -> None:
        """Answer that user code raised `error`; after the head of a stream only ERROR is legal.

        Raises:
            SystemExit: that is what `error` is.
        """
        if isinstance(error, SystemExit):
            raise error
        if isinstance(error, BadRequest) and not streaming:
            self.conclude(call, 400, JSON_TYPE, to_json(_refusal(error)))
            return
        payload = json.dumps(describe(error)).encode()
        self.channel.send(frames.frame(frames.ERROR, call, payload, self._settle()))

    def _stream(self, call: int, status: int, headers: bytes, pieces: Iterator[Any]) -> None:
        stream = Stream(self.channel, call, status=status, headers=headers)
        try:
            for piece in pieces:
                stream.write(piece)
            stream.begin()
        except Closed:
            raise
        except BaseException as error:
            self.fail(call, error, streaming=stream.begun)
        else:
            self.end(call)


class Stream:
    """A streamed answer: the head goes out with the first piece, so that an error before is one."""

    __slots__ = ("_call", "_channel", "_head", "begun")

    def __init__(self, channel: Channel, call: int, *, status: int, headers: bytes) -> None:
        """Send nothing yet."""
        self._channel = channel
        self._call = call
        self._head = frames.REPLY_HEAD.pack(status, len(headers)) + headers
        self.begun = False

    def begin(self) -> None:
        """Send the head unless it is gone already."""
        if not self.begun:
            self.begun = True
            self._channel.send(frames.frame(frames.HEAD, self._call, self._head))

    def write(self, piece: Any) -> None:
        """Send a str or bytes; an empty one only sends the head.

        Raises:
            TypeError: it is neither.
        """
        data = piece_bytes(piece)
        self.begin()
        for at in range(0, len(data), _MAX_CHUNK):
            self._channel.send(frames.frame(frames.CHUNK, self._call, data[at : at + _MAX_CHUNK]))


def serve_blocking(host: Host) -> Pending:
    """Answer calls until one needs an event loop, and return that one.

    Raises:
        Closed: the node is gone.
        FrameError: the node broke the protocol.
        SystemExit: the user's code asked for it.
    """
    channel, receive, answer = host.channel, host.channel.receive, host.answer
    pending = None
    while pending is None:
        pending = answer(*receive())  # no local keeps the last request while waiting
        if channel.ahead:
            host.await_drained()
    return pending


def _refusal(error: BadRequest) -> dict[str, Any]:
    return {"error": {"type": "BadInput", "message": str(error), "component": "function"}}
