"""The one call of a script: what its stdout and its exit mean as an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hearth.sandbox.base import Caller, Exit, Stream

_STDERR_TAIL = 8 << 10

_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_BYTES = b"content-type: application/octet-stream\r\n"

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class ScriptCall:
    """The one call of a script: stdout is its result, the exit code decides."""

    __slots__ = ("_caller", "_errors", "_result", "_size")

    def __init__(self, caller: Caller) -> None:
        """Collect for `caller`."""
        self._caller = caller
        self._result: list[bytes] = []
        self._size = 0
        self._errors = b""

    def take(self, stream: Stream, data: bytes, limit: int) -> bool:
        """Keep the result and log all output; False once the result is over `limit`."""
        self._caller.on_output(stream, data)
        if stream == "stderr":
            self._errors = (self._errors + data)[-_STDERR_TAIL:]
            return True
        self._size += len(data)
        if self._size <= limit:
            self._result.append(data)
        return self._size <= limit

    def finish(self, end: Exit) -> None:
        """Turn the end of the process into the last event."""
        if end.violation or end.response_too_large or end.oom or end.code is None:
            self._caller.on_lost(end)
        elif end.code:
            self._caller.on_error(
                "RuntimeError",
                f"Function exited with code {end.code}",
                self._errors.decode(errors="replace") or None,
            )
        else:
            self._caller.on_reply(*reply(b"".join(self._result)))


def reply(stdout: bytes) -> tuple[int, bytes, bytes]:
    """Return (200, header block, body): JSON where stdout is JSON, else text, else bytes.

    One trailing newline, as `print` adds it, is not part of a JSON or text answer.
    """
    body = stdout[:-1] if stdout.endswith(b"\n") else stdout
    try:
        body.decode()
    except UnicodeDecodeError:
        return 200, _BYTES, stdout
    try:
        _check_json(body)
    except (msgspec.DecodeError, RecursionError):
        return 200, _TEXT, body
    return 200, _JSON, body
