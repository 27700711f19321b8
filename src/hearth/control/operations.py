"""`/healthz`, `/readyz`, `/metrics`, `/info`, `/audit`: for those who run the node."""

from __future__ import annotations

from starlette.responses import Response

import hearth
from hearth.build import runtimes
from hearth.control.call import Call, answer
from hearth.control.routes import Route
from hearth.control.views import AuditList, AuditQuery, Health, Info, Readiness
from hearth.errors import BadInput

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def health(_call: Call) -> Response:
    """Say that the node answers."""
    return answer(Health())


async def readiness(call: Call) -> Response:
    """Say whether calls can be served, and if not, why."""
    reasons = call.parts.not_ready()
    if reasons:
        return answer(Readiness(status="not ready", reasons=reasons), 503, {"Retry-After": "1"})
    return answer(Readiness(status="ready"))


async def metrics(call: Call) -> Response:
    """Give all metrics; rendered in a thread, because a thousand functions take a while."""
    return Response(await call.parts.render_metrics(), media_type=PROMETHEUS)


async def info(call: Call) -> Response:
    """Say what this node is."""
    settings = call.parts.settings
    return answer(
        Info(
            version=hearth.__version__,
            mode=settings.execution.default_mode,
            isolation_level=settings.process.isolation_level,
            runtimes=runtimes.available(),
            functions=len(call.parts.registry.functions()),
            warnings=call.parts.warnings,
            details=call.parts.extra,
        )
    )


async def audit(call: Call) -> Response:
    """List mutating calls, newest first."""
    query = call.query(AuditQuery)
    return answer(AuditList(entries=await call.parts.store.list_audit(query.limit)))


ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        summary="The node answers",
        handler=health,
        access="open",
        response=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        summary="Calls can be served",
        description="503 with reasons until they can.",
        handler=readiness,
        access="open",
        response=Readiness,
        statuses=(200, 503),
    ),
    Route(
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus",
        handler=metrics,
        media=("text/plain",),
    ),
    Route(method="GET", path="/info", summary="What this node is", handler=info, response=Info),
    Route(
        method="GET",
        path="/audit",
        summary="Who changed what",
        handler=audit,
        query=AuditQuery,
        response=AuditList,
        errors=(BadInput,),
    ),
)
