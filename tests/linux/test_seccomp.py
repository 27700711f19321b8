"""The filter, run by a small simulator of the kernel's BPF machine, decides as the table says."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from hearth.linux import bpf, seccomp
from hearth.linux.bpf import Instruction

X86, ARM = 0xC000003E, 0xC00000B7
EPERM, ENOSYS = bpf.ERRNO | errno.EPERM, bpf.ERRNO | errno.ENOSYS
COLUMN = {"x86_64": 0, "aarch64": 1}
AUDIT = {"x86_64": X86, "aarch64": ARM}
HEADER = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"


def simulate(program: bytes, number: int, arch: int, *args: int) -> int:
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == bpf.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == bpf.AND:
            accumulator &= value
        elif code == bpf.RETURN:
            return value
        else:
            holds = {
                bpf.JUMP_EQUAL: accumulator == value,
                bpf.JUMP_GREATER_EQUAL: accumulator >= value,
                bpf.JUMP_SET: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request):
    return request.param


def decide(machine: str, number: int, *args: int) -> int:
    return simulate(seccomp.program(machine), number, AUDIT[machine], *args)


def test_every_denied_call_answers_eperm(machine):
    for name, number in seccomp.denied(machine).items():
        assert decide(machine, number) == EPERM, name


def test_calls_newer_than_the_table_are_absent(machine):
    assert decide(machine, 463) == ENOSYS
    assert decide(machine, 1 << 20) == ENOSYS
    assert decide(machine, 0xFFFFFFFF) == ENOSYS


def test_clone3_and_io_uring_are_absent_so_that_libraries_fall_back(machine):
    for number in (435, 425, 426, 427):
        assert decide(machine, number) == ENOSYS


def test_another_architecture_gets_nothing(machine):
    other = X86 if machine == "aarch64" else ARM
    assert simulate(seccomp.program(machine), 0, other) == ENOSYS
    assert simulate(seccomp.program(machine), 0, 0x40000003) == ENOSYS  # i386


def test_x32_calls_get_nothing():
    assert decide("x86_64", 0x40000000 | 1) == ENOSYS


def test_ordinary_calls_are_allowed():
    for number in (0, 1, 9, 39, 59, 202, 257, 291, 302, 318, 334, 439):
        assert decide("x86_64", number) == bpf.ALLOW


@pytest.mark.parametrize("flag", [1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)])
def test_clone_makes_threads_and_children_but_no_namespaces(machine, flag):
    clone = (56, 220)[COLUMN[machine]]
    assert decide(machine, clone, 17) == bpf.ALLOW
    assert decide(machine, clone, 0x3D0F00) == bpf.ALLOW  # a thread of glibc
    assert decide(machine, clone, 17 | flag) == EPERM


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "allowed"),
    [
        (1, 1, 0, True),
        (2, 1 | 0o2000000, 0, True),
        (10, 2, 0, True),
        (2, 3, 1, False),
        (10, 3 | 0o4000, 58, False),
        (2, 10, 0, False),
        (17, 2, 0, False),
        (16, 3, 0, True),
        (16, 3, 9, False),
        (40, 1, 0, False),
        (38, 5, 0, False),
        (44, 3, 0, False),
        (2, 1, 6, True),
        (10, 2, 17, True),
        (1, 1, 1, True),
        (2, 1, 262, True),  # multipath TCP, the default of newer Go
        (2, 1, 132, False),  # SCTP
        (2, 6, 33, False),  # DCCP
        (2, 2, 115, False),  # L2TP
    ],
)
def test_sockets_are_local_or_internet_and_never_raw(machine, family, kind, protocol, allowed):
    number = (41, 198)[COLUMN[machine]]
    expected = bpf.ALLOW if allowed else EPERM
    assert decide(machine, number, family, kind, protocol) == expected


def test_high_bits_of_an_argument_do_not_hide_a_socket_family(machine):
    number = (41, 198)[COLUMN[machine]]
    assert decide(machine, number, (1 << 32) | 17, 2, 0) == EPERM


def test_no_socket_may_make_its_last_closer_wait(machine):
    number = (54, 208)[COLUMN[machine]]
    assert decide(machine, number, 3, 1, 13) == EPERM  # SOL_SOCKET, SO_LINGER
    assert decide(machine, number, 3, 1 | 1 << 32, 13 | 1 << 32) == EPERM
    assert decide(machine, number, 3, 1, 2) == bpf.ALLOW
    assert decide(machine, number, 3, 6, 13) == bpf.ALLOW


def test_terminal_injection_is_denied_whatever_the_high_bits(machine):
    number = (16, 29)[COLUMN[machine]]
    assert decide(machine, number, 0, 0x5401) == bpf.ALLOW
    assert decide(machine, number, 0, 0x5412) == EPERM
    assert decide(machine, number, 0, (1 << 32) | 0x5412) == EPERM


def test_personality_may_be_asked_but_not_changed(machine):
    number = (135, 92)[COLUMN[machine]]
    assert decide(machine, number, 0xFFFFFFFF) == bpf.ALLOW
    assert decide(machine, number, 0) == bpf.ALLOW
    assert decide(machine, number, 0x0040000) == EPERM


def test_the_last_filter_takes_mounting_away(machine):
    program = seccomp.last_program(machine)
    for number in ((165, 40)[COLUMN[machine]], 429):
        assert simulate(program, number, AUDIT[machine]) == EPERM
        assert decide(machine, number) == bpf.ALLOW  # until then a spare needs it
    assert simulate(program, 1, AUDIT[machine]) == bpf.ALLOW


if os.path.exists(HEADER):  # of linux-libc-dev, which CI installs

    def test_the_numbers_are_those_of_the_kernel_headers():
        with open(HEADER) as file:
            words = [line.split() for line in file if line.startswith("#define __NR_")]
        numbers = {name.removeprefix("__NR_"): int(value) for _, name, value in words}
        table = seccomp.denied("x86_64")
        known = {name: number for name, number in table.items() if name in numbers}
        assert len(known) > 50
        assert known == {name: numbers[name] for name in known}


def test_the_assembler_refuses_jumps_it_cannot_encode():
    with pytest.raises(ValueError, match="not defined"):
        bpf.assemble([Instruction(bpf.JUMP_EQUAL, 1, if_true="nowhere")])
    far = [Instruction(bpf.JUMP_EQUAL, 1, if_true="far")]
    far += [Instruction(bpf.LOAD, 0)] * 256
    with pytest.raises(ValueError, match="not possible"):
        bpf.assemble([*far, Instruction(bpf.RETURN, 0, label="far")])
    with pytest.raises(ValueError, match="twice"):
        bpf.assemble([Instruction(bpf.RETURN, 0, label="a")] * 2)


def test_an_unknown_machine_is_refused_by_name():
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64")
