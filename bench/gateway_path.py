"""CPU of the gateway per warm request, in front of an invoker that answers at once.

    python bench/gateway_path.py [requests]

No socket and no sandbox: what is measured is exactly the part that `wire/` and `gateway/` add.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from hearth.config import Gateway
from hearth.gateway.auth import Authenticator
from hearth.gateway.connection import Connection
from hearth.gateway.limits import RateLimiter
from hearth.gateway.pipeline import Pipeline
from hearth.gateway.server import Server
from hearth.model import Limits, SystemClock, Version

BODY = b'{"name": "hearth", "numbers": [1, 2, 3, 4], "text": "0123456789"}'
ROUNDS = 5


class Invocation:
    """Answered before it is returned."""

    cold = False


class EchoInvoker:
    """Answers at once."""

    def __init__(self) -> None:
        """Make the one invocation there is."""
        self.invocation = Invocation()

    def submit(self, version: Version, request: Any, sink: Any, **_: Any) -> Any:
        """Answer with the body."""
        sink.reply(self.invocation, 200, b"content-type: application/json\r\n", request.body)
        return self.invocation


class Transport:
    """Counts what is written."""

    written = 0

    def write(self, data: bytes) -> None:
        """Count."""
        self.written += len(data)

    def is_closing(self) -> bool:
        """Stay open."""
        return False

    def get_extra_info(self, name: str) -> Any:
        """Give an address."""
        return ("127.0.0.1", 1)


async def measure(requests: int, with_key: bool) -> float:
    """Return µs per request, the best of some rounds."""
    authenticator = Authenticator()
    key, text = authenticator.issue("bench", ("invoke",), SystemClock())
    if with_key:
        authenticator.add(key)
    version = Version(
        function_id="f", function="hello", number=1, label="", digest="", artifact="",
        runtime="python3.11", entry="handler.py", handler="handle", contract="handler",
        limits=Limits(),
    )  # fmt: skip
    pipeline = Pipeline(
        authenticator=authenticator,
        limiter=RateLimiter(1e9 if with_key else None, 10**9, SystemClock()),
        host="127.0.0.1",
        registry=cast("Any", SimpleNamespace(routes={"hello": SimpleNamespace(version=version)})),
        invoker=cast("Any", EchoInvoker()),
    )
    server = Server(pipeline, Gateway(), asyncio.get_running_loop())
    connection = Connection(server)
    transport = Transport()
    connection.connection_made(cast("Any", transport))
    credentials = f"Authorization: Bearer {text}\r\n" if with_key else ""
    request = (
        "POST /function/hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench/1\r\n"
        f"Content-Type: application/json\r\n{credentials}Content-Length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(requests):
            connection.data_received(request)
            connection.flush()  # a loop would do it at the end of its turn
        best = min(best, (time.process_time() - start) / requests * 1e6)
    assert transport.written > ROUNDS * requests * len(BODY)
    return best


async def main() -> None:
    """Print JSON."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(
        json.dumps(
            {
                "what": "gateway CPU µs per warm request, no socket, no sandbox",
                "requests": requests,
                "with_key_and_rate_limit": round(await measure(requests, True), 2),
                "without_key": round(await measure(requests, False), 2),
            }
        )
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
