"""The harness is a set of scripts, not a package; its tests import them as it does itself."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
