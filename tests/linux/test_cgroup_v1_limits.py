"""Version 1, against the kernel: limits can be set, raised and lowered, swap included."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearth.linux import cgroup_v1, cgroups, launcher
from hearth.linux.cgroups import Limits

MIB = 1 << 20


@pytest.fixture
def group():
    hierarchies = launcher.discover()
    if not isinstance(hierarchies, cgroup_v1.V1):
        pytest.skip("this host has no control groups of version 1 that can be used")
    node = cgroups.Node(hierarchies)
    node.open()
    yield node.group("test")
    node.close()


@pytest.mark.parametrize("sizes", [(64, 256), (256, 64), (64, 64)])
def test_a_memory_limit_can_go_up_and_down(group, sizes):
    for size in sizes:
        group.limit(Limits(memory=size * MIB, pids=8, cpu=None))
        memory = Path(group._memory)
        assert int((memory / "memory.limit_in_bytes").read_text()) == size * MIB
        swap = memory / "memory.memsw.limit_in_bytes"
        assert not swap.exists() or int(swap.read_text()) == size * MIB


def test_a_cpu_quota_has_a_short_period_and_shares_follow_memory(group):
    group.limit(Limits(memory=256 * MIB, pids=8, cpu=0.5))
    cpu = Path(group._paths["cpu"])
    read = {name: (cpu / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.shares")}
    assert read == {"cpu.cfs_quota_us": "10000", "cpu.shares": "256"}


def test_a_removed_group_is_gone_from_every_hierarchy(group):
    assert group.remove()
    assert not [path for path in group._paths.values() if Path(path).exists()]
