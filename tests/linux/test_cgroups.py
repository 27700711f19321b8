"""Both versions write the right files; leftovers are told from the living by a lock."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hearth.linux import cgroup_v1, cgroup_v2, cgroups, launcher
from hearth.linux.cgroups import Limits

MIB = 1 << 20


@pytest.fixture
def unified(tmp_path):
    """Look like a cgroup2 mount, as far as plain files can."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("")
    return tmp_path


def make(directory, *names):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("")


def test_version_2_hands_its_controllers_down_to_the_groups_of_a_node(unified):
    hierarchy = cgroup_v2.V2(cgroup_v2.usable(str(unified)))
    make(unified / "hearth-1", "cgroup.subtree_control")
    hierarchy.prepare("hearth-1")
    handed = "+memory +cpu +pids +io"
    assert (unified / "cgroup.subtree_control").read_text() == handed
    assert (unified / "hearth-1" / "cgroup.subtree_control").read_text() == handed


def test_version_2_writes_every_limit(unified):
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.weight")
    make(unified, *names, "cpu.max", "io.weight")
    group = cgroup_v2.V2Group(str(unified), frozenset(("memory", "cpu", "pids", "io")))
    group.limit(Limits(memory=256 * MIB, pids=64, cpu=0.1))
    read = {name: (unified / name).read_text() for name in (*names, "cpu.max", "io.weight")}
    assert read == {
        "memory.max": str(256 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "64",
        "cpu.weight": "20",
        "cpu.max": "2000 20000",
        "io.weight": "default 200",
    }


def test_version_2_without_a_cpu_limit_has_a_weight_and_no_quota(unified):
    make(unified, "memory.max", "memory.oom.group", "pids.max", "cpu.weight", "cpu.max")
    group = cgroup_v2.V2Group(str(unified), frozenset(("memory", "cpu", "pids")))
    group.limit(Limits(memory=128 * MIB, pids=1, cpu=None))
    assert (unified / "cpu.weight").read_text() == "10"
    assert (unified / "cpu.max").read_text() == ""


def test_version_2_measures_peak_time_and_kills(unified):
    (unified / "memory.peak").write_text("4096\n")
    (unified / "cpu.stat").write_text("usage_usec 12\nuser_usec 3\n")
    (unified / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    group = cgroup_v2.V2Group(str(unified), frozenset())
    assert group.measure() == cgroups.Measure(memory_peak=4096, cpu_ns=12_000, oom_kills=2)


def test_version_2_uses_only_what_it_may_hand_down(unified):
    (unified / "cgroup.controllers").write_text("hugetlb pids")
    assert cgroup_v2.usable(str(unified)) == {"pids": str(unified)}
    (unified / "cgroup.subtree_control").unlink()
    assert cgroup_v2.usable(str(unified)) == {}


def test_groups_that_cannot_be_prepared_are_no_reason_not_to_start_unless_strict(
    unified, monkeypatch
):
    before = sorted(os.listdir(unified))  # plain files: nothing can be handed down to new groups
    monkeypatch.setattr(launcher, "discover", lambda: cgroup_v2.V2({"memory": str(unified)}))
    assert launcher._claim_groups(strict=False) is None
    with pytest.raises(FileNotFoundError):
        launcher._claim_groups(strict=True)
    assert sorted(os.listdir(unified)) == before


def test_a_node_started_from_the_leaf_uses_the_group_above(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(cgroups, "read", lambda path: "memory pids")
    mountinfo = "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    for own in ("0::/user/session\n", f"0::/user/session/{cgroup_v2._LEAF}\n"):
        roots = cgroup_v2.discover(mountinfo, own)
        assert roots == dict.fromkeys(("memory", "pids"), "/sys/fs/cgroup/user/session")


def test_version_1_finds_the_own_group_of_each_hierarchy(tmp_path):
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    (memory / "a" / "b").mkdir(parents=True)
    cpu.mkdir()
    mountinfo = (
        f"31 23 0:27 / {memory} rw shared:9 - cgroup cgroup rw,memory\n"
        f"32 23 0:28 /inside {cpu} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    own = "4:memory:/a/b\n3:cpu,cpuacct:/inside\n0::/\n"
    assert cgroup_v1.discover(mountinfo, own) == {
        "memory": f"{memory}/a/b",
        "cpu": str(cpu),
        "cpuacct": str(cpu),
    }


def test_a_node_that_lives_is_not_swept_and_a_dead_one_is(tmp_path):
    root = str(tmp_path)
    code = (
        "import sys; from hearth.linux import cgroups\n"
        "class One:\n"
        "    version, roots = 'v2', {'memory': sys.argv[1]}\n"
        "    def prepare(self, token): pass\n"
        "node = cgroups.Node(One()); node.open(); print(node.token, flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, root], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    token = other.stdout.readline().strip()
    assert cgroups.sweep([root]) == []
    assert os.listdir(root) == [token]
    other.kill()
    other.wait()
    assert cgroups.sweep([root]) == [token]
    assert os.listdir(root) == []
    other.stdout.close()
    other.stdin.close()


def test_a_shared_hierarchy_keeps_the_groups_of_a_node_that_is_elsewhere_in_another(tmp_path):
    class Two:
        version = "v1"

        def __init__(self, own):
            self.roots = {"memory": str(tmp_path / own), "cpu": str(tmp_path / "shared")}

        def prepare(self, token): ...

    for name in ("mine", "theirs", "shared"):
        (tmp_path / name).mkdir()
    mine = cgroups.Node(Two("mine"))
    mine.open()
    assert cgroups.sweep(cgroups.Node(Two("theirs")).directories) == []
    assert os.listdir(tmp_path / "shared") == [mine.token]
    mine.close()
    assert os.listdir(tmp_path / "shared") == []


def test_other_directories_are_never_swept(tmp_path):
    (tmp_path / "system.slice").mkdir()
    assert cgroups.sweep([str(tmp_path)]) == []
    assert (tmp_path / "system.slice").exists()
