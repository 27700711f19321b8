"""From what a user declared to limits and settings, each within bounds or refused by name.

A key of the specs that has no effect yet is accepted with a warning when the function runs right
without it, and refused when accepting it would be a lie (see docs/api.md for the list).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hearth.build import runtimes
from hearth.build.builder import Recipe
from hearth.build.declaration import Declaration, ScaleDeclaration, environment
from hearth.config import Settings, parse_cores, parse_duration, parse_size
from hearth.errors import BadInput, ConfigError
from hearth.model import IsolationLevel, Limits, Mode, Network, Scale


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A declaration that is understood."""

    name: str
    label: str
    runtime: str
    recipe: Recipe
    mode: Mode
    isolation_level: IsolationLevel
    network: Network
    environment: dict[str, str]
    limits: Limits
    scale: Scale
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def understand(declared: Mapping[str, Any], settings: Settings) -> Intent:
    """Turn checked, merged fields into settings.

    Raises:
        BadInput: a value is out of bounds, contradicts another, or cannot be honoured here.
    """
    given = msgspec.convert(declared, Declaration)
    if given.name is None:
        raise BadInput("name is missing", path="$.name")
    if given.image is not None:
        raise BadInput("image is not supported yet: send the function as code", path="$.image")
    reasons: list[str] = []
    isolation = _isolation(given, settings)
    limits = _limits(given, settings, reasons)
    return Intent(
        name=given.name,
        label=given.version or "",
        runtime=runtimes.resolve(given.runtime or "python"),
        recipe=Recipe(
            handler=given.handler or "", entry=given.entry or "", contract=_contract(given)
        ),
        mode=_mode(given, settings, reasons),
        isolation_level=isolation,
        network=_network(given, isolation),
        environment=environment(given.environment or {}),
        limits=limits,
        scale=_scale(given, limits),
        reasons=tuple(reasons),
        warnings=_warnings(given),
    )


def _contract(given: Declaration) -> str:
    if given.contract in (None, "handler", "script"):
        return given.contract or ""
    if given.contract in ("socket", "web", "guest"):
        raise BadInput(f"contract {given.contract} is not supported yet", path="$.contract")
    raise BadInput("contract must be handler or script", path="$.contract")


def _mode(given: Declaration, settings: Settings, reasons: list[str]) -> Mode:
    wanted = given.execution_mode or settings.execution.default_mode
    if wanted == "container":
        raise BadInput(
            "execution_mode container is not supported yet; use process or auto",
            path="$.execution_mode",
        )
    if wanted not in ("process", "auto"):
        raise BadInput("execution_mode must be process or auto", path="$.execution_mode")
    why = "execution_mode is auto, and this node has process mode only"
    by = "execution_mode" if given.execution_mode else "execution.default_mode"
    reasons.append(why if wanted == "auto" else f"mode is process: {by} says so")
    return "process"


def _isolation(given: Declaration, settings: Settings) -> IsolationLevel:
    wanted = given.isolation_level or settings.process.isolation_level
    if wanted == "strict":
        return "strict"
    if wanted == "lightweight":
        return "lightweight"
    raise BadInput("isolation_level must be strict or lightweight", path="$.isolation_level")


def _network(given: Declaration, isolation: IsolationLevel) -> Network:
    if given.network in (None, "none"):
        return "none"
    if given.network == "outbound":
        raise BadInput("network outbound is not supported yet; use none", path="$.network")
    if given.network != "host":
        raise BadInput("network must be none or host", path="$.network")
    if isolation == "strict":
        raise BadInput("network host needs isolation_level: lightweight", path="$.network")
    return "host"


def _warnings(given: Declaration) -> tuple[str, ...]:
    if not given.dependencies:
        return ()
    return (
        "dependencies has no effect yet: put the packages into the bundle "
        f"({', '.join(given.dependencies)[:200]})",
    )


# --- numbers -----------------------------------------------------------------------------------


def _limits(given: Declaration, settings: Settings, reasons: list[str]) -> Limits:
    memory_mb = None if given.memory_mb is None else f"{given.memory_mb}Mi"
    memory = _either("memory", given.memory, "memory_mb", memory_mb, parse_size)
    cpu = _either("cpu", given.cpu, "cpu_limit", given.cpu_limit, parse_cores)
    tmp = _either("tmp", given.tmp, "tmp_size", given.tmp_size, parse_size)
    default = Limits()
    per_instance = _count("instance_concurrency", given.instance_concurrency, 1, (1, 1000))
    concurrency = _count(
        "max_concurrency", given.max_concurrency, default.max_concurrency, (1, 10_000)
    )
    most = given.scale.max if given.scale else None
    if most is not None:
        taken = _count("scale.max", most, 1, (1, 10_000)) * per_instance
        if taken < concurrency:
            reasons.append(f"max_concurrency is {taken}: scale.max is {most}")
            concurrency = taken
    return Limits(
        timeout_s=_seconds("timeout", given.timeout, default.timeout_s, (0.01, 86_400)),
        memory_bytes=int(
            _within("memory", memory or settings.process.memory_limit, (16 << 20, 1 << 40))
        ),
        cpu=_cpu(cpu, settings),
        pids=_count("pids", given.pids, default.pids, (4, 32_768)),
        tmp_bytes=int(_within("tmp", tmp or default.tmp_bytes, (1 << 20, 1 << 36))),
        max_concurrency=concurrency,
        instance_concurrency=per_instance,
        queue_size=_count("queue_size", given.queue_size, default.queue_size, (0, 1_000_000)),
        queue_timeout_s=_seconds(
            "queue_timeout", given.queue_timeout, default.queue_timeout_s, (0.01, 3600)
        ),
    )


def _cpu(cpu: float | None, settings: Settings) -> float | None:
    cpu = settings.process.cpu_limit if cpu is None else cpu
    return None if cpu is None else float(_within("cpu", cpu, (0.01, 256)))


def _scale(given: Declaration, limits: Limits) -> Scale:
    wanted = given.scale or ScaleDeclaration()
    most = math.ceil(limits.max_concurrency / limits.instance_concurrency)
    ttl = wanted.idle_ttl
    return Scale(
        min_instances=_count("scale.min", wanted.min, 0, (0, most)),
        idle_ttl_s=None if ttl is None else _seconds("scale.idle_ttl", ttl, 0, (0, 7 * 86_400)),
    )


def _either(
    name: str, value: Any, other: str, other_value: Any, parse: Callable[[Any], float]
) -> float | None:
    """Parse one key that has two names; None when neither is given."""
    found = _parsed(name, value, parse)
    found_other = _parsed(other, other_value, parse)
    if found is not None and found_other is not None and found != found_other:
        raise BadInput(f"{name} and {other} contradict each other; give one", path=f"$.{other}")
    given = found if found is not None else found_other
    if given == 0:
        raise BadInput(f"{name} must be more than 0", path=f"$.{name}")
    return given


def _parsed(name: str, value: Any, parse: Callable[[Any], float]) -> float | None:
    if value is None:
        return None
    try:
        return parse(value)
    except (ConfigError, OverflowError, ValueError) as error:
        raise BadInput(f"{name}: {error}", path=f"$.{name}") from error


def _seconds(name: str, value: Any, default: float, bounds: tuple[float, float]) -> float:
    found = _parsed(name, value, parse_duration)
    return float(_within(name, default if found is None else found, bounds))


def _count(name: str, value: int | None, default: int, bounds: tuple[int, int]) -> int:
    return int(_within(name, default if value is None else value, bounds))


def _within(name: str, value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if not low <= value <= high:  # also false for NaN
        raise BadInput(
            f"{name} must be between {_figure(low)} and {_figure(high)}, not {_figure(value)}",
            path=f"$.{name}",
        )
    return value


def _figure(value: float) -> str:
    if abs(value) > 1e30:
        return "a far larger number"
    if value >= 1 << 20 and value == int(value) and int(value) % (1 << 20) == 0:
        return f"{int(value) >> 20}Mi"
    return f"{value:g}"
