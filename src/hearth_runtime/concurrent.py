"""Answering calls on an event loop: for async handlers, any number of calls at once.

One loop lives as long as the process: `asyncio.get_running_loop()` is the same in every call, and
a client made in one call can be used in the next. Tasks that a call leaves behind go on.

Frames are written blocking. A node that stops reading (its client is slow) thus stops every call of
this instance; they share one socket, so their answers could not overtake each other anyway.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hearth_runtime.calls import Stream
from hearth_runtime.channel import Closed
from hearth_runtime.frames import FrameError
from hearth_runtime.response import encode

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Any, NoReturn

    from hearth_runtime.calls import Host, Pending


def serve_concurrent(host: Host, pending: Pending | None = None) -> NoReturn:
    """Answer `pending` and all further calls; raises as `serve_blocking` does."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    # Not `asyncio.run`: it would wait for tasks and threads of a process that is about to end.
    loop.run_until_complete(_Loop(host).serve(pending))
    raise Closed


class _Loop:
    """Calls under way on the event loop."""

    def __init__(self, host: Host) -> None:
        """Answer for `host`."""
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, pending: Pending | None) -> None:
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._go_on(pending)
        for frame in self._host.channel.take_ready():
            self._go_on(self._host.answer(*frame))
        loop.add_reader(self._host.channel.fd, self._on_readable)
        await self._ended

    def _on_readable(self) -> None:
        try:
            for frame in self._host.channel.receive_some():
                self._go_on(self._host.answer(*frame))
        except (Closed, FrameError) as error:
            asyncio.get_running_loop().remove_reader(self._host.channel.fd)
            if not self._ended.done():
                self._ended.set_exception(error)

    def _go_on(self, pending: Pending | None) -> None:
        if pending is not None:
            task = asyncio.ensure_future(self._finish(*pending))
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, call: int, answer: Any) -> None:
        try:
            if hasattr(answer, "__await__"):
                answer = await answer
            status, headers, body = encode(answer)
        except BaseException as error:
            self._host.fail(call, error)
            return
        if hasattr(body, "__anext__"):
            stream = Stream(self._host.channel, call, status=status, headers=headers)
            await self._stream(call, stream, body)
        else:
            self._host.conclude(call, status, headers, body)

    async def _stream(self, call: int, stream: Stream, pieces: AsyncGenerator[Any, None]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    stream.write(piece)
            stream.begin()
        except Closed:
            raise
        except BaseException as error:
            self._host.fail(call, error, streaming=stream.begun)
        else:
            self._host.end(call)
