"""One keep-alive connection on a raw socket: as little client as possible between two clocks."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What came back, and when (nanoseconds after the request was written)."""

    status: int
    head: bytes
    body: bytes
    first_byte_ns: int
    total_ns: int

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode()
        return None

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)


class ClosedError(ConnectionError):
    """The server closed the connection in the middle of an answer."""


def encode(method: str, path: str, body: bytes = b"", key: str | None = None) -> bytes:
    """Return one HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """A closed loop of one: the next request is sent when the last answer is complete."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        """Connect to the loopback address."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> Answer:
        """Send one request and read its whole answer.

        Raises:
            ClosedError: the answer is incomplete.
        """
        sent = time.perf_counter_ns()
        self.socket.sendall(request)
        data = self.socket.recv(65536)
        first = time.perf_counter_ns()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        need = end + 4 + length(data[:end])
        while len(data) < need:
            data += self._more()
        done = time.perf_counter_ns()
        return Answer(int(data[9:12]), data[:end], data[end + 4 :], first - sent, done - sent)

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ClosedError("the server closed the connection in the middle of an answer")
        return data

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def length(head: bytes) -> int:
    """Return the announced body length; the measured endpoints never stream."""
    marker = head.lower().find(b"\r\ncontent-length:")
    if marker < 0:
        return 0
    return int(head[marker + 17 :].split(b"\r\n", 1)[0])
