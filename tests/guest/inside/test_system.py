"""What the cgroup-v2-only guest promises to the suites that run in it."""

import ctypes
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
NEW_USER = 0x10000000


def test_the_only_cgroup_hierarchy_is_version_2():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kinds = [(kind, where) for _, where, kind, *_ in mounts if kind.startswith("cgroup")]
    assert kinds == [("cgroup2", str(CGROUP))]


def test_the_controllers_that_limits_need_are_there():
    assert {"cpu", "memory", "pids", "io"} <= set(
        (CGROUP / "cgroup.controllers").read_text().split()
    )


def test_the_project_is_importable():
    import hearth

    assert hearth.__version__


if os.geteuid() == 0:

    def test_root_can_limit_memory():
        group = CGROUP / "guest-check"
        (CGROUP / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        try:
            (group / "memory.max").write_text("1048576")
            assert (group / "memory.max").read_text() == "1048576\n"
        finally:
            group.rmdir()

else:

    def test_the_user_has_no_privilege_but_may_make_a_user_namespace():
        status = Path("/proc/self/status").read_text()
        assert os.geteuid() == 1000
        assert "CapEff:\t0000000000000000" in status
        child = os.fork()
        if child == 0:
            os._exit(-ctypes.CDLL(None).unshare(NEW_USER))
        assert os.waitpid(child, 0)[1] == 0
