"""Messages over a SOCK_SEQPACKET socket: one JSON object and some descriptors per packet."""

from __future__ import annotations

import array
import os
import socket
from json import JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES = 128 << 10
MAX_FDS = 32
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)
# Numbers, not the enumerations that `socket` has for them: each `|` of those runs through dozens of
# objects, and in a fork every object used is a page copied. The same goes for `json.loads`.
_SOCKET, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_NO_SIGNAL, _CLOSE_ON_EXEC = int(socket.MSG_NOSIGNAL), int(socket.MSG_CMSG_CLOEXEC)
_DONT_WAIT = int(socket.MSG_DONTWAIT)
_CUT_OFF = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_encode = JSONEncoder(separators=(",", ":")).encode
_scan = JSONDecoder().scan_once  # type: ignore[attr-defined] # typeshed leaves it out


class PacketError(OSError):
    """The peer sent something that is not one whole packet."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends (close-on-exec)."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one packet; the descriptors are copied, the caller keeps its own.

    Raises:
        BlockingIOError: the socket is non-blocking and full; nothing was sent.
    """
    send_bytes(sock, _encode(message).encode(), fds)


def send_bytes(sock: socket.socket, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one packet that is encoded already; otherwise as `send`."""
    if fds:
        sock.sendmsg([data], [(_SOCKET, _RIGHTS, array.array("i", fds))], _NO_SIGNAL)
    else:
        sock.send(data, _NO_SIGNAL)


def receive(sock: socket.socket, *, wait: bool = True) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next packet, or None at the end of the stream. Descriptors are close-on-exec.

    Raises:
        PacketError: data or descriptors were cut off; what did arrive is closed.
        BlockingIOError: nothing is there, and the socket is non-blocking or `wait` is False.
    """
    received = receive_bytes(sock, wait=wait)
    return None if received is None else decode(*received)


def receive_bytes(sock: socket.socket, *, wait: bool = True) -> tuple[bytes, list[int]] | None:
    """Return the next packet as it came; otherwise as `receive`.

    `socket.recv_fds` of Python 3.11 ignores its flags (the descriptors would leak into children)
    and does not look for truncation, hence recvmsg.
    """
    how = _CLOSE_ON_EXEC if wait else _CLOSE_ON_EXEC | _DONT_WAIT
    data, ancillary, flags, _ = sock.recvmsg(MAX_BYTES, _ANCILLARY, how)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == _SOCKET and kind == _RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
    if flags & _CUT_OFF:
        _close_all(fds)
        raise PacketError("a packet was truncated")
    if not data:
        _close_all(fds)
        return None
    return data, list(fds)


def decode(data: bytes, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Read a packet's data as JSON.

    Raises:
        PacketError: it is no JSON object; the descriptors are closed.
    """
    try:
        text = data.decode()
        message, end = _scan(text, 0)
    except (ValueError, StopIteration):
        _close_all(fds)
        raise PacketError("a packet is not JSON") from None
    if not isinstance(message, dict) or end != len(text):
        _close_all(fds)
        raise PacketError("a packet is not a JSON object")
    return message, fds


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
