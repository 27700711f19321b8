"""What the end of an instance means to those who waited for it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from hearth.errors import (
    Crashed,
    HearthError,
    InitError,
    InvocationError,
    OutOfMemory,
    ProtocolViolation,
    ResponseTooLarge,
)

if TYPE_CHECKING:
    from hearth.model import Version
    from hearth.sandbox.base import Exit


def of_call(end: Exit, version: Version) -> InvocationError:
    """Return the error of a call that was lost with its instance."""
    if end.oom:
        return _out_of_memory(end, version, "killed")
    if end.response_too_large:
        limit = f"response_bytes={version.limits.response_bytes}"
        return ResponseTooLarge(end.reason, limit=limit)
    if end.violation:
        return ProtocolViolation(end.reason)
    return Crashed(f"the function's process ended before it answered: {how(end)}")


def of_start(end: Exit, version: Version) -> HearthError:
    """Return the error of an instance that ended before it served anything."""
    failure = end.init_failure
    if failure is not None:
        return InitError(f"{failure['type']}: {failure['message']}", stack=failure.get("stack"))
    if end.oom:
        return _out_of_memory(end, version, "killed while loading")
    if end.violation:
        return ProtocolViolation(end.reason)
    return InitError(f"the function's process ended while loading: {how(end)}")


def how(end: Exit) -> str:
    """Say how a process ended, e.g. `exit code 3` or `signal SIGSEGV`."""
    if end.code is not None:
        return f"exit code {end.code}"
    if end.signal is not None and not (end.signal == signal.SIGKILL and end.reason):
        return f"signal {_signal_name(end.signal)}"
    return end.reason or "unknown cause"


def _out_of_memory(end: Exit, version: Version, what: str) -> OutOfMemory:
    limit = end.memory_limit or version.limits.memory_bytes
    peak = f" (peak {_mib(end.memory_peak)} MiB)" if end.memory_peak is not None else ""
    return OutOfMemory(
        f"{what}: memory limit {_mib(limit)} MiB reached{peak}", limit=f"memory={_mib(limit)}Mi"
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
