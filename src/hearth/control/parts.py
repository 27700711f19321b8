"""What the control API is made of: the parts of a node, by what is needed of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hearth.config import Settings
from hearth.engine.deploy import Deployer
from hearth.engine.invocation import InvocationHandle
from hearth.engine.registry import Registry
from hearth.model import Clock, Function, InvocationRecord, Key, Scope, Version
from hearth.sandbox.base import CallRequest
from hearth.store.base import Store


class Identity(Protocol):
    """Who calls, as `scope["hearth.identity"]`."""

    id: str
    scopes: frozenset[Scope]


class Keys(Protocol):
    """The API keys that are accepted right now."""

    @staticmethod
    def issue(name: str, scopes: tuple[Scope, ...], clock: Clock) -> tuple[Key, str]:
        """Make a key; return what to store and the text to show once."""

    def add(self, key: Key) -> None:
        """Accept it from now on."""

    def remove(self, key_id: str) -> None:
        """Refuse it from now on."""


class Reply(Protocol):
    """What a function answered."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> bytes:
        """The checked header block."""

    @property
    def body(self) -> bytes:
        """All of it."""


class Invoking(Protocol):
    """Calls under way on this node."""

    async def invoke(
        self, version: Version, request: CallRequest, **options: Any
    ) -> tuple[InvocationRecord, Reply | None]:
        """Call and wait for the outcome; no reply when it did not succeed."""

    def find(self, invocation_id: str) -> InvocationHandle | None:
        """Return a call that is under way."""

    def flush_records(self) -> None:
        """Hand records of finished calls to the store now."""


class Queueing(Protocol):
    """Durable asynchronous calls."""

    def enqueue(
        self, version: Version, request: CallRequest, *, traceparent: str | None = None
    ) -> Awaitable[str]:
        """Return the id once the call is on disk."""

    def cancel(self, invocation_id: str) -> Awaitable[bool]:
        """End a queued or running call; False if it is neither."""


class Auditing(Protocol):
    """Where mutating calls are written down."""

    def record(
        self,
        action: str,
        target: str,
        *,
        identity: str,
        request_id: str,
        remote: str,
        outcome: str,
    ) -> object:
        """Keep one entry."""


def _no_instances(_function: Function) -> Mapping[str, int]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that the control API asks of its node."""

    settings: Settings
    registry: Registry
    deployer: Deployer
    invoker: Invoking
    queue: Queueing
    store: Store
    keys: Keys
    audit: Auditing
    clock: Clock
    render_metrics: Callable[[], Awaitable[bytes]]
    """Gives way to the event loop while it works."""
    not_ready: Callable[[], tuple[str, ...]]
    """Reasons why this node cannot serve now, one sentence each."""
    loopback_only: bool
    """No other machine can reach any listener of this node."""
    warnings: tuple[str, ...] = ()
    """Of the settings: keys that have no effect yet."""
    instances: Callable[[Function], Mapping[str, int]] = _no_instances
    """Instances of a function by state."""
    follow_interval_s: float = 0.25
    """How often a followed log is looked at."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Shown in `/info` as it is."""
