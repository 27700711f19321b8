"""The routes that the gateway serves itself, described so that one document lists everything."""

from __future__ import annotations

from hearth.control.routes import Route
from hearth.control.views import Queued
from hearth.errors import (
    HearthError,
    InvocationError,
    NoCapacity,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RequestTimeout,
    Timeout,
)

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
_ERRORS: tuple[type[HearthError], ...] = (
    NotFound,
    RequestTimeout,
    PayloadTooLarge,
    QueueFull,
    NoCapacity,
)
_CALL = (
    "The body goes to the function as it is, and its answer comes back as it is, streamed if it "
    "streams. The function sees the rest of the path and the query."
)


def _routes(path: str) -> list[Route]:
    return [
        Route(
            method=method,
            path=path,
            summary="Call a function",
            description=_CALL,
            access="invoke",
            request=bytes if method in {"POST", "PUT", "PATCH"} else None,
            media=("*/*",),
            errors=(*_ERRORS, InvocationError, Timeout),
            tag="calls",
        )
        for method in _METHODS
    ]


def _asynchronous(path: str) -> Route:
    return Route(
        method="POST",
        path=path,
        summary="Call a function later",
        description="Answered once the call is on disk; it runs at least once.",
        access="invoke",
        request=bytes,
        response=Queued,
        statuses=(202,),
        errors=_ERRORS,
        tag="calls",
    )


ROUTES = (
    *_routes("/function/{name}"),
    *_routes("/function/{name}/{path}"),
    _asynchronous("/async-function/{name}"),
    _asynchronous("/async-function/{name}/{path}"),
)
