"""The way of one request: route → identify → admit → invoke → reply.

`handle` is synchronous: a warm call makes no task and no future on its way to the function. Its
answer comes back through the exchange, which is the invocation's sink.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Mapping
from typing import Protocol

import msgspec

from hearth.engine.invocation import InvocationHandle, Sink
from hearth.errors import HearthError, MethodNotAllowed, NotFound
from hearth.gateway import asgi
from hearth.gateway.auth import (
    NOBODY,
    Authenticator,
    authorise,
    check_cross_site,
    check_rebinding,
)
from hearth.gateway.exchange import Exchange
from hearth.gateway.limits import RateLimiter
from hearth.gateway.peer import PeerGuard
from hearth.gateway.routes import ASYNC_FUNCTION, FUNCTION, control_scope, split_function
from hearth.model import Version
from hearth.sandbox.base import CallRequest

_CALL_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
_log = logging.getLogger(__name__)


class Enqueue(Protocol):
    """Accepts asynchronous calls."""

    def __call__(
        self, version: Version, request: CallRequest, *, traceparent: str | None = None
    ) -> Awaitable[str]:
        """Return the call's id once it is safe on disk."""


class Entry(Protocol):
    """A function that can be called."""

    @property
    def version(self) -> Version:
        """The version that a plain call runs."""


class Registry(Protocol):
    """What is deployed; `routes` is looked at anew for every request."""

    @property
    def routes(self) -> Mapping[str, Entry]:
        """Entries by function name or id."""


class Invoker(Protocol):
    """Runs calls."""

    def submit(
        self, version: Version, request: CallRequest, sink: Sink, *, traceparent: str | None = None
    ) -> InvocationHandle:
        """Begin a call; the sink may hear the answer before this returns."""


class NothingHereError(NotFound):
    """There is no such thing."""

    component = "gateway"


class NotAPostError(MethodNotAllowed):
    """An asynchronous call is a POST."""

    allow = "POST"


class Pipeline:
    """What every request of a listener goes through."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        limiter: RateLimiter,
        host: str,
        registry: Registry | None = None,
        invoker: Invoker | None = None,
        enqueue: Enqueue | None = None,
        app: asgi.App | None = None,
        guard: PeerGuard | None = None,
    ) -> None:
        """Serve functions if there is an invoker, and the control API if there is an app.

        Args:
            authenticator: knows the keys.
            limiter: counts requests per key.
            host: the address bound, as configured; a name by which clients may call this node.
            registry: what is deployed.
            invoker: runs calls.
            enqueue: accepts asynchronous calls.
            app: the control API.
            guard: keeps functions away from it.
        """
        self._auth = authenticator
        self._limiter = limiter
        self._host = host
        self._registry = registry
        self._invoker = invoker
        self._enqueue = enqueue
        self._app = app
        self._guard = guard

    def handle(self, exchange: Exchange) -> None:
        """Answer one request whose head has arrived; its body may still be on the way."""
        request = exchange.request
        path = request.path
        try:
            if path.startswith(FUNCTION) and self._invoker is not None:  # 1. route
                self._admit(exchange)
                exchange.collect(self._invoke)
            elif path.startswith(ASYNC_FUNCTION) and self._enqueue is not None:
                self._admit(exchange)
                if request.method != b"POST":
                    raise NotAPostError
                exchange.collect(self._accept)
            else:
                self._control(exchange)
        except HearthError as error:
            exchange.refuse(error)
        except Exception:
            _log.exception("request %s failed inside the gateway", exchange.id)
            exchange.refuse(HearthError())

    def _admit(self, exchange: Exchange) -> None:
        auth = self._auth
        if not auth.has_keys:
            check_rebinding(exchange.request, self._host)
        exchange.identity = identity = auth.identify(exchange.request)  # 2. identify
        authorise(identity, "invoke")
        self._limiter.admit(identity.id)  # 3. admit

    # --- functions -----------------------------------------------------------------------------

    def _invoke(self, exchange: Exchange) -> None:
        assert self._invoker is not None  # noqa: S101 - `handle` looked
        try:
            version, call, parent = self._call(exchange, FUNCTION)
        except HearthError as error:
            exchange.refuse(error)
            return
        exchange.body = b""  # the call has it
        exchange.follow(self._invoker.submit(version, call, exchange, traceparent=parent))

    def _call(self, exchange: Exchange, prefix: bytes) -> tuple[Version, CallRequest, str]:
        """Return what to run, with what, and the traceparent.

        Raises:
            NotFound: there is no such function.
        """
        assert self._registry is not None  # noqa: S101 - comes with the invoker
        request = exchange.request
        if request.function is None:
            request.function = split_function(request.path, prefix)
        name, path = request.function
        entry = self._registry.routes.get(name)
        if entry is None:
            raise NothingHereError(f"there is no function {name!r}")
        parent, block = _headers(exchange)
        version = entry.version
        deadline = exchange.started_ns / 1e9 + version.limits.timeout_s
        call = CallRequest(
            exchange.id, request.method, path, request.query, block, exchange.body, deadline
        )
        return version, call, parent

    # --- asynchronous calls --------------------------------------------------------------------

    def _accept(self, exchange: Exchange) -> None:
        asgi.spawn(exchange, self._enqueue_and_reply(exchange))

    async def _enqueue_and_reply(self, exchange: Exchange) -> None:
        assert self._enqueue is not None  # noqa: S101 - `handle` looked
        version, call, parent = self._call(exchange, ASYNC_FUNCTION)
        call_id = await self._enqueue(version, call, traceparent=parent)
        accepted = {"id": call_id, "status": "queued"}
        accepted |= {"function": version.function, "version": version.number}  # type: ignore[dict-item] # JSON
        headers = f"Content-Type: application/json\r\nLocation: /invocations/{call_id}\r\n"
        exchange.reply(None, 202, headers.encode(), msgspec.json.encode(accepted))

    # --- the control API -----------------------------------------------------------------------

    def _control(self, exchange: Exchange) -> None:
        request = exchange.request
        scope = control_scope(request.method, request.path)
        if scope is not None:
            auth = self._auth
            if not auth.has_keys:
                check_rebinding(request, self._host)
                check_cross_site(request)
            exchange.identity = auth.identify(request)
            authorise(exchange.identity, scope)
            self._limiter.admit(exchange.identity.id)
            self._check_peer(exchange)
        else:
            exchange.identity = NOBODY
        if self._app is None:
            raise NothingHereError(f"nothing is served at {request.path.decode()}")
        asgi.serve(self._app, exchange)

    def _check_peer(self, exchange: Exchange) -> None:
        """Ask once per connection: a socket keeps the owner that made it, even when passed on."""
        connection = exchange.connection
        if self._guard is not None and not connection.control_checked:
            self._guard.check(connection.local, connection.remote)
            connection.control_checked = True


def _headers(exchange: Exchange) -> tuple[str, bytes]:
    """Return (traceparent, header block for the function)."""
    request = exchange.request
    parent = request.traceparent
    if parent is None:  # our id is a valid trace id, its random half a valid span id
        parent = f"00-{exchange.id}-{exchange.id[16:]}-00".encode()
    block = b"%btraceparent: %b\r\n" % (request.forwarded_headers(), parent)
    theirs = request.call_id
    if theirs is not None and _CALL_ID.fullmatch(theirs) and not _has_request_id(exchange):
        block += b"x-request-id: %b\r\n" % theirs
    return parent.decode(), block


def _has_request_id(exchange: Exchange) -> bool:
    return any(name == b"x-request-id" for name, _ in exchange.request.headers)
