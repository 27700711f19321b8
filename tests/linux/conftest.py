"""A host has one version of control groups to offer; the other's limits cannot be tried on it."""

from hearth.linux import launcher

HERE = launcher.discover()
collect_ignore = [
    f"test_cgroup_{version}_limits.py"
    for version in ("v1", "v2")
    if HERE is None or HERE.version != version
]
