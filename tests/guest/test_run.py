"""The harness tells the truth about what happened in the guest, and leaves nothing behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")

pytestmark = [
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86"),
    pytest.mark.timeout(300),
]


def guest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def emulators_of(scratch: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # gone while we looked
        if str(scratch) in line:
            found.append(line)
    return found


def test_the_exit_code_of_pytest_comes_back_from_every_account():
    done = guest("--as", "root", "--as", "user", "--", "tests/guest/inside", "-k", "no_such_test")
    assert done.returncode == 5, done.stdout + done.stderr  # pytest: no tests collected
    assert "pytest as root" in done.stdout
    assert "pytest as user" in done.stdout


def test_a_guest_that_does_not_end_is_killed_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = guest("--limit", "1", "--", "tests/guest/inside")
    assert done.returncode == 124
    assert emulators_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_panics_is_not_a_success(tmp_path, monkeypatch):
    monkeypatch.setenv("HEARTH_GUEST_INIT", "/no-such-init")
    done = guest("--limit", "60", "--", "tests/guest/inside")
    assert done.returncode == 125
    assert "without a verdict" in done.stderr
