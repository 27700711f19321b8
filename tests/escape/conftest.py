"""What the attempts try to reach, planted outside the sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "bundle")]

from escape_node import Nodes  # noqa: E402 - found by the line above

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE = 0o1000
_REMOVE = 0
_MQ_OPEN = {"x86_64": 240, "aarch64": 180}
_MQ_UNLINK = {"x86_64": 241, "aarch64": 181}


@pytest.fixture(scope="session")
def planted():
    """Plant a secret of every kind; what is returned is told to the attempts."""
    token = f"hearth-escape-{secrets.token_hex(8)}"
    directory = Path(tempfile.mkdtemp(prefix="hearth-escape-", dir=_public()))
    directory.chmod(0o755)
    (directory / "secret").write_text(token)
    (directory / "other-function").mkdir()
    (directory / "other-function/handler.py").write_text("KEY = 'of another function'\n")
    sockets = [socket.create_server(("127.0.0.1", 0)), _listen(f"\0{token}")]
    sockets.append(_listen(f"{directory}/socket"))
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", token])
    shm_key = secrets.randbits(30) | 1
    segment = _LIBC.shmget(shm_key, 4096, _CREATE | 0o666)
    machine = os.uname().machine
    queue = _LIBC.syscall(_MQ_OPEN[machine], token.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    assert segment >= 0
    assert queue >= 0
    os.environ["HEARTH_TEST_SECRET"] = token
    score = _shield_from_out_of_memory("-200")
    yield {
        "token": token,
        "directory": str(directory),
        "port": sockets[0].getsockname()[1],
        "pid": process.pid,
        "shm_key": shm_key,
        "host": os.uname().nodename,
    }
    del os.environ["HEARTH_TEST_SECRET"]
    _shield_from_out_of_memory(score)
    os.close(queue)
    _LIBC.syscall(_MQ_UNLINK[machine], token.encode())
    _LIBC.shmctl(segment, _REMOVE, None)
    process.kill()
    process.wait()
    for sock in sockets:
        sock.close()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def nodes(planted):
    """Backends; made after the planting, so that they inherit what is to be found in them."""
    directory = Path(tempfile.mkdtemp(prefix="hearth-escape-nodes-"))
    directory.chmod(0o755)
    made = Nodes(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


def _public() -> str | None:
    """A directory of the host that is not, like /tmp, hidden by one of the sandbox's own."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


def _shield_from_out_of_memory(score: str) -> str:
    """As a node's unit may do; the suite shows that functions do not inherit it."""
    path = Path("/proc/self/oom_score_adj")
    before = path.read_text()
    with contextlib.suppress(PermissionError):  # without CAP_SYS_RESOURCE
        path.write_text(score)
    return before


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    return listener
