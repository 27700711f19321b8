"""Pid 1 of a sandbox: a program of some thirty instructions, made here so that none is compiled.

An interpreter that only waits would hold a megabyte for every idle instance; this holds two pages.
Run as `init PID` with a packet socket as descriptor 4, it reaps whatever ends. When `PID` has
ended it writes that one's wait status there (the kernel's four bytes) and ends itself, and the
kernel kills what is left of the pid namespace. It handles no signal, so that as pid 1 it gets none
from inside.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import NoReturn

PATH = "/run/init"
STATUS_BYTES = 4

_BASE = 0x10000
_HEADER = struct.Struct("<4s5B7xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1

_X86_64 = """
    48 8b 74 24 10        mov   rsi, [rsp+16]        argv[1]
    31 db                 xor   ebx, ebx             the pid to watch
 digit:
    0f b6 06              movzx eax, byte [rsi]
    48 ff c6              inc   rsi
    83 e8 30              sub   eax, '0'
    72 07                 jb    wait                 the end of the string
    6b db 0a              imul  ebx, ebx, 10
    01 c3                 add   ebx, eax
    eb ee                 jmp   digit
 wait:
    bf ff ff ff ff        mov   edi, -1              any child
    48 89 e6              mov   rsi, rsp             its status
    31 d2                 xor   edx, edx
    45 31 d2              xor   r10d, r10d
    b8 3d 00 00 00        mov   eax, 61              wait4
    0f 05                 syscall
    83 f8 f6              cmp   eax, -10             ECHILD: nobody is left
    74 18                 je    end
    39 d8                 cmp   eax, ebx
    75 e3                 jne   wait
    bf 04 00 00 00        mov   edi, 4               the packet socket
    48 89 e6              mov   rsi, rsp
    ba 04 00 00 00        mov   edx, 4
    b8 01 00 00 00        mov   eax, 1               write
    0f 05                 syscall
 end:
    31 ff                 xor   edi, edi
    b8 e7 00 00 00        mov   eax, 231             exit_group
    0f 05                 syscall
"""
_AARCH64 = """
    e1 0b 40 f9           ldr   x1, [sp, #16]        argv[1]
    13 00 80 52           mov   w19, #0              the pid to watch
    44 01 80 52           mov   w4, #10
 digit:
    22 14 40 38           ldrb  w2, [x1], #1
    42 c0 00 71           subs  w2, w2, #'0'
    63 00 00 54           b.lo  wait                 the end of the string
    73 0a 04 1b           madd  w19, w19, w4, w2
    fc ff ff 17           b     digit
 wait:
    00 00 80 92           mov   x0, #-1              any child
    e1 03 00 91           mov   x1, sp               its status
    02 00 80 d2           mov   x2, #0
    03 00 80 d2           mov   x3, #0
    88 20 80 d2           mov   x8, #260             wait4
    01 00 00 d4           svc   #0
    1f 28 00 31           cmn   w0, #10              ECHILD: nobody is left
    00 01 00 54           b.eq  end
    1f 00 13 6b           cmp   w0, w19
    e1 fe ff 54           b.ne  wait
    80 00 80 d2           mov   x0, #4               the packet socket
    e1 03 00 91           mov   x1, sp
    82 00 80 d2           mov   x2, #4
    08 08 80 d2           mov   x8, #64              write
    01 00 00 d4           svc   #0
 end:
    00 00 80 d2           mov   x0, #0
    c8 0b 80 d2           mov   x8, #94              exit_group
    01 00 00 d4           svc   #0
"""
_MACHINES = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}
"""ELF's number of the machine, and the code: up to column 26 bytes, then what they mean."""


def program(machine: str) -> bytes | None:
    """Return the program as an ELF file, None for a machine it has not been written for."""
    if machine not in _MACHINES:
        return None
    number, listing = _MACHINES[machine]
    code = b"".join(
        bytes.fromhex(line[4:26]) for line in listing.splitlines() if line[:4] == "    "
    )
    start = _HEADER.size + 2 * _SEGMENT.size
    size = start + len(code)
    # The type is "executable", and there are two segments, described right behind the header.
    head = _HEADER.pack(
        b"\x7fELF", 2, 1, 1, 0, 0, 2, number, 1, _BASE + start, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 2, 0, 0, 0,
    )  # fmt: skip
    load = _SEGMENT.pack(_PT_LOAD, _READ | _EXECUTE, 0, _BASE, _BASE, size, size, 4096)
    stack = _SEGMENT.pack(_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16)
    return head + load + stack + code


def install(*, readable: bool = False) -> None:
    """Write the program to `PATH`, where there is one for this machine; tests may read it."""
    data = program(os.uname().machine)
    if data is not None:
        with open(PATH, "wb") as file:
            file.write(data)
        # Any uid may run it. Who may not read a program is not dumpable while running it, so that
        # its memory is closed even to processes of the same uid (an ordinary user's sandbox).
        os.chmod(PATH, 0o555 if readable else 0o111)


def become(child: int, control: int) -> NoReturn:
    """Become the init of this sandbox, which reports the end of `child` to `control` (4)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.path.exists(PATH):
        os.set_inheritable(control, True)
        os.execve(PATH, ["init", str(child)], {})  # noqa: S606 - no shell wanted
    while True:
        pid, status = os.wait()
        if pid == child:
            os.write(control, status.to_bytes(STATUS_BYTES, sys.byteorder))
            os._exit(0)
