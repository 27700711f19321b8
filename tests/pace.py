"""How much slower than a machine of one's own the tests run, and what that means for them.

Bounds are stretched and repetitions are fewer; what is asserted stays the same.
"""

from __future__ import annotations

import os

SLOW = float(os.environ.get("HEARTH_TEST_SLOW", "1"))
"""By how much all bounds are stretched, for emulated and busy machines."""


def fewer(count: int, least: int) -> int:
    """Return how often to do what is done `count` times at full pace, at least `least` times."""
    return max(round(count / SLOW), min(count, least))
