"""A small HTTP client for the control API: one connection per call, errors from the error tree."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from hearth.cli.options import Remote
from hearth.cli.progress import Progress
from hearth.errors import BadInput, HearthError, Unauthenticated

CONNECT_TIMEOUT_S = 10.0
Connection = http.client.HTTPConnection
Query = Mapping[str, str | int | None]


class Unreachable(HearthError):  # noqa: N818 # named as its siblings in errors.py are
    """There is no node at the URL."""

    type, status, exit_code, component = "Unreachable", 503, 8, "cli"


class Reply(NamedTuple):
    """What a node answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """Return the decoded body; None when there is none.

        Raises:
            HearthError: it is not JSON, so what answers is no Hearth.
        """
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            raise HearthError("the answer is not JSON: is that URL a Hearth node?") from None


class Client:
    """Speaks to the node that `remote` names."""

    def __init__(self, remote: Remote) -> None:
        """Remember where the node is; nothing is opened yet.

        Raises:
            BadInput: the URL is not `http://…` or `https://…`.
        """
        parts = urlsplit(remote.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise BadInput(f"{remote.url!r} is not a URL such as http://127.0.0.1:8080")
        self._url, self._parts, self._prefix = remote.url, parts, parts.path.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {remote.key}"} if remote.key else {}

    def api(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """Call the control API and return the decoded answer.

        Args:
            method: HTTP method.
            path: below the node's URL, already quoted (`segment`).
            body: sent as JSON unless None.
            query: parameters; None values are left out.

        Raises:
            HearthError: of the class whose `type` the node named, or `Unreachable`.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        return self.send(method, _target(path, query), content, headers).json()

    def ask(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """Do as `api`, and say on stderr what is waited for once it takes long.

        Raises:
            HearthError: see `api`.
        """
        with Progress() as progress:
            progress.phase(f"waiting for {self._url}")
            return self.api(method, path, body=body, query=query)

    def send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        """Send one request; statuses of 400 and above that the platform made are raised.

        Raises:
            HearthError: see `api`.
        """
        reply = self.exchange(method, target, body, headers)
        if reply.status >= 400:
            raise platform_error(reply) or HearthError(_unexpected(reply))
        return reply

    def exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        """Send one request and return the answer, whatever its status.

        Raises:
            Unreachable: nothing speaks HTTP there.
        """
        connection = self._connect()
        try:
            response = self._request(connection, method, target, body=body, headers=headers)
            return Reply(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} broke off: {str(error) or repr(error)}") from None
        finally:
            connection.close()

    def lines(self, path: str, *, query: Query | None = None) -> Iterator[Any]:
        """Yield each JSON line of a log as it arrives.

        Raises:
            HearthError: see `api`.
        """
        connection = self._connect()
        headers = {"Accept": "application/x-ndjson"}
        try:
            target = _target(path, query)
            response = self._request(connection, "GET", target, body=None, headers=headers)
            if response.status >= 400:
                reply = Reply(response.status, response.headers, response.read())
                raise platform_error(reply) or HearthError(_unexpected(reply))
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} broke off: {str(error) or repr(error)}") from None
        finally:
            connection.close()

    def _connect(self) -> Connection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else Connection
        assert self._parts.hostname is not None  # noqa: S101 # checked when made; for mypy
        try:
            connection = kind(self._parts.hostname, self._parts.port, timeout=CONNECT_TIMEOUT_S)
            connection.connect()
        except (ConnectionRefusedError, FileNotFoundError):
            raise Unreachable(
                f"no node at {self._url}: start one with `hearth up`, or name it with --url"
            ) from None
        except (socket.gaierror, TimeoutError, ssl.SSLError, OSError, ValueError) as error:
            raise Unreachable(f"cannot reach {self._url}: {error}") from None
        connection.sock.settimeout(None)  # a function may take as long as its own timeout allows
        return connection

    def _request(
        self,
        connection: Connection,
        method: str,
        target: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        try:
            url, headers = self._prefix + target, {**headers, **self._authorization}
            connection.request(method, url, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent (too large, for example): the answer says why
        except (ValueError, UnicodeError) as error:
            raise BadInput(f"this cannot be sent: {error}") from None
        return connection.getresponse()


def segment(text: str) -> str:
    """Quote `text` as one segment of a path.

    Raises:
        BadInput: it is empty, `.` or `..`, which no path can hold as a name.
    """
    if text in {"", ".", ".."}:
        raise BadInput(f"{text!r} is not a name")
    return quote(text, safe="")


def platform_error(reply: Reply) -> HearthError | None:
    """Return the platform's own error, or None when the function itself answered that way."""
    try:
        said = json.loads(reply.body)["error"]
        kind, message = said["type"], said["message"]
        said["component"], said["request_id"]
    except (ValueError, KeyError, TypeError):
        return None
    error = _classes().get(kind, HearthError)(
        str(message), limit=said.get("limit"), stack=said.get("stack"), path=said.get("path")
    )
    if isinstance(error, Unauthenticated):
        error.message = "this node wants a valid API key: set HEARTH_KEY"
    key = (error.path or "").removeprefix("$").removeprefix(".")
    if key and key not in error.message:
        error.message = f"{key}: {error.message}"
    return error


def _classes() -> dict[str, type[HearthError]]:
    found: dict[str, type[HearthError]] = {}
    waiting = [HearthError]
    for kind in waiting:
        found.setdefault(kind.type, kind)
        waiting.extend(kind.__subclasses__())
    return found


def _target(path: str, query: Query | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _unexpected(reply: Reply) -> str:
    start = reply.body[:200].decode(errors="replace").strip() or "nothing"
    return f"unexpected answer {reply.status}: {start}"
