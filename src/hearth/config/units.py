"""Durations, sizes and amounts of CPU as people write them."""

from __future__ import annotations

import re

from hearth.errors import ConfigError


class Seconds(float):
    """A duration: `30s`, `10m`, `1.5h`, `200ms`, or a number of seconds."""


class Bytes(int):
    """A size: `128Mi`, `1Gi`, `64KiB`, `10MB`, or a number of bytes."""


class Cores(float):
    """CPU cores: `100m` is a tenth of a core; or a number of cores."""


_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"
_MOST = 10**18  # what is longer or larger is no amount of anything, and would overflow later
_DURATION = re.compile(rf"{_NUMBER}(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(rf"{_NUMBER} ?(?:([KMGT])(i?)(B?)|B)?", re.IGNORECASE | re.ASCII)


def _is_number(value: object) -> bool:
    """Tell whether `value` is a number that can be an amount (true, -1 and infinity cannot)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= _MOST


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def parse_duration(text: str | float) -> Seconds:
    """Return seconds for `1h30m`, `30s`, `200ms` or a plain number.

    Raises:
        ConfigError: the text is not a duration.
    """
    if _is_number(text):
        return Seconds(text)
    text = str(text).strip()
    if re.fullmatch(_NUMBER, text):
        return Seconds(text)
    if text and re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        return Seconds(sum(float(n) * _DURATION_UNITS[u] for n, u in _DURATION.findall(text)))
    raise ConfigError(f"{_short(text)} is not a duration; write e.g. '30s', '10m' or '200ms'")


def parse_size(text: str | int) -> Bytes:
    """Return bytes for `128Mi`, `128MiB` (powers of 1024), `10MB` (of 1000) or a plain number.

    Raises:
        ConfigError: the text is not a size.
    """
    if _is_number(text) and isinstance(text, int):
        return Bytes(text)
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ConfigError(f"{_short(text)} is not a size; write e.g. '128Mi' or '64KiB'")
    number, unit, binary, _ = match.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return Bytes(float(number) * (1024 if binary else 1000) ** power)


def parse_cores(text: str | float) -> Cores:
    """Return cores for `100m`, `0.5`, `2`.

    Raises:
        ConfigError: the text is not an amount of CPU.
    """
    if _is_number(text):
        return Cores(text)
    match = re.fullmatch(rf"{_NUMBER}(m?)", str(text).strip())
    if not match:
        raise ConfigError(f"{_short(text)} is not an amount of CPU; write e.g. '100m' or '0.5'")
    return Cores(float(match[1]) / (1000 if match[2] else 1))
