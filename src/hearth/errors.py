"""The one error tree: each class carries its wire `type`, HTTP status, component and CLI exit code.

The class docstring's first line is the default message. `type` is the closed list that
`docs/api.md` documents; a client may switch on it.
"""

from __future__ import annotations

from typing import ClassVar


class HearthError(Exception):
    """The platform failed in a way it did not foresee."""

    type: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    component: ClassVar[str] = "node"

    def __init__(
        self,
        message: str | None = None,
        *,
        limit: str | None = None,
        retry_after_s: float | None = None,
        path: str | None = None,
        stack: str | None = None,
    ) -> None:
        """Keep what the caller needs to act.

        Args:
            message: one sentence that names the place and the fix.
            limit: the name and value of the limit that fired, e.g. `timeout=30s`.
            retry_after_s: seconds after which trying again makes sense.
            path: JSON path of the offending input, e.g. `$.memory`.
            stack: the function's own stack or stderr; only shown to callers allowed to see it.
        """
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0].rstrip(".")
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.path = path
        self.stack = stack
        super().__init__(self.message)


# --- what a client did -------------------------------------------------------------------------


class BadInput(HearthError):
    """The request is not understood."""

    type, status, exit_code, component = "BadInput", 400, 2, "control"


class DeployFailed(BadInput):
    """The function cannot be deployed."""

    type = "DeployFailed"


class Unauthenticated(HearthError):
    """A valid API key is required: send `Authorization: Bearer <key>`."""

    type, status, exit_code, component = "Unauthenticated", 401, 3, "gateway"


class Forbidden(HearthError):
    """The API key does not have the scope that this needs."""

    type, status, exit_code, component = "Forbidden", 403, 3, "gateway"


class NotFound(HearthError):
    """There is no such thing."""

    type, status, exit_code, component = "NotFound", 404, 4, "control"


class MethodNotAllowed(HearthError):
    """The method is not allowed here."""

    type, status, exit_code, component = "MethodNotAllowed", 405, 2, "gateway"
    allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    """What the answer's `Allow` names."""


class Conflict(HearthError):
    """It exists already with other content."""

    type, status, exit_code, component = "Conflict", 409, 5, "control"


class PayloadTooLarge(HearthError):
    """The body is larger than the limit."""

    type, status, exit_code, component = "PayloadTooLarge", 413, 2, "gateway"


class RequestTimeout(HearthError):
    """The request did not arrive in time."""

    type, status, exit_code, component = "RequestTimeout", 408, 2, "gateway"


class MalformedRequest(HearthError):
    """The bytes are not an HTTP request that has exactly one meaning."""

    type, status, exit_code, component = "MalformedRequest", 400, 2, "gateway"


class TargetTooLong(MalformedRequest):
    """The request target is longer than the limit."""

    type, status = "TargetTooLong", 414


class ExpectationFailed(MalformedRequest):
    """Only `Expect: 100-continue` is understood."""

    type, status = "ExpectationFailed", 417


class HeadersTooLarge(MalformedRequest):
    """The request's headers are larger or more than the limit."""

    type, status = "HeadersTooLarge", 431


class UnknownMethod(MalformedRequest):
    """The method is not one that HTTP knows."""

    type, status = "UnknownMethod", 501


class UnsupportedVersion(MalformedRequest):
    """Only HTTP/1.0 and HTTP/1.1 are spoken here."""

    type, status = "UnsupportedVersion", 505


# --- what there is no room for -----------------------------------------------------------------


class TooManyRequests(HearthError):
    """A limit of the function or the key is reached."""

    type, status, exit_code, component = "TooManyRequests", 429, 6, "gateway"


class QueueFull(TooManyRequests):
    """The function's wait queue is full."""

    type, component = "QueueFull", "engine"


class NoCapacity(HearthError):
    """The node has no room for another instance."""

    type, status, exit_code, component = "NoCapacity", 503, 6, "engine"


class QueueTimeout(NoCapacity):
    """The call waited longer than its queue timeout."""

    type = "QueueTimeout"


class ShuttingDown(NoCapacity):
    """The node is shutting down."""

    type = "ShuttingDown"


# --- what became of an invocation --------------------------------------------------------------


class InvocationError(HearthError):
    """The function failed."""

    type, status, exit_code, component = "RuntimeError", 502, 10, "function"


class Crashed(InvocationError):
    """The function's process ended before it answered."""

    type = "Crashed"


class OutOfMemory(InvocationError):
    """The function reached its memory limit."""

    type = "OutOfMemory"


class InitError(InvocationError):
    """The function could not be loaded."""

    type = "InitError"


class ProtocolViolation(InvocationError):
    """The function's process broke the frame protocol and was destroyed."""

    type = "ProtocolViolation"


class ResponseTooLarge(InvocationError):
    """The function's answer is larger than the limit."""

    type = "ResponseTooLarge"


class Timeout(InvocationError):
    """The function did not answer within its timeout."""

    type, status, exit_code = "Timeout", 504, 11


class ColdStartTimeout(InvocationError):
    """No instance became ready within `execution.cold_start_timeout`."""

    type, status, exit_code = "ColdStartTimeout", 504, 11


class Cancelled(InvocationError):
    """The invocation was cancelled."""

    type, status, exit_code = "Cancelled", 409, 12


class NodeRestarted(InvocationError):
    """The node restarted while the invocation ran, and its attempts are used up."""

    type, status = "NodeRestarted", 502


# --- what this host cannot do ------------------------------------------------------------------


class IsolationUnavailable(HearthError):
    """This host cannot enforce what `isolation_level: strict` promises; run `hearth doctor`."""

    type, status, exit_code, component = "IsolationUnavailable", 503, 7, "sandbox"


class ConfigError(HearthError):
    """The configuration is not understood."""

    type, status, exit_code, component = "ConfigError", 500, 2, "config"


class StoreError(HearthError):
    """The node's database or disk cannot keep what it was given."""

    type, status, exit_code, component = "StoreError", 503, 8, "store"
