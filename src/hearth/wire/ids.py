"""Ids of requests and invocations: ordered by time, impossible to guess, cheap to make."""

from __future__ import annotations

import os
import time

_REFILL = 256
_pool: list[str] = []


def new_id() -> str:
    """Return 32 hex characters: 48 bits of Unix milliseconds, then 80 random bits.

    Ids made in different milliseconds sort by age. The last 64 bits alone are random enough to
    serve as a span id. Randomness is drawn from the kernel in batches; a forked child must not
    inherit the module (the node never forks itself).
    """
    if not _pool:
        noise = os.urandom(10 * _REFILL).hex()
        _pool.extend(noise[at : at + 20] for at in range(0, len(noise), 20))
    return f"{time.time_ns() // 1_000_000:012x}{_pool.pop()}"
