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
SOURCE = Path(hearth.__file__).parents[1]
PYTHON = "/usr/bin/python3"  # one that others can reach; that of the environment may be root's
SUITES = ("linux", "sandbox/process", "sandbox/test_contract.py")


@pytest.fixture
def home():
    """Give a directory of the user's own, which no directory above it hides."""
    path = Path(tempfile.mkdtemp(prefix="hearth-test-user-", dir="/tmp"))
    os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path)


def environment_of(home: Path) -> str:
    """Make an environment with what this one has installed, and return its interpreter."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", home / "venv"], check=True)
    (packages,) = (home / "venv/lib").glob("*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "hearth.pth").write_text("\n".join([str(SOURCE), *installed]))
    return f"{home}/venv/bin/python"


def run_as_user(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    python = environment_of(home)
    return subprocess.run(
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", python, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HEARTH_TEST_SLOW": str(SLOW),
            "HOME": str(home),
        },
        capture_output=True,
        check=False,
        cwd=PROJECT,
        text=True,
        timeout=280,
    )


@pytest.mark.timeout(300)
def test_the_suites_hold_for_an_ordinary_user(home):
    done = run_as_user(
        home,
        *("-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-x"),
        *("--basetemp", f"{home}/tmp"),
        *(str(PROJECT / "tests" / suite) for suite in SUITES),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout
