"""Logs of one invocation and of a function, whole or followed, as text or as JSON lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.responses import Response, StreamingResponse

from hearth.control.call import Call
from hearth.control.invocations import find
from hearth.control.routes import Route
from hearth.control.views import FunctionLogQuery, LogQuery
from hearth.errors import BadInput, NotFound
from hearth.model import InvocationRecord, LogLine

NDJSON = "application/x-ndjson"
_UNFINISHED = frozenset({"queued", "running"})
_MISSES = 40
"""Looks at a log for which the store has no record yet, before a follower is let go."""
_PAGE = 200
_YES = frozenset({"1", "true"})


async def of_invocation(call: Call) -> Response:
    """Give what one invocation wrote."""
    query = call.query(LogQuery)
    record = await find(call)
    if query.follow in _YES:
        return _streamed(call, _follow(call, record, query.stream))
    return _whole(call, [_line(call, None, line) for line in _of(record.logs, query.stream)])


async def of_function(call: Call) -> Response:
    """Give what the last invocations of a function wrote, oldest first."""
    query = call.query(FunctionLogQuery)
    name = call.parts.registry.entry(call.ref("ref")).function.name
    seen: set[str] = set()
    lines = [line async for line in _new_lines(call, name, query.tail, seen)]
    if query.follow in _YES:
        return _streamed(call, _follow_function(call, name, seen, lines))
    return _whole(call, lines)


async def _follow(call: Call, record: InvocationRecord, stream: str | None) -> AsyncIterator[bytes]:
    given, missed = 0, 0
    while True:
        for line in _of(record.logs[given:], stream):
            yield _line(call, None, line)
        given = len(record.logs)
        if record.status not in _UNFINISHED or missed > _MISSES:
            return
        await asyncio.sleep(call.parts.follow_interval_s)
        try:
            record = await find(call)
        except NotFound:  # between the end of a call and the next batch of records
            missed += 1


async def _follow_function(
    call: Call, name: str, seen: set[str], lines: list[bytes]
) -> AsyncIterator[bytes]:
    for line in lines:
        yield line
    while name in call.parts.registry.routes:
        await asyncio.sleep(call.parts.follow_interval_s)
        async for line in _new_lines(call, name, _PAGE, seen):
            yield line


async def _new_lines(call: Call, name: str, count: int, seen: set[str]) -> AsyncIterator[bytes]:
    """Yield the lines of finished invocations that are not in `seen`, and note them there."""
    call.parts.invoker.flush_records()
    listed = await call.parts.store.list_invocations(
        function=name, status=None, limit=count, before=None
    )
    finished = [record.id for record in reversed(listed) if record.status not in _UNFINISHED]
    for invocation_id in finished:
        if invocation_id not in seen:
            record = await call.parts.store.get_invocation(invocation_id)
            for line in record.logs if record else ():
                yield _line(call, invocation_id, line)
    seen.update(finished)
    if len(seen) > 2 * _PAGE:
        seen.intersection_update(finished)


def _of(lines: Sequence[LogLine], stream: str | None) -> list[LogLine]:
    return [line for line in lines if stream is None or line.stream == stream]


def _line(call: Call, invocation_id: str | None, line: LogLine) -> bytes:
    if _wants_json(call):
        fields = {"time": line.time, "stream": line.stream, "text": line.text.rstrip("\n")}
        if invocation_id is not None:
            fields["id"] = invocation_id
        return msgspec.json.encode(fields) + b"\n"
    text = line.text.rstrip("\n")
    if invocation_id is not None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(line.time))
        text = f"{moment} {invocation_id} {text}"
    return text.encode(errors="replace") + b"\n"


def _wants_json(call: Call) -> bool:
    accept = call.request.headers.get("accept", "")
    return "ndjson" in accept or "application/json" in accept


def _media(call: Call) -> str:
    return NDJSON if _wants_json(call) else "text/plain; charset=utf-8"


def _whole(call: Call, lines: list[bytes]) -> Response:
    return Response(b"".join(lines), media_type=_media(call))


def _streamed(call: Call, lines: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(lines, media_type=_media(call))


ROUTES = (
    Route(
        method="GET",
        path="/invocations/{id}/logs",
        summary="Logs of an invocation",
        description="With `Accept: application/x-ndjson` one JSON object for each line.",
        handler=of_invocation,
        query=LogQuery,
        media=("text/plain", NDJSON),
        errors=(BadInput, NotFound),
        tag="invocations",
    ),
    Route(
        method="GET",
        path="/functions/{ref}/logs",
        summary="Logs of a function's last invocations",
        description="With `Accept: application/x-ndjson` one JSON object for each line.",
        handler=of_function,
        query=FunctionLogQuery,
        media=("text/plain", NDJSON),
        errors=(BadInput, NotFound),
        tag="functions",
    ),
)
