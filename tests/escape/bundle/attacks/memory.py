"""More memory than allowed, by every way to get some. The limit is 64 MiB, the wish 160."""

import ctypes
import mmap
import os
import signal

from attacks.attempt import attempt, root_has_capability
from attacks.kernel import libc

_LIMIT = {"memory_bytes": 64 << 20, "tmp_bytes": 512 << 20}
_WISH = 160 << 20
_PIECE = bytes(1 << 20)
_BY_PROCESS = "there is no control group: only each process's data is limited"


@attempt("memory", limits=_LIMIT, dies=True)
def take_memory(world):
    try:
        return len(bytearray(_WISH))
    except MemoryError:  # a limit of the process, where there is no control group
        return None


@attempt("memory", limits=_LIMIT, dies=True, weaker=_BY_PROCESS)
def take_memory_in_tmp(world):
    with open("/tmp/fill", "wb", buffering=0) as file:
        return sum(file.write(_PIECE) for _ in range(_WISH // len(_PIECE)))


@attempt("memory", limits=_LIMIT, dies=True, weaker=_BY_PROCESS)
def take_memory_in_an_unnamed_file(world):
    with open(os.memfd_create("fill"), "wb", buffering=0) as file:
        return sum(file.write(_PIECE) for _ in range(_WISH // len(_PIECE)))


@attempt("memory", limits=_LIMIT, dies=True, weaker=_BY_PROCESS)
def take_memory_in_children(world):
    reader, writer = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            held = bytearray(_WISH // 4)
            os.write(writer, b"x")
            signal.pause()
            del held
    return _count(reader, 4)


@attempt("memory", limits=_LIMIT, dies=True, weaker=_BY_PROCESS)
def take_shared_memory_of_system_v(world):
    segment = libc.shmget(0, ctypes.c_size_t(_WISH), 0o1600)
    address = libc.shmat(segment, None, 0)
    ctypes.memset(address, 1, _WISH)
    return segment + 1


@attempt("memory", limits=_LIMIT, dies=True, weaker=_BY_PROCESS)
def take_locked_shared_pages(world):
    area = mmap.mmap(-1, _WISH)
    for at in range(0, _WISH, 4096):
        area[at] = 1
    return len(area)


@attempt("oom_score", root_only=True, needs=root_has_capability(24))  # CAP_SYS_RESOURCE
def be_spared_by_the_out_of_memory_killer(world):
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        score = int(file.read())
        if score >= 0:
            file.write("-1")
            file.flush()
    return f"score {score}"


def _count(reader, wanted):
    seen = 0
    while seen < wanted:
        seen += len(os.read(reader, 1))
    return seen
