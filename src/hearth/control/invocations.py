"""`/invoke` and `/invocations`: call a function, and what became of calls."""

from __future__ import annotations

import re

import msgspec
from starlette.responses import Response

from hearth import errors
from hearth.control.call import Call, answer
from hearth.control.routes import Route
from hearth.control.views import (
    InvocationList,
    InvocationQuery,
    InvokeRequest,
    Queued,
    invocation_view,
)
from hearth.engine.records import Result
from hearth.errors import (
    BadInput,
    Cancelled,
    Conflict,
    HearthError,
    InvocationError,
    NoCapacity,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    QueueTimeout,
    Timeout,
    TooManyRequests,
)
from hearth.model import InvocationRecord, Version
from hearth.sandbox.base import CallRequest
from hearth.telemetry import traces

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_STATUS_OF = {
    kind.type: kind.status
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HearthError)
}
_FINISHED = frozenset({"succeeded", "failed", "timeout", "cancelled"})


async def invoke(call: Call) -> Response:
    """Call a function and answer with the invocation record."""
    wanted = await call.read(InvokeRequest)
    if (wanted.function is None) == (wanted.function_id is None):
        raise BadInput("give one of function and function_id", path="$.function")
    version = _version(call, wanted)
    call.target = version.function
    request = _request(call.request_id, bytes(wanted.payload))
    parent = _traceparent(call, request)
    if wanted.asynchronous:
        invocation_id = await call.parts.queue.enqueue(version, request, traceparent=parent)
        queued = Queued(
            id=invocation_id,
            function_id=version.function_id,
            function=version.function,
            version=version.number,
        )
        return answer(queued, 202, {"Location": f"/invocations/{invocation_id}"})
    record, reply = await call.parts.invoker.invoke(
        version, request, keep_result=True, traceparent=parent
    )
    if reply is not None:
        whole = Result(len(reply.body))  # the record keeps less of a long answer
        whole.add(reply.body)
        record = msgspec.structs.replace(record, result=whole.value(), result_truncated=False)
    status = status_of(record)
    return answer(invocation_view(record, admin=call.is_admin), status, _headers(record, status))


def _headers(record: InvocationRecord, status: int) -> dict[str, str]:
    """Return what `/function/{name}` would say beside such an outcome."""
    headers = {"X-Cold-Start": "true"} if record.metrics.cold_start else {}
    return headers | ({"Retry-After": "1"} if status == NoCapacity.status else {})


def status_of(record: InvocationRecord) -> int:
    """Return the HTTP status that tells what became of an invocation."""
    if record.status == "succeeded":
        return 200
    kind = record.error.type if record.error else ""
    return _STATUS_OF.get(kind, 504 if record.status == "timeout" else 502)


def _version(call: Call, wanted: InvokeRequest) -> Version:
    ref = wanted.function if wanted.function is not None else wanted.function_id
    entry = call.parts.registry.entry(str(ref))
    given_id = wanted.function_id
    if given_id is not None and given_id not in (entry.function.id, entry.function.name):
        raise NotFound(f"there is no function {ref!r}")
    return entry.version


def _request(request_id: str, payload: bytes) -> CallRequest:
    return CallRequest(
        id=request_id,  # so that `X-Call-Id` names the invocation, as on every other way to call
        method=b"POST",
        path=b"/",
        query=b"",
        headers=b"content-type: application/json\r\n",
        body=payload,
        deadline=0.0,
    )


def _traceparent(call: Call, request: CallRequest) -> str | None:
    """Pass the caller's place in a trace on to the function, and return it for the record."""
    given = call.request.headers.get("traceparent", "")
    if traces.parse(given.encode("latin-1")) is None:
        return None
    request.headers += b"traceparent: %b\r\n" % given.encode("latin-1")
    return given


async def index(call: Call) -> Response:
    """List invocations, newest first."""
    query = call.query(InvocationQuery)
    name = query.function
    if name is not None and name in call.parts.registry.routes:
        name = call.parts.registry.entry(name).function.name
    call.parts.invoker.flush_records()
    found = await call.parts.store.list_invocations(
        function=name, status=query.status, limit=query.limit, before=query.before
    )
    after = found[-1].id if len(found) == query.limit else None
    return answer(InvocationList(invocations=found, next=after))


async def show(call: Call) -> Response:
    """Show one invocation, under way or finished."""
    record = await find(call)
    return answer(invocation_view(record, admin=call.is_admin))


async def cancel(call: Call) -> Response:
    """End an invocation that is queued or running."""
    record = await find(call)
    if record.status in _FINISHED:
        raise Conflict(f"the invocation has {record.status} already")
    if not await call.parts.queue.cancel(record.id):
        running = call.parts.invoker.find(record.id)
        if running is None:
            raise Conflict("the invocation has just ended")
        running.cancel("cancelled through the API")
    return answer(invocation_view(await find(call), admin=call.is_admin))


async def find(call: Call) -> InvocationRecord:
    """Return the record of the invocation in the path.

    Raises:
        NotFound: it never was, or retention has removed it.
    """
    invocation_id = call.ref("id")
    if _ID.fullmatch(invocation_id):
        running = call.parts.invoker.find(invocation_id)
        if running is not None:
            return running.record()
        call.parts.invoker.flush_records()
        record = await call.parts.store.get_invocation(invocation_id)
        if record is not None:
            return record
    raise NotFound(f"there is no invocation {invocation_id!r}, or its record is no longer kept")


ROUTES = (
    Route(
        method="POST",
        path="/invoke",
        summary="Call a function and wait for its record",
        description=(
            "200 when it succeeded; 202 with `async: true`, then the call is on disk. A call that "
            "failed, timed out or was cancelled is answered with its record and status 502, 504 "
            "or 409."
        ),
        handler=invoke,
        access="invoke",
        request=InvokeRequest,
        response=InvocationRecord,
        other={202: Queued},
        statuses=(200, 202, 409, 502, 503, 504),
        errors=(
            BadInput,
            NotFound,
            PayloadTooLarge,
            TooManyRequests,
            QueueFull,
            QueueTimeout,
            NoCapacity,
            InvocationError,
            Timeout,
            Cancelled,
        ),
        tag="invocations",
    ),
    Route(
        method="GET",
        path="/invocations",
        summary="List invocations",
        handler=index,
        query=InvocationQuery,
        response=InvocationList,
        errors=(BadInput,),
        tag="invocations",
    ),
    Route(
        method="GET",
        path="/invocations/{id}",
        summary="Show an invocation",
        description="Stack and logs are left out for keys without scope admin.",
        handler=show,
        access="invoke",
        response=InvocationRecord,
        errors=(NotFound,),
        tag="invocations",
    ),
    Route(
        method="DELETE",
        path="/invocations/{id}",
        summary="Cancel an invocation",
        handler=cancel,
        action="invocation.cancel",
        response=InvocationRecord,
        errors=(NotFound, Conflict),
        tag="invocations",
    ),
)
