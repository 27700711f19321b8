"""What the control API takes and gives, as types; the OpenAPI schemas are made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hearth.build.declaration import shown
from hearth.model import Function, InvocationRecord, Key, Limits, Scale, Scope, Status, Version
from hearth.store.base import AuditEntry


class VersionView(msgspec.Struct, kw_only=True):
    """One deploy of a function."""

    number: int
    label: str
    digest: str
    created_at: float


class FunctionView(msgspec.Struct, kw_only=True):
    """A function, its newest version, and what was decided about it."""

    id: str
    name: str
    version: str
    """The user's version text, or the number."""
    number: int
    label: str
    runtime: str
    handler: str
    entry: str
    contract: str
    mode: str
    isolation_level: str
    network: str
    timeout: str
    memory_mb: int
    max_concurrency: int
    limits: Limits
    scale: Scale
    declared: dict[str, Any]
    """What was declared, without code and without the values of variables."""
    reasons: tuple[str, ...]
    """Why contract and mode are what they are."""
    warnings: tuple[str, ...]
    """Accepted keys that have no effect yet."""
    aliases: dict[str, int]
    digest: str
    artifact: str
    instances: dict[str, int]
    """Live instances by state."""
    versions: tuple[VersionView, ...]
    url: str
    created_at: float
    updated_at: float


class FunctionList(msgspec.Struct, kw_only=True):
    """All functions, by name."""

    functions: list[FunctionView]


class Removed(msgspec.Struct, kw_only=True):
    """What is gone now."""

    id: str
    name: str
    removed: bool = True


class InvokeRequest(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename={"asynchronous": "async"}
):
    """A call by name or id; exactly one of both."""

    function: Annotated[str, Meta(max_length=64)] | None = None
    function_id: Annotated[str, Meta(max_length=64)] | None = None
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    """Any JSON; passed on as it is written."""
    asynchronous: bool = False


class Queued(msgspec.Struct, kw_only=True):
    """An accepted asynchronous call; it is on disk."""

    id: str
    function_id: str
    function: str
    version: int
    status: Literal["queued"] = "queued"


class InvocationQuery(msgspec.Struct, kw_only=True):
    """Which invocations."""

    function: str | None = None
    """Name or id of a function."""
    status: Status | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    before: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None
    """Id after which to continue: `next` of the page before."""


class InvocationList(msgspec.Struct, kw_only=True):
    """Newest first; results and logs are left out."""

    invocations: list[InvocationRecord]
    next: str | None = None
    """Value of `before` for the next page; null at the end."""


class LogQuery(msgspec.Struct, kw_only=True):
    """Which lines of one invocation."""

    stream: Literal["stdout", "stderr"] | None = None
    follow: Literal["0", "1", "false", "true"] = "0"
    """`1`: go on until the invocation has ended."""


class FunctionLogQuery(msgspec.Struct, kw_only=True):
    """Which lines of a function."""

    tail: Annotated[int, Meta(ge=1, le=200)] = 20
    """How many of the last invocations."""
    follow: Literal["0", "1", "false", "true"] = "0"
    """`1`: go on with new invocations until the client leaves."""


class KeyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=2)] = ("invoke",)


class KeyView(msgspec.Struct, kw_only=True):
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: float


class NewKey(KeyView, kw_only=True):
    """A key with its secret, which is shown this once."""

    secret: str


class KeyList(msgspec.Struct, kw_only=True):
    """All keys, oldest first."""

    keys: list[KeyView]


class AuditQuery(msgspec.Struct, kw_only=True):
    """How much of the audit log."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class AuditList(msgspec.Struct, kw_only=True):
    """Mutating calls, newest first."""

    entries: list[AuditEntry]


class Health(msgspec.Struct, kw_only=True):
    """The node answers."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, kw_only=True):
    """Whether calls can be served."""

    status: Literal["ready", "not ready"]
    reasons: tuple[str, ...] = ()


class Info(msgspec.Struct, kw_only=True):
    """What this node is."""

    version: str
    mode: str
    isolation_level: str
    runtimes: tuple[str, ...]
    functions: int
    warnings: tuple[str, ...]
    """Settings that have no effect yet."""
    details: dict[str, Any] = {}


class ErrorBody(msgspec.Struct, kw_only=True):
    """What went wrong."""

    type: str
    message: str
    component: str
    request_id: str
    limit: str | None = None
    """Name and value of the limit that fired."""
    path: str | None = None
    """JSON path of the input that is not understood."""
    stack: str | None = None
    """The function's own stack; only for scope admin."""


class ErrorView(msgspec.Struct, kw_only=True):
    """An error of the platform."""

    error: ErrorBody


def function_view(
    function: Function, versions: list[Version], instances: dict[str, int]
) -> FunctionView:
    """Return how the API shows a function at its version `latest`."""
    number = function.aliases["latest"]
    version = next(one for one in versions if one.number == number)
    limits = version.limits
    return FunctionView(
        id=function.id,
        name=function.name,
        version=version.label or str(number),
        number=number,
        label=version.label,
        runtime=version.runtime,
        handler=version.handler,
        entry=version.entry,
        contract=version.contract,
        mode=version.mode,
        isolation_level=version.isolation_level,
        network=version.network,
        timeout=f"{limits.timeout_s:g}s",
        memory_mb=limits.memory_bytes >> 20,
        max_concurrency=limits.max_concurrency,
        limits=limits,
        scale=version.scale,
        declared=shown(version.declared),
        reasons=version.reasons,
        warnings=version.warnings,
        aliases=function.aliases,
        digest=version.digest,
        artifact=version.artifact,
        instances=instances,
        versions=tuple(
            VersionView(number=v.number, label=v.label, digest=v.digest, created_at=v.created_at)
            for v in sorted(versions, key=lambda v: -v.number)
        ),
        url=f"/function/{function.name}",
        created_at=function.created_at,
        updated_at=function.updated_at,
    )


def key_view(key: Key) -> KeyView:
    """Return how the API shows a key."""
    return KeyView(id=key.id, name=key.name, scopes=key.scopes, created_at=key.created_at)


def invocation_view(record: InvocationRecord, *, admin: bool) -> InvocationRecord:
    """Return a record as its reader may see it: stacks and logs are for scope admin."""
    if admin:
        return record
    error = record.error and msgspec.structs.replace(record.error, stack=None)
    return msgspec.structs.replace(record, error=error, logs=())
