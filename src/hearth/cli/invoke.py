"""`hearth invoke`: call a function over its public URL and print what it answered."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hearth.cli.client import Client, Reply, platform_error, segment
from hearth.cli.options import LOCAL, Remote
from hearth.cli.progress import Progress
from hearth.cli.render import printable, show_json
from hearth.errors import BadInput, InvocationError


def invoke(
    name: str,
    stdin: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    data: Annotated[str | None, Parameter(name=["--data", "-d"])] = None,
    file: Annotated[Path | None, Parameter(name=["--file", "-f"])] = None,
    async_: Annotated[bool, Parameter(name="--async", negative=())] = False,
    path: str = "/",
    method: str | None = None,
    header: Annotated[list[str] | None, Parameter(name=["--header", "-H"], negative=())] = None,
    remote: Remote = LOCAL,
) -> int:
    """Call a function and print its answer as it is; exit code 10 if the function failed.

    Args:
        name: of the function.
        stdin: `-` sends what comes on standard input.
        data: JSON to send.
        file: file to send as it is.
        async_: only queue the call and print its id; see: hearth invocations.
        path: below the function's URL, with a query if needed: `/items?limit=3`.
        method: HTTP method (default POST with a body, else GET).
        header: `Name: value`, any number of times.
        remote: which node.
    """
    body, headers = _body(data, file, stdin)
    headers |= dict(map(_header, header or ()))
    target = f"/{'async-function' if async_ else 'function'}/{segment(name)}{_below(path)}"
    method = (method or ("POST" if async_ or body is not None else "GET")).upper()
    with Progress() as progress:
        progress.phase(f"calling {name}")
        reply = Client(remote).exchange(method, target, body, headers)
    if reply.status >= 400 and (error := platform_error(reply)):
        raise error
    if remote.output == "json":
        show_json(_as_json(reply))
    elif async_:
        print(_call_id(reply))
    else:
        _print_body(reply)
    return _exit_code(reply)


def _body(
    data: str | None, file: Path | None, stdin: str | None
) -> tuple[bytes | None, dict[str, str]]:
    if sum(source is not None for source in (data, file, stdin)) > 1:
        raise BadInput("give one of -d, -f and -")
    if data is not None:
        try:
            json.loads(data)
        except ValueError as error:
            raise BadInput(f"-d takes JSON, and this is none: {error}; send text with -f") from None
        return data.encode(), {"Content-Type": "application/json"}
    if file is not None:
        try:
            return file.read_bytes(), {"Content-Type": _content_type(file)}
        except OSError as error:
            raise BadInput(f"{file}: {error.strerror}") from None
    if stdin is not None:
        if stdin != "-":
            raise BadInput(f"{stdin!r} is neither an option nor -; to send JSON: -d JSON")
        return sys.stdin.buffer.read(), {"Content-Type": "application/octet-stream"}
    return None, {}


def _content_type(file: Path) -> str:
    import mimetypes

    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise BadInput(f"{line!r} is not a header such as 'Accept: text/plain'")
    return name.strip(), value.strip()


def _below(path: str) -> str:
    if any(character <= " " or character > "~" for character in path):
        raise BadInput(f"the path {path!r} must be percent-encoded")
    return path if path.startswith(("/", "?")) else f"/{path}"


def _as_json(reply: Reply) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": reply.headers.get("X-Call-Id"),
        "status": reply.status,
        "cold_start": "X-Cold-Start" in reply.headers,
        "duration_s": _number(reply.headers.get("X-Duration-Seconds")),
        "headers": {name.lower(): value for name, value in reply.headers.items()},
    }
    try:
        text = reply.body.decode()
    except UnicodeDecodeError:
        return shown | {"body_base64": base64.b64encode(reply.body).decode()}
    try:
        return shown | {"json": json.loads(text)}
    except ValueError:
        return shown | {"text": text}


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _call_id(reply: Reply) -> str:
    return printable(reply.headers.get("X-Call-Id") or reply.body.decode(errors="replace"))


def _print_body(reply: Reply) -> None:
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(reply.body)
        sys.stdout.buffer.flush()
        return
    try:
        text = reply.body.decode()
    except UnicodeDecodeError:
        print(f"{len(reply.body)} bytes that are not text: send them to a file", file=sys.stderr)
        return
    if text:
        print(printable(text), end="" if text.endswith("\n") else "\n")


def _exit_code(reply: Reply) -> int:
    if reply.status < 400:
        return 0
    print(f"hearth: the function answered with status {reply.status}", file=sys.stderr)
    return InvocationError.exit_code
