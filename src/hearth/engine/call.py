"""One invocation from arrival to record.

Its status goes `queued → running → succeeded | failed | timeout | cancelled`.
Two moments end it. It is *told* when the sink hears the last event; a deadline or a cancel does
that at once. It is *settled* when the instance has let go of it, which for a killed one is some
milliseconds later and brings the last output and the memory peak; only then is it recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hearth.engine import outcome
from hearth.engine.headers import BadHeadersError, clean_block
from hearth.engine.records import NO_LOGS, Logs, Result
from hearth.errors import Cancelled, HearthError, InvocationError, ProtocolViolation, Timeout
from hearth.model import Failure, InvocationRecord, Metrics, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from hearth.engine.invocation import Sink
    from hearth.engine.invoke import Invoker
    from hearth.engine.member import Member
    from hearth.engine.pool import Pool
    from hearth.model import Version
    from hearth.sandbox.base import Caller, CallRequest, Exit, Stream


class Invocation:
    """A call under way: a `Caller` to the instance, a handle to gateway, control and queue."""

    __slots__ = (
        "_ahead",
        "_ended",
        "_error",
        "_http_status",
        "_invoker",
        "_logs",
        "_member",
        "_paused",
        "_peak",
        "_result",
        "_settled",
        "_sink",
        "_started",
        "arrived",
        "asynchronous",
        "attempts",
        "cold",
        "created_at",
        "id",
        "on_settled",
        "pool",
        "refused",
        "request",
        "status",
        "traceparent",
        "version",
    )

    def __init__(
        self, invoker: Invoker, pool: Pool, request: CallRequest, sink: Sink, now: float
    ) -> None:
        """Arrive at `now` (monotonic seconds)."""
        self.id = request.id
        self.request: CallRequest | None = request
        self.pool = pool
        self.version: Version = pool.version
        self.status: Status = "queued"
        self.refused = False
        """It was not accepted, and there is no record of it."""
        self.cold = False
        self.created_at = invoker.time()
        self.asynchronous = False
        self.attempts = 1
        self.traceparent: str | None = None
        self.on_settled: Callable[[Invocation], None] | None = None
        self._invoker = invoker
        self._sink = sink
        self.arrived = now
        self._ahead = False
        self._started = 0.0
        self._ended = 0.0
        self._member: Member | None = None
        self._error: HearthError | None = None
        self._http_status: int | None = None
        self._logs = NO_LOGS
        self._result: Result | None = None
        self._peak: int | None = None
        self._paused = False
        self._settled = False

    # --- what the upper side may do ------------------------------------------------------------

    @property
    def created_ns(self) -> int:
        """Unix nanoseconds of arrival."""
        return int(self.created_at * 1e9)

    @property
    def error(self) -> HearthError | None:
        """Why it did not succeed, once that is known."""
        return self._error

    @property
    def settled(self) -> bool:
        """Whether the record is complete."""
        return self._settled

    def keep_result(self, limit: int) -> None:
        """Keep up to `limit` bytes of the answer for the record, and measure the memory."""
        self._result = Result(limit)

    def pause(self) -> None:
        """Stop the flow of chunks."""
        if not self._paused and self._member is not None and self.status == "running":
            self._paused = True
            self._member.instance.pause_reading()  # type: ignore[union-attr] # a member that runs a call has its instance

    def resume(self) -> None:
        """Let chunks flow again."""
        if self._paused:
            self._paused = False
            self._member.instance.resume_reading()  # type: ignore[union-attr] # as in pause

    def cancel(self, reason: str) -> None:
        """End it; the instance dies with it unless it runs other calls as well."""
        if self.status == "queued" and self.pool.withdraw(self):
            self.fail(Cancelled(f"cancelled: {reason}"))
        elif self.status == "queued" and self._ahead:
            self.give_up(Cancelled(f"cancelled: {reason}"))
        elif self.status == "running":
            self._tell(Cancelled(f"cancelled: {reason}"))
            member = self._member
            # With calls behind it, it is a quick one: killed now, it might be one of those that
            # has just begun, and would run twice.
            if member is not None and member.calls == 1 and not member.ahead:
                self.pool.dismiss(member, f"cancelled: {reason}")

    def end(self, error: HearthError) -> None:
        """End it with `error`, whatever it is doing (the node is shutting down)."""
        if self.status == "queued" and self.pool.withdraw(self):
            self.fail(error)
        elif self.status == "queued" and self._ahead:
            self.give_up(error)
        elif self.status == "running":
            self._tell(error)
            self.pool.dismiss(self._member, error.message)  # type: ignore[arg-type] # set while running

    # --- what the pool does --------------------------------------------------------------------

    def begin(self, member: Member, now: float) -> None:
        """Run on `member`."""
        self.status = "running"
        self._member = member
        self._started = now
        self.pool = member.pool
        self.version = version = member.pool.version
        if not member.served:
            self.cold = member.ready_at > self.arrived
        member.served += 1
        request = self.request
        request.deadline = self.created_at + (now - self.arrived) + version.limits.timeout_s  # type: ignore[union-attr] # only dropped when settled
        member.instance.call(request, self)  # type: ignore[union-attr,arg-type] # a ready member has its instance

    def go_ahead(self, member: Member, now: float) -> tuple[CallRequest, Caller]:
        """Wait in the socket of the busy `member`; the time it takes counts from now."""
        self._ahead = True
        self._member = member
        self._started = now
        self.pool = member.pool
        self.version = version = member.pool.version
        request = self.request
        request.deadline = self.created_at + (now - self.arrived) + version.limits.timeout_s  # type: ignore[union-attr] # only dropped when settled
        return request, self  # type: ignore[return-value] # as above

    def take_turn(self) -> None:
        """Run on the instance that has it already."""
        self._ahead = False
        self._member.served += 1  # type: ignore[union-attr] # set when it went ahead
        if self.status == "queued":
            self.status = "running"

    def give_up(self, error: HearthError) -> None:
        """Tell the caller; the record is complete when the instance lets go."""
        self.pool.gave_up(self)
        self._tell(error)

    def overdue(self) -> None:
        """Time out: the caller hears it at once, the instance is killed."""
        limit = f"timeout={self.version.limits.timeout_s:g}s"
        if self.status == "running":
            seconds = f"{self.version.limits.timeout_s:g} s"
            self._tell(Timeout(f"the function did not answer within {seconds}", limit=limit))
        if self._member is not None:
            self.pool.dismiss(self._member, limit)

    def fail(self, error: HearthError) -> None:
        """End without having run."""
        self._ended = self._invoker.monotonic()
        self._tell(error)
        self._settle()

    def refuse(self, error: HearthError) -> None:
        """End without having been accepted: no record is kept."""
        self._ended = self._invoker.monotonic()
        self.refused = self._settled = True
        self._invoker.refused(self, error)
        self._tell(error)
        self.request = None

    # --- what the instance does ----------------------------------------------------------------

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Log it."""
        if self._logs is NO_LOGS:
            self._logs = Logs(self._invoker.log_bytes)
            self.pool.heard_output()
        self._logs.add(self._invoker.time(), stream, data)

    def on_reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Give the instance back, then the answer to the sink."""
        if self.status != "running":
            self._let_go()
            return
        try:
            headers = self._check(status, headers)
        except ProtocolViolation as error:
            self._violated(error)
            return
        if self._result is not None:
            self._result.add(body)
        self._http_status = status
        self.status = "succeeded"
        self._let_go()
        self._sink.reply(self, status, headers, body)

    def on_head(self, status: int, headers: bytes) -> None:
        """Pass the head of a streamed answer on."""
        if self.status != "running":
            return
        try:
            headers = self._check(status, headers)
        except ProtocolViolation as error:
            self._tell(error)
            self.pool.dismiss(self._member, error.message)  # type: ignore[arg-type] # set while running
            return
        self._http_status = status
        self._sink.head(self, status, headers)

    def on_chunk(self, data: bytes) -> None:
        """Pass a piece on."""
        if self.status == "running":
            if self._result is not None:
                self._result.add(data)
            self._sink.chunk(self, data)

    def on_end(self) -> None:
        """Complete a streamed answer."""
        told = self.status != "running"
        if not told:
            self.status = "succeeded"
        self._let_go()
        if not told:
            self._sink.end(self)

    def on_error(self, error_type: str, message: str, stack: str | None) -> None:
        """Fail as the function's own code did."""
        told = self.status != "running"
        error = None
        if not told:
            text = message if error_type == "RuntimeError" else f"{error_type}: {message}"
            error = InvocationError(text, stack=stack)
            self._set_error(error)
        self._let_go()
        if error is not None:
            self._sink.fail(self, error)

    def on_lost(self, end: Exit) -> None:
        """Fail because the instance ended; a call whose turn had not come waits again."""
        if self._ahead:
            self._come_back()
            return
        self.pool.lose(self._member)  # type: ignore[arg-type] # ran on it
        self._peak = end.memory_peak
        told = self.status != "running"
        if not told:
            self._set_error(outcome.of_call(end, self.version))
        self._let_go()
        if not told and self._error is not None:
            self._sink.fail(self, self._error)

    # --- the end ---------------------------------------------------------------------------------

    def record(self) -> InvocationRecord:
        """Return the record as of now; it is complete once `settled`."""
        version, error, result = self.version, self._error, self._result
        if self.status == "succeeded" and result is None and self._logs is NO_LOGS:
            return self._plain_record(version)
        return InvocationRecord(
            id=self.id,
            function_id=version.function_id,
            function=version.function,
            version=version.number,
            status=self.status,
            http_status=self._http_status,
            result=result.value() if result is not None and error is None else None,
            result_truncated=result is not None and result.truncated,
            error=Failure(type=error.type, message=error.message, stack=error.stack)
            if error is not None
            else None,
            metrics=self._metrics(),
            logs=self._logs.lines() if self._logs is not NO_LOGS else (),
            logs_truncated=self._logs.truncated,
            asynchronous=self.asynchronous,
            attempts=self.attempts,
            traceparent=self.traceparent,
            created_at=self.created_at,
            started_at=self._wall(self._started),
            finished_at=self._wall(self._ended),
        )

    def _plain_record(self, version: Version) -> InvocationRecord:
        """Return the record of a call that leaves nothing else behind, in a third of the time."""
        run, wait, init = self.durations_ns()
        offset = self.created_at - self.arrived
        return InvocationRecord(
            id=self.id,
            function_id=version.function_id,
            function=version.function,
            version=version.number,
            status="succeeded",
            http_status=self._http_status,
            metrics=Metrics(
                duration=run,
                memory_peak=self._peak,
                cold_start=self.cold,
                queue_wait=wait,
                init=init,
            ),
            asynchronous=self.asynchronous,
            attempts=self.attempts,
            traceparent=self.traceparent,
            created_at=self.created_at,
            started_at=offset + self._started,
            finished_at=offset + self._ended if self._ended else None,
        )

    def durations_ns(self) -> tuple[int | None, int, int | None]:
        """Return how long it ran, how long it waited, and how long its instance took to come up.

        None: it never ran, or it found its instance ready.
        """
        if not self._started:
            return None, int((self._ended - self.arrived) * 1e9), None
        run = int((self._ended - self._started) * 1e9)
        init = self._member.init_ns if self.cold and self._member is not None else None
        return run, int((self._started - self.arrived) * 1e9), init

    def _metrics(self) -> Metrics:
        run, wait, init = self.durations_ns()
        return Metrics(
            duration=run if self._started and self._ended else None,
            memory_peak=self._peak,
            cold_start=self.cold,
            queue_wait=wait if self._started or self._ended else None,
            init=init,
        )

    def _wall(self, moment: float) -> float | None:
        return self.created_at + (moment - self.arrived) if moment else None

    def _check(self, status: int, headers: bytes) -> bytes:
        """Return the cleaned header block.

        Raises:
            ProtocolViolation: HTTP cannot carry this; an honest host would not send it.
        """
        if not 200 <= status <= 599:
            raise ProtocolViolation(f"the function answered with status {status}")
        try:
            return clean_block(headers)
        except BadHeadersError as error:
            raise ProtocolViolation(f"the function's answer is not HTTP: {error}") from None

    def _violated(self, error: ProtocolViolation) -> None:
        """End a call whose whole answer is not to be trusted, and the instance with it."""
        self._set_error(error)
        self.pool.dismiss(self._member, error.message)  # type: ignore[arg-type] # set while running
        self._let_go()
        self._sink.fail(self, error)

    def _come_back(self) -> None:
        member, self._member = self._member, None
        self._ahead = False
        self._started = 0.0
        now = self._invoker.monotonic()
        if self.status == "queued":
            self.pool.take_back(member, self, now)  # type: ignore[arg-type] # set when it went ahead
        else:
            self._ended = now
            self.pool.forget(member, self)  # type: ignore[arg-type] # as above
            self._settle()

    def _tell(self, error: HearthError) -> None:
        self._set_error(error)
        self._sink.fail(self, error)

    def _set_error(self, error: HearthError) -> None:
        self._error = error
        if isinstance(error, Cancelled):
            self.status = "cancelled"
        else:
            self.status = "timeout" if error.status == 504 else "failed"

    def _let_go(self) -> None:
        """Give the instance back; the record is complete with that."""
        member = self._member
        self._ended = now = self._invoker.monotonic()
        if self._paused:
            self.resume()
        if self._result is not None and self._peak is None:
            self._peak = member.instance.usage().memory_peak  # type: ignore[union-attr] # ran on it
        self.pool.release(member, self, now)  # type: ignore[arg-type] # ran on it
        self._settle()

    def _settle(self) -> None:
        self._settled = True
        self.request = None
        self._invoker.settled(self)
        if self.on_settled is not None:
            self.on_settled(self)
