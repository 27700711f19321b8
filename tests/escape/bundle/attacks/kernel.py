"""System calls by number, for what Python or libc would not let through."""

import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p

_NUMBERS = {  # x86_64, aarch64
    "clone": (56, 220),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "personality": (135, 92),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "swapon": (167, 224),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "acct": (163, 89),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "mq_open": (240, 180),
    "iopl": (172, None),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "clone3": (435, 435),
    "pidfd_getfd": (438, 438),
}

_FILTERED_AS_MISSING = {"io_uring_setup": (errno.ENOSYS,)}
"""Of other calls ENOSYS means that the kernel was asked and was built without."""


def call(name, *arguments):
    """Call the kernel; raise what it answers."""
    number = _NUMBERS[name][os.uname().machine == "aarch64"]
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def reached(name, *arguments):
    """Call with arguments that the kernel refuses only after it has let us in.

    So that nothing is done to the machine if it does let us in.
    """
    try:
        call(name, *arguments)
    except OSError as error:
        stopped = (errno.EPERM, errno.EACCES, *(_FILTERED_AS_MISSING.get(name, ())))
        if error.errno in stopped:
            raise
        return f"{name} looked at its arguments: {errno.errorcode[error.errno]}"
    return f"{name} did it"
