"""One request head, understood, and what is learnt about it while its connection repeats it."""

from __future__ import annotations


class Request:
    """A request head, understood. It serves all requests of its connection with this very head.

    `path` is decoded; `raw_path` and `query` are as sent. `headers` has every header in order,
    names in lower case. `content_length` is None for a chunked body and 0 for none.
    """

    __slots__ = (
        "api_key",
        "authorization",
        "block",
        "call_id",
        "chunked",
        "connection",
        "content_length",
        "credential",
        "expects_continue",
        "function",
        "headers",
        "host",
        "host_is_local",
        "keep_alive",
        "method",
        "minor",
        "path",
        "plain",
        "query",
        "raw_path",
        "traceparent",
    )

    def __init__(self, method: bytes, minor: int) -> None:
        """Begin with what the request line says; `HeadParser` fills in the rest."""
        self.method = method
        self.minor = minor
        self.path = self.raw_path = self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.plain: list[bytes] = []
        """Lines of the headers that no rule here is about, ready to be joined."""
        self.host: bytes | None = None
        self.authorization: bytes | None = None
        self.api_key: bytes | None = None
        self.traceparent: bytes | None = None
        self.call_id: bytes | None = None
        self.connection = b""
        self.keep_alive = minor == 1
        self.expects_continue = False
        self.chunked = False
        self.content_length: int = 0
        self.credential: bytes | None = None
        """SHA-256 of the API key it bears, once that was taken out of it."""
        self.function: tuple[str, bytes] | None = None
        """Name and path of the function it is for, once it was routed."""
        self.host_is_local = False
        """Its Host was found to be a name of this machine."""
        self.block: bytes | None = None
        """What `forwarded_headers` returned; reset by `take_key`."""

    def forwarded_headers(self) -> bytes:
        """Return the header block for a function: no hop-by-hop header, none that Connection names.

        `authorization` and `api_key` are part of it unless they were taken out as a key.
        """
        if self.block is None:
            self.block = self._forwarded()
        return self.block

    def take_key(self, credential: bytes, *, also_authorization: bool) -> None:
        """Take out the key that was presented, so that no function sees it.

        Args:
            credential: its SHA-256.
            also_authorization: drop that header too, not only X-API-Key.
        """
        self.credential = credential
        self.api_key = self.block = None
        if also_authorization:
            self.authorization = None

    def _forwarded(self) -> bytes:
        lines = self.plain
        if b"," in self.connection or self.connection not in {b"", b"keep-alive", b"close"}:
            named = {name.strip() for name in self.connection.split(b",")}
            lines = [line for line in lines if line.partition(b":")[0] not in named]
        block = b"".join(lines)
        if self.host is not None:
            block += b"host: %b\r\n" % self.host
        if self.authorization is not None:
            block += b"authorization: %b\r\n" % self.authorization
        if self.api_key is not None:
            block += b"x-api-key: %b\r\n" % self.api_key
        return block
