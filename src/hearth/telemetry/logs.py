"""Structured logs: JSON lines on stderr, readable lines on a terminal, never a secret.

Correlation ids come from structlog's context variables and are bound by the control plane only:
the request path writes no log line.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["bind_contextvars", "clear_contextvars", "configure", "get_logger", "redact"]

HIDDEN = "[redacted]"
_SECRET_KEY = re.compile(
    r"authorization|cookie|api[-_]?key|secret|token|passw|credential", re.IGNORECASE
)
_SECRET_TEXT = re.compile(r"\b(?:hearth_[A-Za-z0-9]+_|(?:Bearer|Basic)\s+)[A-Za-z0-9+/_=.~-]{8,}")
_VALUES_ARE_SECRET = frozenset({"environment", "environ", "env"})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure(
    level: str = "info", *, json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Set up logging for this process; may be called again.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        json: JSON lines or readable ones; None: JSON unless `stream` is a terminal.
        stream: where lines go; None: stderr.
    """
    stream = stream or sys.stderr
    if json is None:
        json = not stream.isatty()
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,  # without local variables: they hold secrets
            redact,
            *(_json_lines() if json else _readable_lines(stream)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=level.upper(), handlers=[_Bridge()], force=True
    )  # the layers below know the standard library's logging only


class _Bridge(logging.Handler):
    """Gives lines of the standard library's logging the same form as all others."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name.removeprefix("hearth."))
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def get_logger(component: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines name the part of the platform that speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace whatever looks like a secret, by the key it stands under or by its own form."""
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, Mapping):
        hide = key.lower() in _VALUES_ARE_SECRET
        return {str(k): HIDDEN if hide else _clean(str(k), v) for k, v in value.items()}
    if key.lower() in _VALUES_ARE_SECRET:
        return HIDDEN
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", item) for item in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return _SECRET_TEXT.sub(HIDDEN, value) if isinstance(value, str) else value


def _json_lines() -> tuple[Processor, ...]:
    encoder = msgspec.json.Encoder(enc_hook=repr)

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        try:
            return encoder.encode(event).decode()
        except (TypeError, ValueError):  # a value that JSON or UTF-8 cannot hold
            return encoder.encode({key: ascii(value) for key, value in event.items()}).decode()

    return (render,)


def _readable_lines(stream: TextIO) -> tuple[Processor, ...]:
    def escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        # What a user chose (a name, a message) must not move the cursor of whoever reads.
        return {
            key: _CONTROL.sub(lambda c: f"\\x{ord(c[0]):02x}", value)
            if isinstance(value, str)
            else value
            for key, value in event.items()
        }

    console = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,
    )
    return (escape, console)
