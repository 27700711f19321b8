"""One instance of process mode: a channel for the calls, a number at the spawner for the rest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

from hearth.model import Version
from hearth.sandbox.base import Caller, CallRequest, Exit, InstanceListener, Stream, Usage
from hearth.sandbox.channel import Channel


class Owner(Protocol):
    """The backend, as its instances see it."""

    def kill(self, number: int) -> None:
        """Have the sandbox killed."""

    def abandon(self, instance: ProcessInstance) -> None:
        """Take an instance off the waiting list that has no sandbox yet."""

    def usage(self, number: int) -> Usage:
        """Measure a sandbox."""


class ProcessInstance:
    """Implements `hearth.sandbox.base.Instance`."""

    __slots__ = (
        "_channel",
        "_end",
        "_listener",
        "_loaded",
        "_loop",
        "_number",
        "_owner",
        "_reason",
        "_taken",
        "code",
        "id",
        "stock",
        "version",
    )

    def __init__(
        self,
        instance_id: str,
        owner: Owner,
        *,
        version: Version,
        code: str,
        stock: str,
        listener: InstanceListener,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Wait for a sandbox of `stock` (`take`) that runs the bundle in `code`."""
        self.id = instance_id
        self.version = version
        self.code = code
        self.stock = stock
        self._owner = owner
        self._listener = listener
        self._loop = loop
        self._number: int | None = None
        self._channel: Channel | None = None
        self._reason: str | None = None
        self._end: Exit | None = None
        self._taken = 0
        self._loaded = False

    # --- what the engine does ------------------------------------------------------------------

    def call(self, request: CallRequest, caller: Caller) -> None:
        """Hand over one call."""
        if self._end is not None:
            caller.on_lost(self._end)
        elif self._channel is not None:
            self._channel.call(request, caller)

    def call_ahead(self, calls: Sequence[tuple[CallRequest, Caller]]) -> None:
        """Hand over calls behind the one that runs."""
        if self._end is not None:
            for _, caller in calls:
                caller.on_lost(self._end)
        elif self._channel is not None:
            self._channel.call_ahead(calls)

    def pause_reading(self) -> None:
        """Stop delivering chunks until `resume_reading`."""
        if self._channel is not None and self._end is None:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Deliver chunks again."""
        if self._channel is not None and self._end is None:
            self._channel.resume_reading()

    def usage(self) -> Usage:
        """Measure now."""
        if self._end is not None:
            return Usage(memory_peak=self._end.memory_peak, cpu_ns=self._end.cpu_ns)
        if self._number is None:
            return Usage()
        return self._owner.usage(self._number)

    def stop(self, reason: str) -> None:
        """Kill everything inside at once; `on_gone` follows."""
        if self._reason is None:
            self._reason = reason
        if self._end is not None:
            return
        if self._number is not None:
            self._owner.kill(self._number)
        else:
            self._owner.abandon(self)

    # --- what the backend does -----------------------------------------------------------------

    def take(self, number: int, fds: tuple[int, int, int]) -> None:
        """Move into the sandbox `number`, whose outer descriptors are `fds`."""
        self._number = number
        self._channel = Channel(self._loop, *fds, version=self.version, events=self)
        self._channel.start_init()

    def leave(self, report: dict[str, Any], tries: int) -> bool:
        """Let go of a sandbox that somebody killed before it was of use; False if `gone` is due.

        Then init could not even say how user code ended, and user code cannot kill init.

        Args:
            report: how it ended, see `spawner`.
            tries: how many sandboxes it may have had in all.
        """
        self._taken += 1
        killed = report.get("status") is None and report.get("error") is None
        if not killed or report.get("oom") or self._loaded or self._reason is not None:
            return False
        if self._end is not None or self._taken >= tries:
            return False
        if self._channel is not None:
            self._channel.finish(Exit())
        self._channel = self._number = None
        return True

    def gone(self, report: dict[str, Any]) -> None:
        """Settle everything: the sandbox has ended as `report` (see `spawner`) says."""
        if self._end is not None:
            return
        self._end = self._exit(report)  # first: calls that end now ask for the usage
        if self._channel is not None:
            self._end = self._channel.finish(self._end)
        self._listener.on_gone(self, self._end)

    def _exit(self, report: dict[str, Any]) -> Exit:
        status, code, signal = report.get("status"), None, None
        if status is not None and os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
        elif status is not None:
            signal = os.WTERMSIG(status)
        elif report.get("error") is None:
            signal = 9  # killed from outside, before it could report anything
        return Exit(
            code=code,
            signal=signal,
            oom=bool(report.get("oom")),
            memory_limit=self.version.limits.memory_bytes,
            memory_peak=report.get("memory_peak"),
            cpu_ns=report.get("cpu_ns"),
            reason=self._reason or report.get("error"),
        )

    # --- what the channel says -----------------------------------------------------------------

    def on_ready(self, init_ns: int) -> None:
        """Pass on that the function is loaded."""
        self._loaded = True
        self._listener.on_ready(self, init_ns)

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Pass on what was written outside any call."""
        self._listener.on_output(self, stream, data)

    def on_init_failed(self, failure: dict[str, Any]) -> None:
        """End it: it has nothing to serve."""
        self.stop("the function could not be loaded")

    def on_violation(self, reason: str) -> None:
        """End it: it cannot be trusted any more."""
        self.stop(reason)
