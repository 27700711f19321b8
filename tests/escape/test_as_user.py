"""The suite once more for an ordinary user with `lightweight`: what is weaker is asserted as such.

In the guest that `make test-cgroup-v2` boots, the user runs it directly.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

UID = 65_532
PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent

if os.geteuid() == 0 and not os.environ.get("HEARTH_TEST_GUEST"):

    @pytest.mark.timeout(240)
    def test_the_suite_holds_for_an_ordinary_user():
        """With an interpreter that the user can reach, as that of a root may be out of reach."""
        ask = "import sys; print(*sys.version_info[:2])"
        version = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=False)
        if version.stdout.split() != [str(part) for part in sys.version_info[:2]]:
            pytest.skip("needs a system Python of the same version")
        packages = Path(pytest.__file__).parent.parent
        with tempfile.TemporaryDirectory(prefix="hearth-escape-user-") as home:
            os.chown(home, UID, UID)
            command = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", PYTHON]
            command += ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
            done = subprocess.run(
                [*command, f"--rootdir={HERE.parent.parent}", str(HERE)],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": f"{HERE.parent.parent / 'src'}:{packages}",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "TMPDIR": home,
                    "HYPOTHESIS_STORAGE_DIRECTORY": home,
                },
                capture_output=True,
                text=True,
                check=False,
                timeout=220,
                cwd=HERE.parent.parent,
            )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "passed" in done.stdout
