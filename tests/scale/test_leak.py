"""Thousands of cold starts leave the node and the kernel as they were.

`make bench ARGS=leak` and `make soak` do the same with 10,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pace import SLOW, fewer

LEAK = Path(__file__).parents[2] / "bench" / "leak.py"
STARTS = fewer(2000, least=300)
BOUND_S = 300 * SLOW
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="strict isolation needs root"),
    pytest.mark.timeout(BOUND_S + 30),
]


def test_thousands_of_cold_starts_leave_nothing_behind():
    run = subprocess.run(
        [sys.executable, str(LEAK), "--starts", str(STARTS)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert run.stdout, run.stderr
    found = json.loads(run.stdout)
    assert found["starts"] == STARTS
    assert found["grown"] == {}
    assert found["left"] == []
    assert run.returncode == 0
    watched = found["figures"]
    assert watched["processes"][0] >= watched["pid namespaces"][0] > 8, "it looked at real ones"


def test_what_has_grown_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(LEAK.parent))
    import leak

    assert leak.above({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "c": 0}) == {"b": [2, 3]}
