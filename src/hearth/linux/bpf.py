"""An assembler for classic BPF: instructions in, bytes of `struct sock_filter` out."""

from __future__ import annotations

import struct
from typing import NamedTuple

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_EQUAL = 0x15
JUMP_GREATER_EQUAL = 0x35
JUMP_SET = 0x45
RETURN = 0x06

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL_PROCESS = 0x80000000

# Offsets in `struct seccomp_data`, little-endian.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16


class Instruction(NamedTuple):
    """One instruction; jumps name labels, None goes on with the next one."""

    code: int
    value: int = 0
    if_true: str | None = None
    if_false: str | None = None
    label: str | None = None
    """The name of this place."""


def low(argument: int) -> int:
    """Return the offset of the low 32 bits of a call's argument (0 to 5)."""
    return ARGUMENTS + 8 * argument


def high(argument: int) -> int:
    """Return the offset of the high 32 bits of a call's argument (0 to 5)."""
    return low(argument) + 4


def assemble(program: list[Instruction]) -> bytes:
    """Return the program as an array of `struct sock_filter`.

    Raises:
        ValueError: a label is unknown, doubled or behind its jump, or a jump is longer than 255.
    """
    places: dict[str, int] = {}
    for at, instruction in enumerate(program):
        if instruction.label is not None:
            if instruction.label in places:
                raise ValueError(f"label {instruction.label!r} is defined twice")
            places[instruction.label] = at
    return b"".join(
        struct.pack(
            "=HBBI",
            instruction.code,
            _distance(places, instruction.if_true, at),
            _distance(places, instruction.if_false, at),
            instruction.value,
        )
        for at, instruction in enumerate(program)
    )


def _distance(places: dict[str, int], label: str | None, at: int) -> int:
    if label is None:
        return 0
    if label not in places:
        raise ValueError(f"label {label!r} is not defined")
    distance = places[label] - at - 1
    if not 0 <= distance <= 255:
        raise ValueError(f"a jump to {label!r} over {distance} instructions is not possible")
    return distance
