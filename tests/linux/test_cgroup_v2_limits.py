"""Version 2, against the kernel: what is written holds, and what runs in a group can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hearth.linux import cgroup_v2, cgroups, launcher
from hearth.linux.cgroups import Limits
from hearth_runtime import syscalls
from pace import SLOW

MIB = 1 << 20
ENTER_AND = "import os, sys; [os.write(int(fd), b'0') for fd in sys.argv[1:]]\n"
WAIT = "print('in', flush=True); sys.stdin.read()\n"


def hierarchies() -> cgroup_v2.V2:
    found = launcher.discover()
    assert isinstance(found, cgroup_v2.V2)
    return found


@pytest.fixture
def node():
    node = cgroups.Node(hierarchies())
    cgroups.sweep(node.directories)
    node.open()
    yield node
    node.close()
    assert not [path for path in node.directories if os.path.exists(f"{path}/{node.token}")]


@pytest.fixture
def group(node):
    return node.group("test")


def inside(group, code):
    """Start Python code that first moves itself into the group."""
    doors = group.entrances()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", ENTER_AND + code, *map(str, doors)],
        pass_fds=doors,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for fd in doors:
        os.close(fd)
    return process


def end_of(process):
    process.communicate(timeout=30 * SLOW)
    return process.returncode


def test_the_kernel_takes_every_limit_as_it_was_meant(group):
    group.limit(Limits(memory=256 * MIB, pids=64, cpu=0.1))
    names = ("memory.max", "memory.oom.group", "pids.max", "cpu.weight", "cpu.max")
    read = {name: Path(group._path, name).read_text().strip() for name in names}
    assert read == {
        "memory.max": str(256 * MIB),
        "memory.oom.group": "1",
        "pids.max": "64",
        "cpu.weight": "20",
        "cpu.max": "2000 20000",
    }


@pytest.mark.parametrize("sizes", [(64, 256), (256, 64)])
def test_a_memory_limit_can_go_up_and_down(group, sizes):
    for size in sizes:
        group.limit(Limits(memory=size * MIB, pids=8, cpu=None))
        assert Path(group._path, "memory.max").read_text().strip() == str(size * MIB)


def test_too_much_memory_ends_the_whole_group_and_is_counted(group):
    group.limit(Limits(memory=32 * MIB, pids=8, cpu=None))
    bystander = inside(group, WAIT)
    assert bystander.stdout.readline() == b"in\n"
    assert end_of(inside(group, f"bytearray({64 * MIB})\n")) == -signal.SIGKILL
    assert end_of(bystander) == -signal.SIGKILL
    measure = group.measure()
    assert measure.oom_kills >= 1
    assert 16 * MIB < (measure.memory_peak or 0) <= 32 * MIB
    assert measure.cpu_ns > 0


def test_no_more_processes_than_the_limit_can_be_made(group):
    group.limit(Limits(memory=64 * MIB, pids=2, cpu=None))
    assert end_of(inside(group, "os.fork() or os._exit(0)\nos.wait()\n")) == 0
    both = "os.fork() or sys.stdin.read()\ntry: os.fork()\nexcept BlockingIOError: os._exit(7)\n"
    process = inside(group, both)
    process.stdin.close()
    assert process.wait(30 * SLOW) == 7
    process.stdout.close()


def test_a_group_is_killed_at_once_and_can_then_be_removed(group):
    group.limit(Limits(memory=64 * MIB, pids=8, cpu=None))
    process = inside(group, WAIT)
    assert process.stdout.readline() == b"in\n"
    assert not group.remove()
    group.kill()
    assert end_of(process) == -signal.SIGKILL
    assert group.remove()
    assert not os.path.exists(group._path)


def test_a_process_can_be_born_in_a_group(group):
    place = group.birthplace()
    reader, writer = os.pipe()
    pid = syscalls.fork_into(place)
    if pid == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os.write(writer, Path("/proc/self/cgroup").read_bytes())
            os._exit(0)
        os._exit(os.waitpid(grandchild, 0)[1])
    os.close(writer)
    os.close(place)
    assert os.waitpid(pid, 0)[1] == 0
    with os.fdopen(reader) as file:
        assert file.read().strip().endswith("/test")


def test_the_memory_in_use_can_be_read(group):
    process = inside(group, f"data = bytearray({8 * MIB})\n" + WAIT)
    assert process.stdout.readline() == b"in\n"
    assert group.memory_now() > 8 * MIB
    process.kill()
    end_of(process)


def test_a_base_that_holds_processes_is_emptied_and_they_live_on(node):
    """As in a container, whose processes are in the root of what it sees, or in a session."""
    base = f"{node.directories[0]}/{node.token}/base"
    os.mkdir(base)
    process = subprocess.Popen(["/bin/sleep", "60"])
    cgroups.write(f"{base}/cgroup.procs", str(process.pid))
    inner = cgroups.Node(cgroup_v2.V2(cgroup_v2.usable(base)))
    for _ in range(2):  # the second node finds the leaf of the first
        assert cgroups.sweep(inner.directories) == []
        inner.open()
        inner.group("a").limit(Limits(memory=64 * MIB, pids=8, cpu=None))
        inner.close()
        assert process.poll() is None
    own = Path(f"/proc/{process.pid}/cgroup").read_text().strip()
    assert own.endswith(f"/base/{cgroup_v2._LEAF}")
    process.kill()
    process.wait()
