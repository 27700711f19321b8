"""The kernel and process suites hold for an ordinary user too, with `lightweight`.

Root runs them here as somebody else; where the whole run is an ordinary user's, they just run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import hearth
from pace import SLOW

UID = 65533
PROJECT = Path(__file__).resolve().parents[3]
PYTHON = "/usr/bin/python3"  # one that others can reach; that of the environment may be root's
SUITES = ("linux", "sandbox/process", "sandbox/test_contract.py")


@pytest.fixture
def home():
    """Give a directory of the user's own, which no directory above it hides."""
    path = Path(tempfile.mkdtemp(prefix="hearth-test-user-", dir="/tmp"))
    os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path)


def python_paths() -> str:
    found = [str(Path(hearth.__file__).parents[1])]
    return os.pathsep.join([*found, *(p for p in sys.path if p.endswith("site-packages"))])


def run_as_user(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", PYTHON, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": python_paths(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HEARTH_TEST_SLOW": str(SLOW),
            "HOME": str(home),
        },
        capture_output=True,
        check=False,
        cwd=PROJECT,
        text=True,
        timeout=110 * SLOW,
    )


def test_the_suites_hold_for_an_ordinary_user(home):
    done = run_as_user(
        home,
        *("-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-x"),
        *("--basetemp", f"{home}/tmp"),
        *(str(PROJECT / "tests" / suite) for suite in SUITES),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout
