"""Which system calls a function may make, as a readable table, and the filter made of it.

Calls this table does not know (numbers above `_HIGHEST`) and those in `_ABSENT` answer ENOSYS, so
that C libraries fall back to older ones; those in `_DENIED` answer EPERM; the rest is allowed and
bounded by namespaces, the lack of capabilities and cgroups. Nothing is killed.
"""

from __future__ import annotations

import errno
import os

from hearth.linux import bpf
from hearth.linux.bpf import Instruction

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables below, and AUDIT_ARCH."""
_X32_BIT = 0x40000000
_HIGHEST = 462  # mseal, Linux 6.10

_BOTH = {  # calls added since 2018 have one number everywhere
    "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442, "quotactl_fd": 443, "pidfd_getfd": 438,
    "process_madvise": 440, "process_mrelease": 448, "statmount": 457, "listmount": 458,
}  # fmt: skip
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # mounts and roots
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    # namespaces
    "unshare": (272, 97), "setns": (308, 268),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # wide attack surface in the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None), "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
    "_sysctl": (156, None), "nfsservctl": (180, 42), "vhangup": (153, 58),
    # files by handle walk out of any root
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "create_module": (174, None), "init_module": (175, 105), "delete_module": (176, 106),
    "get_kernel_syms": (177, None), "query_module": (178, None), "finit_module": (313, 273),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
_LAST = {"mount": (165, 40), "move_mount": (429, 429)}
"""Denied by `last_program`: a spare attaches its code, and may remount its `/tmp`, before that."""
_ABSENT = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}
"""`clone3` takes its flags from memory, which a filter cannot read: glibc then uses `clone`."""
_EXAMINED = {
    "clone": (56, 220), "socket": (41, 198), "setsockopt": (54, 208), "ioctl": (16, 29),
    "personality": (135, 92),
}  # fmt: skip

_CLONE_NEW = 0x7E020000  # every CLONE_NEW… flag that clone takes
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_TYPE_MASK = 0xF
_RAW_TYPES = (3, 10)  # SOCK_RAW, SOCK_PACKET
_PROTOCOLS = (0, 1, 6, 17, 58, 262)  # any, ICMP echo, TCP, UDP, ICMPv6 echo, MPTCP
_SOL_SOCKET, _SO_LINGER = 1, 13
_TERMINAL_INJECTIONS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PERSONALITY_QUERY = 0xFFFFFFFF


def program(machine: str | None = None) -> bytes:
    """Return the filter for `machine` (default: this one) as `struct sock_filter` bytes.

    Raises:
        ValueError: the architecture has no table.
    """
    machine = machine or os.uname().machine
    if machine not in _ARCHITECTURES:
        raise ValueError(f"there is no system call table for {machine}")
    column, architecture = _ARCHITECTURES[machine]
    return bpf.assemble(
        [
            *_head(architecture, x32=machine == "x86_64"),
            *(_jump(pair[column], f"examine {name}") for name, pair in _EXAMINED.items()),
            *(_jump(number, "absent") for number in _ABSENT.values()),
            *(_jump(number, "denied") for number in denied(machine).values()),
            Instruction(bpf.RETURN, bpf.ALLOW, label="allowed"),
            *_examine_clone(),
            *_examine_socket(),
            *_examine_setsockopt(),
            *_examine_ioctl(),
            *_examine_personality(),
            Instruction(bpf.RETURN, bpf.ALLOW, label="fine"),
            Instruction(bpf.RETURN, bpf.ERRNO | errno.EPERM, label="denied"),
            Instruction(bpf.RETURN, bpf.ERRNO | errno.ENOSYS, label="absent"),
        ]
    )


def last_program(machine: str | None = None) -> bytes:
    """Return the small filter that takes away what a spare still needs to become an instance.

    The big one is installed while nobody waits, because that takes 0.4 ms.
    """
    machine = machine or os.uname().machine
    if machine not in _ARCHITECTURES:
        raise ValueError(f"there is no system call table for {machine}")
    column = _ARCHITECTURES[machine][0]
    return bpf.assemble(
        [
            Instruction(bpf.LOAD, bpf.NUMBER),
            *(_jump(pair[column], "denied") for pair in _LAST.values()),
            Instruction(bpf.RETURN, bpf.ALLOW),
            Instruction(bpf.RETURN, bpf.ERRNO | errno.EPERM, label="denied"),
        ]
    )


def denied(machine: str) -> dict[str, int]:
    """Return the numbers of the calls that answer EPERM whatever their arguments."""
    column = _ARCHITECTURES[machine][0]
    own = {name: pair[column] for name, pair in _DENIED.items()}
    return {name: number for name, number in {**own, **_BOTH}.items() if number is not None}


def _jump(number: int, label: str) -> Instruction:
    return Instruction(bpf.JUMP_EQUAL, number, if_true=label)


def _head(architecture: int, *, x32: bool) -> list[Instruction]:
    head = [
        Instruction(bpf.LOAD, bpf.ARCHITECTURE),
        Instruction(bpf.JUMP_EQUAL, architecture, if_false="absent"),
        Instruction(bpf.LOAD, bpf.NUMBER),
    ]
    if x32:
        head.append(Instruction(bpf.JUMP_GREATER_EQUAL, _X32_BIT, if_true="absent"))
    return [*head, Instruction(bpf.JUMP_GREATER_EQUAL, _HIGHEST + 1, if_true="absent")]


def _examine_clone() -> list[Instruction]:
    return [
        Instruction(bpf.LOAD, bpf.low(0), label="examine clone"),
        Instruction(bpf.JUMP_SET, _CLONE_NEW, if_true="denied", if_false="fine"),
    ]


def _examine_socket() -> list[Instruction]:
    """Allow local and internet sockets that are not raw, and netlink for routes (interfaces).

    Rare protocols are denied: each is a kernel module that a mere `socket` would load.
    """
    return [
        Instruction(bpf.LOAD, bpf.low(0), label="examine socket"),
        *(_jump(family, "socket type") for family in _FAMILIES),
        Instruction(bpf.JUMP_EQUAL, _AF_NETLINK, if_false="denied"),
        Instruction(bpf.LOAD, bpf.low(2)),
        Instruction(bpf.JUMP_EQUAL, _NETLINK_ROUTE, if_true="fine", if_false="denied"),
        Instruction(bpf.LOAD, bpf.low(1), label="socket type"),
        Instruction(bpf.AND, _TYPE_MASK),
        *(_jump(kind, "denied") for kind in _RAW_TYPES),
        Instruction(bpf.LOAD, bpf.low(2)),
        *(_jump(protocol, "fine") for protocol in _PROTOCOLS),
        Instruction(bpf.RETURN, bpf.ERRNO | errno.EPERM),
    ]


def _examine_setsockopt() -> list[Instruction]:
    """Deny SO_LINGER: who closes such a socket last waits until its data has arrived.

    Passed to the node over the channel, where it is dropped unseen, it would stop the node for as
    long as the function likes.
    """
    return [
        Instruction(bpf.LOAD, bpf.low(1), label="examine setsockopt"),
        Instruction(bpf.JUMP_EQUAL, _SOL_SOCKET, if_false="fine"),
        Instruction(bpf.LOAD, bpf.low(2)),
        Instruction(bpf.JUMP_EQUAL, _SO_LINGER, if_true="denied", if_false="fine"),
    ]


def _examine_ioctl() -> list[Instruction]:
    """Look at the low 32 bits of the request only, as the kernel does."""
    return [
        Instruction(bpf.LOAD, bpf.low(1), label="examine ioctl"),
        *(_jump(request, "denied") for request in _TERMINAL_INJECTIONS),
        Instruction(bpf.RETURN, bpf.ALLOW),
    ]


def _examine_personality() -> list[Instruction]:
    return [
        Instruction(bpf.LOAD, bpf.low(0), label="examine personality"),
        _jump(0, "fine"),
        Instruction(bpf.JUMP_EQUAL, _PERSONALITY_QUERY, if_true="fine", if_false="denied"),
    ]
