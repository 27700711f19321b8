"""The control API as one ASGI application: authorise → handle → audit, and one form for errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hearth.control import (
    dataplane,
    functions,
    invocations,
    keys,
    logs,
    openapi,
    operations,
    page,
)
from hearth.control.call import Call
from hearth.control.parts import Identity, Parts
from hearth.control.routes import Route
from hearth.errors import Forbidden, HearthError, MethodNotAllowed, NotFound, Unauthenticated
from hearth.telemetry.logs import get_logger
from hearth.wire.ids import new_id
from hearth.wire.problem import problem, problem_headers

_log = get_logger("control")


def make_app(parts: Parts) -> ASGIApp:
    """Return the application.

    It expects `scope["hearth.identity"]` (see `parts.Identity`; without it only open routes
    answer) and takes `scope["state"]["request_id"]` as the request's id if it is there.
    """
    served = _served()
    methods: dict[str, dict[str, Route]] = {}
    for route in served:
        methods.setdefault(route.path, {})[route.method] = route
    paths = [Path(path, _Endpoint(parts, by_method)) for path, by_method in methods.items()]
    return _Application(Router(routes=paths, redirect_slashes=False, default=_not_found))


def table() -> tuple[Route, ...]:
    """Return every route of the node, those of the data plane included."""
    return (*_served(), *dataplane.ROUTES)


def _served() -> tuple[Route, ...]:
    described = (
        Route(method="GET", path="/openapi.json", summary="This document", handler=_document),
        Route(
            method="GET",
            path="/docs",
            summary="This document, to read",
            handler=_docs,
            media=("text/html",),
        ),
    )
    own = (functions, invocations, logs, keys, operations)
    return (*(route for module in own for route in module.ROUTES), *described)


async def _document(_call: Call) -> Response:
    return Response(_description()[0], media_type="application/json")


async def _docs(_call: Call) -> Response:
    return HTMLResponse(_description()[1], headers={"Content-Security-Policy": page.POLICY})


_made: list[tuple[bytes, str]] = []


def _description() -> tuple[bytes, str]:
    """Return the document and its page, made at the first request and kept."""
    if not _made:
        document = openapi.document(table())
        _made.append((msgspec.json.encode(document), page.render(document)))
    return _made[0]


class _Application:
    """Gives every error the one form; nothing gets past it."""

    def __init__(self, router: ASGIApp) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(scope.setdefault("state", {}).setdefault("request_id", new_id()))
        started = False

        async def send_on(message: Mapping[str, object]) -> None:
            nonlocal started
            started = True
            await send(message)  # type: ignore[arg-type]  # passed on as it came

        try:
            await self._router(scope, receive, send_on)
        except ClientDisconnect:
            return
        except HearthError as error:
            response = _refusal(error, request_id, scope)
        except Exception:  # a bug of ours: the caller gets its id and the log the traceback
            _log.exception("request failed", request_id=request_id, path=scope["path"])
            if started:
                raise
            message = f"the platform failed; its log has more under {request_id}"
            response = _refusal(HearthError(message), request_id, scope)
        else:
            return
        await response(scope, receive, send)


def _refusal(error: HearthError, request_id: str, scope: Scope) -> Response:
    identity = scope.get("hearth.identity")
    show_stack = identity is not None and "admin" in identity.scopes
    lines = problem_headers(error).decode("latin-1").splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    body = problem(error, request_id, show_stack=show_stack)
    return Response(body, error.status, headers)


class _NotAllowed(MethodNotAllowed):
    """The method is not allowed here."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{method[:20]!a} is not allowed here; use {', '.join(allowed)}")


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFound(f"there is no {scope['path'][:100]!a}; /docs lists what there is")


class _Endpoint:
    """One path, all its methods."""

    def __init__(self, parts: Parts, by_method: dict[str, Route]) -> None:
        self._parts = parts
        self._by_method = by_method
        if "GET" in by_method:
            self._by_method = {**by_method, "HEAD": by_method["GET"]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        route = self._by_method.get(request.method)
        if route is None:
            raise _NotAllowed(request.method, self._by_method)
        response = await self._answer(route, request)
        await response(scope, receive, send)

    async def _answer(self, route: Route, request: Request) -> Response:
        call = Call(
            parts=self._parts,
            request=request,
            identity=request.scope.get("hearth.identity") or _NOBODY,
            request_id=str(request.scope["state"]["request_id"]),
        )
        handle = partial(_authorised, route, call)
        return await (self._audited(route, call, handle) if route.action else handle())

    async def _audited(
        self, route: Route, call: Call, handle: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Write down who tried to change what, whether it worked or not."""
        outcome = "Interrupted"
        try:
            response = await handle()
            outcome = "ok"
        except HearthError as error:
            outcome = error.type
            raise
        except Exception:
            outcome = HearthError.type
            raise
        finally:
            client = call.request.client
            self._parts.audit.record(
                route.action or "",
                call.target,
                identity=call.identity.id,
                request_id=call.request_id,
                remote=client.host if client else "-",
                outcome=outcome,
            )
        return response


class _Nobody:
    """Who calls without a valid key."""

    id = "nobody"
    scopes: frozenset[str] = frozenset()


_NOBODY: Identity = _Nobody()  # type: ignore[assignment]  # has no scope, so any kind of scope


class _NoQuery(msgspec.Struct):
    """What a route takes that takes no query; the open ones are not strict with probes."""


async def _authorised(route: Route, call: Call) -> Response:
    if route.access != "open":
        if call.identity is _NOBODY:
            raise Unauthenticated
        if not call.is_admin and route.access not in call.identity.scopes:
            raise Forbidden(f"this needs an API key with scope `{route.access}`")
        if route.query is None:
            call.query(_NoQuery)
    if route.handler is None:
        raise NotFound
    return await route.handler(call)
