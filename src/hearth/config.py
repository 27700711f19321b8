"""Settings of a node: `hearth.yaml`, overlaid by `HEARTH_…` variables, checked and typed.

The sections `execution`, `container` and `process` are the system format of the lightweight design
(§4.1) as printed there. Every key can be overridden by the environment: section and key joined by
an underscore, e.g. `HEARTH_EXECUTION_WARM_INSTANCE_TTL=5m`.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from hearth.errors import ConfigError


class Seconds(float):
    """A duration: `30s`, `10m`, `1.5h`, `200ms`, or a number of seconds."""


class Bytes(int):
    """A size: `128Mi`, `1Gi`, `64KiB`, `10MB`, or a number of bytes."""


class Cores(float):
    """CPU cores: `100m` is a tenth of a core; or a number of cores."""


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)(B?)|B)?", re.IGNORECASE)


def parse_duration(text: str | float) -> Seconds:
    """Return seconds for `1h30m`, `30s`, `200ms` or a plain number.

    Raises:
        ConfigError: the text is not a duration.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return Seconds(text)
    text = str(text).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return Seconds(text)
    if text and re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        return Seconds(sum(float(n) * _DURATION_UNITS[u] for n, u in _DURATION.findall(text)))
    raise ConfigError(f"{text!r} is not a duration; write e.g. '30s', '10m' or '200ms'")


def parse_size(text: str | int) -> Bytes:
    """Return bytes for `128Mi`, `128MiB` (powers of 1024), `10MB` (powers of 1000) or a plain number.

    Raises:
        ConfigError: the text is not a size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return Bytes(text)
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ConfigError(f"{text!r} is not a size; write e.g. '128Mi' or '64KiB'")
    number, unit, binary, _ = match.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return Bytes(float(number) * (1024 if binary else 1000) ** power)


def parse_cores(text: str | float) -> Cores:
    """Return cores for `100m`, `0.5`, `2`.

    Raises:
        ConfigError: the text is not an amount of CPU.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return Cores(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(text).strip())
    if not match:
        raise ConfigError(f"{text!r} is not an amount of CPU; write e.g. '100m' or '0.5'")
    return Cores(float(match[1]) / (1000 if match[2] else 1))


class Execution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How calls are run, whatever the mode."""

    default_mode: Literal["process", "container", "auto"] = "process"
    max_concurrent_functions: int = 1000
    """Most invocations in flight on the node at once."""
    cold_start_timeout: Seconds = Seconds(30)
    warm_instance_ttl: Seconds = Seconds(600)
    max_instances: int = 4000
    """Most live instances; idle ones of other functions are evicted first."""
    memory_reserve: Bytes = Bytes(256 << 20)
    """No instance is started while MemAvailable is below this."""
    shutdown_grace: Seconds = Seconds(30)


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Container mode."""

    runtime: Literal["docker", "containerd", "oci"] = "docker"
    base_image: str = "python:3.11-slim"
    memory_limit: Bytes = Bytes(128 << 20)
    cpu_limit: Cores | None = None


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Process mode."""

    isolation_level: Literal["strict", "lightweight"] = "strict"
    namespace_types: tuple[str, ...] = ("pid", "mount", "user")
    """A minimum; `strict` adds the rest."""
    memory_limit: Bytes = Bytes(128 << 20)
    cpu_limit: Cores | None = None
    spares: int = 8
    """Sandboxes kept ready per zygote."""
    uid_base: int = 1_879_048_192
    """First host uid given to instances; two for each."""
    lease_grace: Seconds = Seconds(0)
    """How long sandboxes outlive their node."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public listener."""

    host: str = "127.0.0.1"
    port: int = 8080
    max_body: Bytes = Bytes(16 << 20)
    max_header_bytes: Bytes = Bytes(32 << 10)
    max_headers: int = 100
    header_timeout: Seconds = Seconds(10)
    body_timeout: Seconds = Seconds(60)
    idle_timeout: Seconds = Seconds(75)
    max_connections: int = 10_000
    rate_limit: float | None = None
    """Requests per second and key; None: unlimited."""
    rate_burst: int = 100


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control API."""

    listen: str | None = None
    """`host:port` of a second listener that then alone serves the control API."""


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asynchronous invocations."""

    max_depth: int = 100_000
    concurrency: int = 100
    """Most queued calls running at once on the node."""
    max_attempts: int = 3
    """Runs of one call, counting those a dead node began."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long records, results and logs are kept; whichever limit is reached first."""

    max_age: Seconds = Seconds(7 * 86400)
    max_count: int = 1_000_000
    max_bytes: Bytes = Bytes(1 << 30)
    result_bytes: Bytes = Bytes(64 << 10)
    """Longest result kept in one record."""
    log_bytes: Bytes = Bytes(256 << 10)
    """Longest log kept for one invocation."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a node can be told."""

    data_dir: str = "./data"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    execution: Execution = Execution()
    container: Container = Container()
    process: Process = Process()
    gateway: Gateway = Gateway()
    control: Control = Control()
    queue: Queue = Queue()
    retention: Retention = Retention()
