"""`/functions`: deploy, look, remove."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from hearth.build.declaration import Declaration
from hearth.control.call import Call, answer, decode
from hearth.control.routes import Route
from hearth.control.views import FunctionList, FunctionView, Removed, function_view
from hearth.engine.registry import Entry
from hearth.errors import (
    BadInput,
    Conflict,
    DeployFailed,
    IsolationUnavailable,
    NoCapacity,
    NotFound,
    PayloadTooLarge,
)


async def create(call: Call) -> Response:
    """Deploy a function that is new, or exactly the same."""
    declaration, code = await _declaration(call)
    deployed = await call.parts.deployer.deploy(declaration, code, replace=False)
    entry = call.parts.registry.entry(deployed.function.id)
    location = {"Location": f"/functions/{deployed.function.name}"}
    return answer(_view(call, entry), 201 if deployed.created else 200, location)


async def update(call: Call) -> Response:
    """Lay the given fields over a function's own and deploy the result."""
    name = call.parts.registry.entry(call.ref("ref")).function.name
    declaration, code = await _declaration(call)
    if declaration.setdefault("name", name) != name:
        raise BadInput("a function cannot be renamed; deploy it under the new name", path="$.name")
    call.target = name
    await call.parts.deployer.deploy(declaration, code, replace=True)
    return answer(_view(call, call.parts.registry.entry(name)))


async def show(call: Call) -> Response:
    """Describe one function."""
    return answer(_view(call, call.parts.registry.entry(call.ref("ref"))))


async def index(call: Call) -> Response:
    """List all functions."""
    entries = call.parts.registry.functions()
    return answer(FunctionList(functions=[_view(call, entry) for entry in entries]))


async def remove(call: Call) -> Response:
    """Remove a function with its versions; calls in flight finish first."""
    function = await call.parts.deployer.delete(call.ref("ref"))
    call.target = function.name
    return answer(Removed(id=function.id, name=function.name))


async def _declaration(call: Call) -> tuple[dict[str, object], memoryview | None]:
    """Return the declared fields, and the code as it is written, without a copy of it."""
    fields = decode(await call.body(), dict[str, msgspec.Raw])
    raw = fields.pop("code", None)
    declaration = {key: decode(bytes(value), object) for key, value in fields.items()}
    call.target = str(declaration.get("name", call.target))[:64]
    code = memoryview(raw if raw is not None else b"null")
    if bytes(code[:4]) == b"null":
        return declaration, None
    if bytes(code[:1]) != b'"':
        raise BadInput("code must be text: base64 of a source file or an archive", path="$.code")
    return declaration, code


def _view(call: Call, entry: Entry) -> FunctionView:
    instances = dict(call.parts.instances(entry.function))
    return function_view(entry.function, list(entry.versions.values()), instances)


_DEPLOY_ERRORS = (BadInput, DeployFailed, PayloadTooLarge, IsolationUnavailable, NoCapacity)

ROUTES = (
    Route(
        method="POST",
        path="/functions",
        summary="Deploy a new function",
        description="201 when it is new, 200 when exactly the same is there already.",
        handler=create,
        action="function.deploy",
        request=Declaration,
        response=FunctionView,
        statuses=(201, 200),
        errors=(*_DEPLOY_ERRORS, Conflict),
        tag="functions",
    ),
    Route(
        method="GET",
        path="/functions",
        summary="List functions",
        handler=index,
        response=FunctionList,
        tag="functions",
    ),
    Route(
        method="GET",
        path="/functions/{ref}",
        summary="Describe a function",
        handler=show,
        response=FunctionView,
        errors=(NotFound,),
        tag="functions",
    ),
    Route(
        method="PUT",
        path="/functions/{ref}",
        summary="Deploy a new version",
        description="The given fields are laid over the function's own; null resets one.",
        handler=update,
        action="function.deploy",
        request=Declaration,
        response=FunctionView,
        errors=(*_DEPLOY_ERRORS, NotFound),
        tag="functions",
    ),
    Route(
        method="DELETE",
        path="/functions/{ref}",
        summary="Remove a function",
        handler=remove,
        action="function.delete",
        response=Removed,
        errors=(NotFound,),
        tag="functions",
    ),
)
