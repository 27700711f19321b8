"""Fresh randomness after a fork."""

from __future__ import annotations

import os
import sys


def reseed() -> None:
    """Make every random number generator of this process start anew.

    Two processes forked from one parent hold the same generator state; `secrets`, `uuid` and
    `os.urandom` ask the kernel and need nothing. OpenSSL notices a fork by the process id, which
    is no evidence where each instance has a pid namespace of its own.
    """
    loaded = sys.modules
    if "random" in loaded:
        loaded["random"].seed()
    if "numpy.random" in loaded:
        loaded["numpy.random"].seed()
    if "_ssl" in loaded:
        loaded["_ssl"].RAND_add(os.urandom(64), 64.0)
