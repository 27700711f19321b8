"""What a sandbox looks like from inside."""

from __future__ import annotations

import json
import os

import pytest

from hearth.model import Limits
from nodes import declaration, running_node

INSPECT = """
import os, socket
def attempt(act):
    try:
        return repr(act())
    except OSError as error:
        return error.strerror
def handle(request):
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
    mounts = [line.split()[:4] for line in open("/proc/self/mounts")]
    return {
        "caps": {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")},
        "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"],
        "groups": status["Groups"].strip(),
        "ids": [os.getresuid(), os.getresgid()],
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "writable": [m[1] for m in mounts if "rw" in m[3].split(",") and m[1] != "/dev/pts"],
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "host": socket.gethostname(),
        "write code": attempt(lambda: open("/app/function/x", "w")),
        "write root": attempt(lambda: open("/x", "w")),
        "write proc": attempt(lambda: open("/proc/sys/kernel/hostname", "w")),
        "sys": os.path.exists("/sys"),
        "init": attempt(lambda: os.kill(1, 9)),
        "memory of init": attempt(lambda: open("/proc/1/mem", "rb")),
        "cwd": os.getcwd(),
        "parent": os.getppid(),
    }
"""


def test_a_function_has_no_rights_and_sees_only_its_own_world(run, tools):
    async def body(node):
        started = await node.start(INSPECT)
        _, answer = await started.call()
        seen = json.loads(answer)
        assert set(seen["caps"].values()) == {0}
        assert (seen["no_new_privs"], seen["seccomp"]) == ("1", "2")
        assert seen["groups"] == ""
        assert seen["ids"] == [[1000] * 3, [1000] * 3]
        assert seen["pids"] == [1, 2]
        assert set(seen["writable"]) <= {"/tmp", "/dev/shm", "/proc"}
        assert seen["fds"] == [0, 1, 2, 3, 4]  # 4 lists the directory
        assert seen["interfaces"] == ["lo"]
        assert seen["host"] == "function"
        assert seen["write code"] == seen["write root"] == "Read-only file system"
        assert seen["write proc"] in ("Read-only file system", "Permission denied")
        assert not seen["sys"]
        # With an ordinary user init has the same uid, but the kernel shields it.
        assert seen["init"] == ("Operation not permitted" if tools.root else "None")
        assert (await started.call())[0] == 200
        assert seen["memory of init"] == "Permission denied"
        assert (seen["cwd"], seen["parent"]) == ("/app/function", 1)

    run(body)


def test_every_instance_has_a_host_uid_of_its_own_if_the_node_is_root(run, tools):
    source = "def handle(request):\n    return open('/proc/self/uid_map').read()\n"

    async def body(node):
        maps = set()
        for _ in range(3):
            started = await node.start(source)
            maps.add((await started.call())[1])
        assert len(maps) == (3 if tools.root else 1)

    run(body)


@pytest.mark.parametrize("size", [64 << 20, 4 << 20])
def test_tmp_is_as_large_as_the_limit_says(run, size):
    source = f"""
    import os
    def handle(request):
        fd = os.open("/tmp/fill", os.O_CREAT | os.O_WRONLY)
        written = 0
        try:
            while written < {size * 2}:
                written += os.write(fd, bytes(1 << 20))
        except OSError as error:
            return {{"error": error.strerror, "written": written}}
    """

    async def body(node):
        started = await node.start(source, limits=Limits(tmp_bytes=size, memory_bytes=256 << 20))
        _, answer = await started.call()
        assert json.loads(answer) == {"error": "No space left on device", "written": size}

    run(body)


def test_a_fork_bomb_ends_at_the_pids_limit(run):
    source = """
    import os, time
    def handle(request):
        made = 0
        try:
            while made < 500:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            return made
    """

    async def body(node):
        started = await node.start(source, limits=Limits(pids=16))
        _, answer = await started.call()
        assert int(answer) == 14  # besides init and the host itself

    run(body)


def test_a_cpu_quota_is_enforced(run):
    source = """
    import time
    def handle(request):
        wall, used = time.monotonic(), time.process_time()
        while time.monotonic() - wall < 1.0:
            pass
        return time.process_time() - used
    """

    async def body(node):
        started = await node.start(source, limits=Limits(cpu=0.2))
        _, answer = await started.call()
        assert 0.05 < float(answer) < 0.35

    run(body, needs="cpu")


def test_network_host_shares_the_interfaces_and_none_does_not(run):
    source = "import socket\ndef handle(request):\n    return len(socket.if_nameindex())\n"

    async def body(node):
        _, none = await (await node.start(source)).call()
        _, host = await (
            await node.start(source, network="host", isolation_level="lightweight")
        ).call()
        assert int(none) == 1
        assert int(host) == len(__import__("socket").if_nameindex())

    run(body, isolation_level="lightweight")


@pytest.mark.skipif(os.geteuid() != 0, reason="strict needs root")
def test_a_deploy_with_network_host_under_strict_is_refused(tmp_path, tools):
    source = "def handle(request):\n    return 'hello'\n"
    with running_node(tmp_path / "data", process_isolation_level=tools.level) as node:
        strict = declaration("open", source, network="host", isolation_level="strict")
        refused = node.request("POST", "/functions", strict)
        assert refused.status >= 400
        assert "network host needs isolation_level" in refused.error["message"]
        weak = declaration("open", source, network="host", isolation_level="lightweight")
        assert node.request("POST", "/functions", weak).status == 201
