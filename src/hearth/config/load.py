"""From `hearth.yaml`, the environment and the command line to checked `Settings`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from hearth.config.settings import Settings
from hearth.config.units import Bytes, Cores, Seconds, parse_cores, parse_duration, parse_size
from hearth.config.yamlfile import Mapped, did_you_mean, read_yaml
from hearth.errors import ConfigError

SECTIONS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}

_KEYS: dict[str, Any] = {
    f.name: f.type for f in msgspec.structs.fields(Settings) if f.name not in SECTIONS
} | {f"{name}.{f.name}": f.type for name, s in SECTIONS.items() for f in msgspec.structs.fields(s)}
_VARIABLES = {f"HEARTH_{key.replace('.', '_').upper()}": key for key in _KEYS}
_OTHER_VARIABLES = re.compile(r"HEARTH_(URL|KEY|CONFIG|(TEST|BENCH)_.*)")
_MAY_BE_ZERO = {
    "execution.memory_reserve",
    "execution.shutdown_grace",
    "execution.warm_instance_ttl",
    "process.lease_grace",
    *(f"retention.{key}" for key in ("max_age", "max_bytes", "result_bytes", "log_bytes")),
}


class Given(msgspec.Struct, frozen=True):
    """A value somebody set, and where."""

    value: Any
    source: str


def load_settings(
    path: str | None, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> tuple[Settings, list[str]]:
    """Return the settings and a warning for each accepted key that has no effect (yet).

    Args:
        path: a `hearth.yaml`, or None.
        environ: beats the file; an empty variable counts as unset.
        overrides: dotted keys from the command line (`gateway.port`), which beat both; a value of
            None counts as unset.

    Raises:
        ConfigError: an unknown key, or a value that does not fit; named with its place and the fix.
    """
    warnings: list[str] = []
    given = dict(_from_file(path)) if path is not None else {}
    given |= _from_environ(environ, warnings)
    given |= {k: Given(v, "the command line") for k, v in overrides.items() if v is not None}
    settings = _build({key: _convert(key, entry) for key, entry in given.items()})
    return settings, warnings + list(_without_effect(given))


def _from_file(path: str) -> Iterator[tuple[str, Given]]:
    root = read_yaml(path)
    for name, value in root.items():
        place = f"{path}, line {root.lines[name]}"
        if name not in SECTIONS:
            yield _known(name, place), Given(value, place)
            continue
        if value is None:
            continue
        if not isinstance(value, Mapped):
            raise ConfigError(f"{name} ({place}) is a section: write its keys indented below it")
        for key, inner in value.items():
            place = f"{path}, line {value.lines[key]}"
            yield _known(f"{name}.{key}", place), Given(inner, place)


def _known(key: str, place: str) -> str:
    if key in _KEYS:
        return key
    raise ConfigError(f"unknown key {key} ({place}){did_you_mean(key, [*_KEYS, *SECTIONS])}")


def _from_environ(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name in sorted(environ):
        if not name.startswith("HEARTH_") or not environ[name] or _OTHER_VARIABLES.fullmatch(name):
            continue
        if name in _VARIABLES:
            given[_VARIABLES[name]] = Given(_from_text(environ[name]), name)
        elif name.split("_")[1].lower() in SECTIONS:
            raise ConfigError(f"unknown variable {name}{did_you_mean(name, _VARIABLES)}")
        else:  # clusters invent variables such as HEARTH_SERVICE_HOST: no reason not to start
            warnings.append(f"{name} is not a setting of Hearth and has no effect")
    if use_container := environ.get("WORKER_USE_CONTAINER"):
        name = "WORKER_USE_CONTAINER"
        wanted = _convert("execution.default_mode", Given(_mode(use_container), name))
        given["execution.default_mode"] = Given(wanted, name)
    if work_dir := environ.get("WORKER_WORK_DIR"):
        given["work_dir"] = Given(work_dir, "WORKER_WORK_DIR")
    return given


def _mode(use_container: str) -> str:
    if use_container.lower() in {"true", "1"}:
        return "container"
    if use_container.lower() in {"false", "0"}:
        return "process"
    raise ConfigError(f"WORKER_USE_CONTAINER is {use_container!r}; write true or false")


def _from_text(text: str) -> Any:
    """Read a variable: a list is written with commas, `none` means none."""
    if text.lower() == "none":
        return None
    return text


def _convert(key: str, given: Given) -> Any:
    wanted, value = _KEYS[key], given.value
    if get_origin(wanted) is tuple and isinstance(value, str):
        value = [item.strip() for item in value.strip("[]").split(",")]
    try:
        converted = msgspec.convert(value, wanted, dec_hook=_parse, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{key} ({given.source}) is {value!r}: {_explain(error, wanted)}"
        ) from None
    if isinstance(converted, Seconds | Bytes | Cores) and not converted and key not in _MAY_BE_ZERO:
        raise ConfigError(f"{key} ({given.source}) is {value!r}: it must be above zero")
    return converted


def _parse(wanted: type, value: Any) -> Any:
    parse: dict[type, Callable[[Any], Any]]
    parse = {Seconds: parse_duration, Bytes: parse_size, Cores: parse_cores}
    try:
        return parse[wanted](value)
    except ConfigError as error:  # msgspec lets only ValueError carry a reason
        raise ValueError(error.message.split("; ", 1)[-1]) from None


def _explain(error: msgspec.ValidationError, wanted: Any) -> str:
    literals = [
        v for t in (wanted, *get_args(wanted)) if get_origin(t) is Literal for v in get_args(t)
    ]
    if literals:
        return "write one of " + ", ".join(literals)
    text = str(error).split(" - at ")[0].replace("`", "")
    if text.startswith("Expected str"):
        return "write it in quotes"
    if text.startswith("Expected int, got"):
        return "write a whole number"
    return text[0].lower() + text[1:]


def _build(values: dict[str, Any]) -> Settings:
    parts: dict[str, Any] = {key: value for key, value in values.items() if "." not in key}
    for name, section in SECTIONS.items():
        inside = {k.split(".")[1]: v for k, v in values.items() if k.startswith(f"{name}.")}
        parts[name] = section(**inside)
    return Settings(**parts)


def _without_effect(given: Mapping[str, Given]) -> Iterator[str]:
    for key, entry in given.items():
        if key.startswith("container."):
            yield f"{key} ({entry.source}) has no effect yet: there is no container mode"
        elif key == "execution.default_mode" and entry.value == "container":
            yield (
                f"execution.default_mode is container ({entry.source}), which has no effect yet: "
                "there is no container mode, so functions must name execution_mode: process"
            )
        elif key == "execution.default_mode" and entry.value == "auto":
            yield (
                f"execution.default_mode is auto ({entry.source}), which has no effect yet: "
                "there is only process mode to choose"
            )
    level = given.get("process.isolation_level")
    if level and level.value == "lightweight" and "process.namespace_types" in given:
        yield (
            f"process.namespace_types ({given['process.namespace_types'].source}) has no effect "
            "yet: lightweight uses every namespace that the host allows"
        )
