"""The node's end of one instance: frames over a stream socket, and the pipes of stdout and stderr.

Every backend puts one `Channel` into each of its instances. The other end runs user code, so a
frame is an offer and not a fact: it must be legal now, carry the number of a call under way and
stay inside its bounds. The first frame that does not ends the instance, and only that instance.

States: *loading* until READY, then *serving*; *broken* after a violation (nothing more is read
from the socket); *finished* once the backend has called `finish`.

Reading uses `add_reader` and plain `recv` instead of a transport: measured equal in cost per round
trip, and the channel decides itself when to read, when to drain, and when a descriptor is closed.
"""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hearth.sandbox.claims import ViolationError, parse_error, parse_ready
from hearth.sandbox.outbox import Outbox
from hearth.sandbox.output import OutputPipes
from hearth.sandbox.script import ScriptCall
from hearth_runtime import frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from hearth.model import Version
    from hearth.sandbox.base import Caller, CallRequest, Exit, Stream

READ_BYTES = 64 << 10
CLOSED_GRACE_S = 1.0
"""How long a host that closed its channel may take to exit before it is ended for it.

Long, because every crash closes it, and on a busy machine its exit status can be late.
"""
CLOSED = "channel closed by the function"
REST_READS = 1024
"""Most reads after the end: should something still write, it must not hold the node."""
FUNCTION_ROOT = "/app/function"

_CHUNK_COST = 64
"""Least that a piece counts against the limit of an answer: a flood of empty ones must end too."""
_HEAD_ROOM = 128 << 10


class ChannelEvents(Protocol):
    """What the backend's instance hears from its channel, besides the calls' own events."""

    def on_ready(self, init_ns: int) -> None:
        """Hear that the function is loaded."""

    def on_init_failed(self, failure: dict[str, Any]) -> None:
        """Hear why loading failed (`type`, `message`, `stack`): end the process."""

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Take what was written outside any call."""

    def on_violation(self, reason: str) -> None:
        """Kill the process, it may not go on; `finish` follows as after any death."""


class Channel:
    """Speaks frames with one instance; see the module for its states.

    The owner calls `start_init` once, then `call` for each call, and `finish` exactly when the
    process is known to be gone; `finish` closes the descriptors, which the channel owns.
    """

    __slots__ = (
        "_broken",
        "_calls",
        "_close_timer",
        "_decoder",
        "_events",
        "_exit",
        "_fd",
        "_feed",
        "_init_failure",
        "_limit",
        "_loading",
        "_loop",
        "_number",
        "_open",
        "_outbox",
        "_pauses",
        "_pipes",
        "_recv",
        "_script",
        "_sequential",
        "_socket",
        "_streams",
        "_too_large",
        "_version",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel_fd: int,
        stdout_fd: int,
        stderr_fd: int,
        *,
        version: Version,
        events: ChannelEvents,
    ) -> None:
        """Take ownership of the three descriptors; nothing is read before `start_init`."""
        self._loop = loop
        self._version = version
        self._events = events
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, channel_fd)
        self._socket.setblocking(False)
        self._fd = channel_fd
        self._recv = self._socket.recv
        self._outbox = Outbox(loop, self._socket)
        self._limit = version.limits.response_bytes
        self._decoder = frames.Decoder(self._limit + _HEAD_ROOM)
        self._feed = self._decoder.feed
        self._script: ScriptCall | None = None
        self._sequential = version.limits.instance_concurrency == 1
        self._calls: dict[int, Caller] = {}
        """Under way or sent ahead, in the order in which they were sent."""
        self._streams: dict[int, int] = {}
        """Bytes left to the streamed answers under way, by call number."""
        self._number = 0
        self._pauses = 0
        self._loading = True
        self._open = False
        self._broken: str | None = None
        self._too_large = False
        self._init_failure: dict[str, Any] | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._exit: Exit | None = None
        self._pipes = OutputPipes(loop, stdout_fd, stderr_fd, self._output, before=self._catch_up)

    # --- what the backend does -----------------------------------------------------------------

    def start_init(self) -> None:
        """Send INIT and begin to listen."""
        v = self._version
        init = {
            "contract": v.contract,
            "entry": v.entry,
            "handler": v.handler,
            "root": FUNCTION_ROOT,
            "function": v.function,
            "version": v.number,
            "environment": v.environment,
            "instance_concurrency": v.limits.instance_concurrency,
        }
        self._open = True
        self._loop.add_reader(self._fd, self._readable)
        self._pipes.open()
        self._outbox.send(frames.frame(frames.INIT, 0, msgspec.json.encode(init)))

    def call(self, request: CallRequest, caller: Caller) -> None:
        """Hand over one call; `caller` hears its last event at the latest from `finish`."""
        if self._exit is not None:
            caller.on_lost(self._exit)
            return
        self._outbox.send(self._accept(request, caller))

    def call_ahead(self, calls: Sequence[tuple[CallRequest, Caller]]) -> None:
        """Hand over calls behind those under way, as one write."""
        if self._exit is not None:
            for _, caller in calls:
                caller.on_lost(self._exit)
            return
        self._outbox.send(b"".join([self._accept(request, caller) for request, caller in calls]))

    def _accept(self, request: CallRequest, caller: Caller) -> bytes:
        self._number = number = self._number + 1
        if self._version.contract == "script":
            self._script = ScriptCall(caller)
        else:
            self._calls[number] = caller
        return frames.call_frame(
            number,
            request.deadline,
            request.id.encode(),
            request.method,
            request.path,
            request.query,
            request.headers,
            request.body,
        )

    def pause_reading(self) -> None:
        """Read no further frames until as many `resume_reading` as there were pauses."""
        self._pauses += 1
        if self._pauses == 1 and self._open:
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Undo one `pause_reading`."""
        self._pauses = max(0, self._pauses - 1)
        if not self._pauses and self._open:
            self._loop.add_reader(self._fd, self._readable)

    def finish(self, end: Exit) -> Exit:
        """Take the end of the process: settle every call and close; return the `Exit` to report.

        What the process sent before it died still counts, so socket and pipes are read to their
        end first. The result carries what only the channel knows: violation, init failure.
        """
        if self._exit is not None:
            return self._exit
        self._read_rest()
        self._pipes.drain(to_end=True)
        self._exit = end = self._verdict(end)
        self._close()
        calls, self._calls = list(self._calls.values()), {}
        for caller in calls:
            caller.on_lost(end)
        if self._script is not None:
            self._script.finish(end)
        return end

    @property
    def violation(self) -> str | None:
        """What the host did wrong, once it did."""
        return self._broken

    # --- reading -------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take what has arrived, one `recv` per turn of the loop: floods wait."""
        try:
            data = self._recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._end_of_stream()

    def _take(self, data: bytes) -> None:
        try:
            for kind, flags, number, payload in self._feed(data):
                handle = _HANDLERS.get(kind)
                if handle is None:
                    raise ViolationError(f"frame of kind {kind}")  # one place maps it
                if flags > frames.OUTPUT:
                    raise ViolationError(f"flags {flags:#x}")  # as above
                handle(self, flags, number, payload)
                if not self._open:
                    return
        except frames.FrameTooLarge as error:
            self._too_large = True
            self._break(str(error))
        except (ViolationError, frames.FrameError) as error:
            self._break(str(error))

    def _under_way(self, number: int) -> Caller | None:
        """Return who waits for call `number`, if its turn has come."""
        caller = self._calls.get(number)
        if caller is None or (self._sequential and next(iter(self._calls)) != number):
            return None
        return caller

    def _on_reply(self, flags: int, number: int, payload: bytes) -> None:
        caller = self._under_way(number)
        if caller is None or number in self._streams:
            raise ViolationError(f"REPLY to call {number}")
        status, headers, body = frames.parse_reply(payload)
        if len(body) > self._limit:
            self._refuse_length()
        if flags:
            self._pipes.drain()
        del self._calls[number]
        caller.on_reply(status, headers, body)

    def _on_head(self, flags: int, number: int, payload: bytes) -> None:
        caller = self._under_way(number)
        if caller is None or number in self._streams:
            raise ViolationError(f"HEAD for call {number}")
        status, headers, body = frames.parse_reply(payload)
        if body:
            raise ViolationError("HEAD with a body")
        self._streams[number] = self._limit
        caller.on_head(status, headers)

    def _on_chunk(self, flags: int, number: int, payload: bytes) -> None:
        left = self._streams.get(number)
        if left is None:
            raise ViolationError(f"CHUNK for call {number}")
        cost = max(len(payload), _CHUNK_COST)
        if cost > left:
            self._refuse_length()
        self._streams[number] = left - cost
        self._calls[number].on_chunk(payload)

    def _on_end(self, flags: int, number: int, payload: bytes) -> None:
        if number not in self._streams or payload:
            raise ViolationError(f"END of call {number}")
        if flags:
            self._pipes.drain()
        del self._streams[number]
        self._calls.pop(number).on_end()

    def _on_error(self, flags: int, number: int, payload: bytes) -> None:
        if self._under_way(number) is None:
            raise ViolationError(f"ERROR of call {number}")
        error = parse_error(payload)
        if flags:
            self._pipes.drain()
        self._streams.pop(number, None)
        self._calls.pop(number).on_error(error["type"], error["message"], error["stack"])

    def _on_ready(self, flags: int, number: int, payload: bytes) -> None:
        if not self._loading or number:
            raise ViolationError("READY")
        init_ns = parse_ready(payload)
        if flags:
            self._pipes.drain()
        self._loading = False
        self._events.on_ready(init_ns)

    def _on_init_failed(self, flags: int, number: int, payload: bytes) -> None:
        if not self._loading or number or self._init_failure is not None:
            raise ViolationError("INIT_FAILED")
        failure = parse_error(payload)
        if flags:
            self._pipes.drain()
        self._init_failure = failure
        self._events.on_init_failed(failure)

    def _refuse_length(self) -> None:
        self._too_large = True
        raise ViolationError(f"answer larger than {self._limit} bytes")

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = f"protocol violation: {reason}"
            self._stop_socket()
            self._events.on_violation(self._broken)

    def _end_of_stream(self) -> None:
        """Handle EOF: the process is going, or has closed its side and wrongly lives on."""
        self._stop_socket()
        if self._version.contract != "script":
            self._close_timer = self._loop.call_later(CLOSED_GRACE_S, self._break, CLOSED)

    def _read_rest(self) -> None:
        """Read what was sent before the end: a socket buffer at most, as the sender is dead."""
        for _ in range(REST_READS):
            if not self._open or self._broken is not None:
                return
            try:
                data = self._recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._take(data)

    # --- output --------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Take answers before output: with calls sent ahead, it may be of the call behind them."""
        if len(self._calls) > 1 and self._sequential and self._open and not self._pauses:
            self._readable()

    def _output(self, stream: Stream, data: bytes) -> None:
        """Give output to the call it belongs to, or to the instance where that is not known."""
        if self._script is not None:
            if not self._script.take(stream, data, self._limit):
                self._too_large = True
                self._break(f"result larger than {self._limit} bytes")
        elif self._calls and self._sequential:
            next(iter(self._calls.values())).on_output(stream, data)
        else:
            self._events.on_output(stream, data)

    # --- the end -------------------------------------------------------------------------------

    def _verdict(self, end: Exit) -> Exit:
        """Merge what the channel saw into the backend's account."""
        if self._init_failure is not None:
            end = msgspec.structs.replace(end, init_failure=self._init_failure)
        if self._broken is not None and not self._only_slow_to_end(end):
            end = msgspec.structs.replace(
                end,
                violation=not self._too_large,
                response_too_large=self._too_large,
                reason=self._broken,
            )
        return end

    def _only_slow_to_end(self, end: Exit) -> bool:
        """Tell whether it closed because it was ending anyway, which a busy host reports late."""
        closed = self._broken is not None and self._broken.endswith(CLOSED)
        return closed and (end.code is not None or end.signal not in {None, signal.SIGKILL})

    def _stop_socket(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            self._outbox.close()

    def _close(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._stop_socket()
        self._pipes.close()
        self._socket.close()


_HANDLERS = {
    frames.REPLY: Channel._on_reply,
    frames.HEAD: Channel._on_head,
    frames.CHUNK: Channel._on_chunk,
    frames.END: Channel._on_end,
    frames.ERROR: Channel._on_error,
    frames.READY: Channel._on_ready,
    frames.INIT_FAILED: Channel._on_init_failed,
}
