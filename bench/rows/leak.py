"""What thousands of cold starts leave behind: nothing, or the row names it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import Bench
from node import NodeError

SCRIPT = Path(__file__).parents[1] / "leak.py"


def measure(bench: Bench) -> dict[str, Any]:
    """Run `bench/leak.py`, in a process of its own because its descriptors are counted.

    Raises:
        NodeError: it ended without a result.
    """
    starts = bench.size(10_000, 2_000)
    command = [sys.executable, str(SCRIPT), "--starts", str(starts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise NodeError(f"leak.py ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
