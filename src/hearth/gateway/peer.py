"""Whose process is at the other end of a connection that comes from this very machine.

A function with network `host` can dial the control API over loopback or any address of the host.
TCP has no SO_PEERCRED, but the kernel knows the owner of the client's socket: `sock_diag`
answers for exactly one pair of addresses, whatever the number of connections. The uid is the one in
the host's user namespace, and every instance has one above `process.uid_base`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import struct

from hearth.errors import Forbidden

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_ADDRESSES = struct.Struct("!HH16s16s")
_NO_INTERFACE_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ERRNO = struct.Struct("=i")
_UID_AND_INODE = struct.Struct("=II")
_UID_AT = _HEADER.size + 4 + 48 + 4 + 8
"""Behind family, state, timer, retransmits; socket id; expiry; both queue lengths."""

_log = logging.getLogger(__name__)
Address = tuple[str, int]


class PeerGuard:
    """Keeps functions away from the control API."""

    def __init__(self, uid_base: int) -> None:
        """Refuse processes whose uid is `uid_base` or above."""
        self._uid_base = uid_base

    def check(self, local: Address, remote: Address) -> None:
        """Judge the connection that was accepted on `local` and comes from `remote`.

        A local socket whose owner cannot be told (already closed by its process, say right after it
        sent a request) is refused as well: the answer could not be read anyway.

        Raises:
            Forbidden: a function's process, or an unknown local one, is at the other end.
        """
        try:
            uid = owner_uid(remote, local)
        except OSError as error:  # fail closed: nobody local is let in unidentified
            _log.warning("cannot tell who is calling the control API: %s", error)
            uid = None
        if uid is None:
            if local[0] == remote[0] or _is_local(remote[0]):
                raise Forbidden("the process behind this connection cannot be identified")
            return
        if uid >= self._uid_base:
            raise Forbidden("functions cannot use the control API")


def owner_uid(client: Address, server: Address) -> int | None:
    """Return the uid that owns the client's end of a TCP connection; None: no process has it here.

    Raises:
        OSError: the kernel does not offer sock_diag.
    """
    v6 = ":" in client[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    identity = _ADDRESSES.pack(
        client[1], server[1], _packed(family, client[0]), _packed(family, server[0])
    )
    states = 0xFFFFFFFF
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + identity + _NO_INTERFACE_NO_COOKIE
    size = _HEADER.size + len(body)
    message = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(1.0)  # the kernel answers at once, or something is very wrong
        diag.sendto(message, (0, 0))
        reply = diag.recv(4096)
    if _HEADER.unpack_from(reply)[1] == _NLMSG_ERROR:
        errno = -_ERRNO.unpack_from(reply, _HEADER.size)[0]
        if errno == 2:  # ENOENT: no such socket
            return None
        raise OSError(errno, "sock_diag refused the question")
    uid, inode = _UID_AND_INODE.unpack_from(reply, _UID_AT)
    return int(uid) if inode else None  # without an inode no process holds it; its uid reads 0


def _packed(family: socket.AddressFamily, address: str) -> bytes:
    return socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")


def _is_local(address: str) -> bool:
    """Say whether `address` is one of this machine's: only then can a socket be bound to it."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return True
    return False
