"""The nouns of the design: what a function is once it is understood, and what a call leaves behind.

Frozen structs in, frozen structs out. Times are `float` Unix seconds unless a name says `_ns`
(nanoseconds); sizes are bytes; durations in `_s` are seconds.
"""

from __future__ import annotations

import time
from typing import Any, Literal, Protocol

import msgspec

Contract = Literal["handler", "script"]
Mode = Literal["process", "container"]
Network = Literal["none", "host"]
IsolationLevel = Literal["strict", "lightweight"]
Status = Literal["queued", "running", "succeeded", "failed", "timeout", "cancelled"]
Scope = Literal["invoke", "admin"]


class Clock(Protocol):
    """Where time comes from, so that tests need no sleeps."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def time(self) -> float:
        """Return Unix seconds."""


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one function may use; every field is enforced or the deploy is refused."""

    timeout_s: float = 30.0
    memory_bytes: int = 128 << 20
    cpu: float | None = None
    """Hard quota in cores (`100m` is 0.1); None: only a weight proportional to memory."""
    pids: int = 64
    tmp_bytes: int = 64 << 20
    max_concurrency: int = 10
    """Most invocations of the function in flight at once."""
    instance_concurrency: int = 1
    """How many invocations one instance takes at once."""
    queue_size: int = 1000
    """Most invocations waiting for an instance; one more is refused with 429."""
    queue_timeout_s: float = 30.0
    response_bytes: int = 64 << 20


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances are kept when nobody calls."""

    min_instances: int = 0
    idle_ttl_s: float | None = None
    """How long an idle instance is kept; None: what the node's settings say while it runs."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable deploy of a function."""

    function_id: str
    function: str
    number: int
    label: str
    """The user's own version text, e.g. `1.0.0`; may be empty."""
    digest: str
    """SHA-256 (hex) over code and settings: the same deploy again has the same digest."""
    artifact: str
    """SHA-256 (hex) of the unpacked bundle; names its directory below `data_dir/artifacts`."""
    runtime: str
    """The resolved toolchain, e.g. `python3.11`."""
    entry: str
    """File inside the bundle that is loaded or run, e.g. `handler.py`."""
    handler: str
    """Function in the entry module for contract `handler`; empty for `script`."""
    contract: Contract
    mode: Mode = "process"
    isolation_level: IsolationLevel = "strict"
    network: Network = "none"
    environment: dict[str, str] = {}
    limits: Limits = Limits()
    scale: Scale = Scale()
    preload: tuple[str, ...] = ()
    """Modules the zygote imports before it forks (e.g. `asyncio` for an async handler)."""
    reasons: tuple[str, ...] = ()
    """Why mode and contract are what they are, one sentence each."""
    warnings: tuple[str, ...] = ()
    """Accepted keys that have no effect yet, one sentence each."""
    declared: dict[str, Any] = {}
    """The fields as the user gave them, without the code: what PUT merges into."""
    created_at: float = 0.0


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A name and an id, and the versions behind it."""

    id: str
    name: str
    created_at: float
    updated_at: float
    aliases: dict[str, int]
    """Alias to version number; `latest` always exists."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key; the secret itself is shown once and only its SHA-256 is kept."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    secret_sha256: bytes
    created_at: float


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an invocation did not succeed; `type` is from the closed list in `errors.py`."""

    type: str
    message: str
    stack: str | None = None


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What one invocation used; None means that it could not be measured."""

    duration: int | None = None
    """Nanoseconds from hand-over to the instance until the answer."""
    memory_peak: int | None = None
    network_in: int | None = None
    network_out: int | None = None
    cold_start: bool = False
    queue_wait: int | None = None
    """Nanoseconds between arrival and hand-over to an instance."""
    init: int | None = None
    """Nanoseconds the instance took to become ready, on a cold start only."""


class LogLine(msgspec.Struct, frozen=True):
    """Something a function wrote."""

    time: float
    stream: Literal["stdout", "stderr"]
    text: str


class InvocationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as `GET /invocations/{id}` shows it."""

    id: str
    function_id: str
    function: str
    version: int
    status: Status
    http_status: int | None = None
    """Status the function (or the platform on its behalf) answered with."""
    result: Any = None
    result_truncated: bool = False
    error: Failure | None = None
    metrics: Metrics = Metrics()
    logs: tuple[LogLine, ...] = ()
    logs_truncated: bool = False
    asynchronous: bool = False
    attempts: int = 1
    traceparent: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One mutating call on the control API."""

    time: float
    identity: str
    """Key id, or `local` when no key exists."""
    action: str
    """e.g. `function.deploy`."""
    target: str
    request_id: str
    outcome: str
    """`ok`, or the error type."""
    remote: str
