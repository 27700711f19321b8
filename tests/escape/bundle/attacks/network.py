"""Networks and what else has no name in the file system."""

import ctypes
import os
import socket

from attacks.attempt import attempt
from attacks.kernel import call, libc

_AF_ALG, _AF_VSOCK, _AF_PACKET = 38, 40, 17
_UEVENT, _L2TP = 15, 115
_NOT_THERE = (93, 97)  # EPROTONOSUPPORT, EAFNOSUPPORT: the kernel was asked and has none


def _family(*arguments):
    try:
        return socket.socket(*arguments)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return "the kernel was asked"
        raise


@attempt("net")
def connect_to_a_service_of_the_host(world):
    return socket.create_connection(("127.0.0.1", world["port"]), timeout=2).getpeername()


@attempt("net")
def connect_to_an_abstract_socket_of_the_host(world):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{world['token']}")
        return client.getpeername()


@attempt(
    "root", "uid", "user", why="the socket file also belongs to another uid", user_off=("root",)
)
def connect_to_a_socket_file_of_the_host(world):
    with socket.socket(socket.AF_UNIX) as client:
        for prefix in ("", "/host"):
            try:
                client.connect(f"{prefix}{world['directory']}/socket")
                return client.getpeername()
            except FileNotFoundError:
                continue
    return None


@attempt("net")
def see_the_connections_of_the_host(world):
    with open("/proc/net/tcp", encoding="ascii") as file:
        return f":{world['port']:04X}" in file.read()


@attempt(
    "seccomp",
    "capabilities",
    "uid",
    why="raw sockets also take CAP_NET_RAW",
    user_off=("seccomp", "capabilities"),
)
def open_a_raw_socket(world):
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@attempt(
    "seccomp",
    "capabilities",
    "uid",
    why="packet sockets also take CAP_NET_RAW",
    user_off=("seccomp", "capabilities"),
)
def open_a_packet_socket(world):
    return _family(_AF_PACKET, socket.SOCK_RAW, 0)


@attempt("seccomp")
def talk_to_the_kernel_over_netlink(world):
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _UEVENT)


@attempt("seccomp")
def reach_the_hypervisor(world):
    return _family(_AF_VSOCK, socket.SOCK_STREAM, 0)


@attempt("seccomp")
def open_a_socket_of_the_kernels_ciphers(world):
    return _family(_AF_ALG, socket.SOCK_SEQPACKET, 0)


@attempt("seccomp")
def have_a_rare_protocol_loaded(world):
    return _family(socket.AF_INET, socket.SOCK_DGRAM, _L2TP)


@attempt("seccomp")
def make_the_node_wait_for_a_passed_socket(world):
    """Who closes a lingering socket last waits; passed over the channel, that would be the node."""
    with socket.socket() as lingering:
        lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\74\0\0\0")
        return lingering.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)


@attempt("ipc")
def attach_shared_memory_of_the_host(world):
    segment = libc.shmget(world["shm_key"], ctypes.c_size_t(0), 0)
    return segment >= 0 and f"segment {segment}"


@attempt("ipc")
def open_a_message_queue_of_the_host(world):
    return call("mq_open", world["token"].encode(), os.O_RDONLY, 0, None)
