"""What a user says about a function: the body of `POST /functions`, checked for keys and types.

`understanding` turns a checked declaration into limits and settings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hearth.errors import BadInput

NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"

Name = Annotated[
    str,
    Meta(pattern=NAME_PATTERN, max_length=63, description="RFC 1035 label: `a-z`, `0-9`, `-`"),
]
Duration = Annotated[
    str | float, Meta(description="`30s`, `10m`, `1h30m`, `200ms`, or seconds", examples=["30s"])
]
Size = Annotated[
    str | int, Meta(description="`128Mi`, `1Gi`, `10MB`, or bytes", examples=["128Mi"])
]
Cpu = Annotated[str | float, Meta(description="`100m` (a tenth of a core), `0.5`, `2`")]

_HIDDEN = "***"
_ENVIRONMENT_BYTES = 128 << 10
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OURS = ("HEARTH_", "FUNCTION_PAYLOAD")
_ALLOWED_OURS = frozenset({"HEARTH_LOG_LEVEL"})
_SAME_AS = {"memory_mb": "memory", "cpu_limit": "cpu", "tmp_size": "tmp"}


class ScaleDeclaration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many instances there are."""

    min: int | None = None
    """Instances kept warm when nobody calls."""
    max: int | None = None
    """Most instances; lowers `max_concurrency` to what they can take."""
    idle_ttl: Duration | None = None
    """How long an idle instance is kept."""


class Declaration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function as its user declares it; null means the default."""

    name: Name | None = None
    version: Annotated[str, Meta(max_length=64)] | None = None
    """The user's own version text, e.g. `1.0.0`."""
    runtime: Annotated[str, Meta(max_length=64)] | None = None
    """`python`, `python3` or `python3.11`."""
    handler: Annotated[str, Meta(max_length=256)] | None = None
    """`function` or `module.function`."""
    entry: Annotated[str, Meta(max_length=1024)] | None = None
    """Path of the entry file inside the bundle."""
    code: str | None = None
    """Base64 of a source file, a zip or a tar.gz."""
    contract: Annotated[str, Meta(max_length=64)] | None = None
    """`handler` or `script`; decided from the code when not given."""
    execution_mode: Annotated[str, Meta(max_length=64)] | None = None
    """`process` or `auto`."""
    isolation_level: Annotated[str, Meta(max_length=64)] | None = None
    """`strict` or `lightweight`; the node's default when not given."""
    network: Annotated[str, Meta(max_length=64)] | None = None
    """`none`, or `host` with isolation level `lightweight`."""
    timeout: Duration | None = None
    memory: Size | None = None
    memory_mb: int | None = None
    """Memory in units of 1024 * 1024 bytes; the same key as `memory`."""
    cpu: Cpu | None = None
    """Hard quota in cores; without it a share in proportion to memory."""
    cpu_limit: Cpu | None = None
    """The same key as `cpu`."""
    pids: int | None = None
    """Most processes and threads of one instance."""
    tmp: Size | None = None
    """Size of the private `/tmp`."""
    tmp_size: Size | None = None
    """The same key as `tmp`."""
    max_concurrency: int | None = None
    """Most invocations in flight at once."""
    instance_concurrency: int | None = None
    """How many invocations one instance takes at once (async handlers only)."""
    queue_size: int | None = None
    """Most invocations that wait for an instance."""
    queue_timeout: Duration | None = None
    """Longest wait for an instance."""
    environment: dict[str, str] | list[str] | None = None
    """`{"KEY": "value"}` or `["KEY=value"]`."""
    dependencies: list[str] | None = None
    """Not effective yet: put what is needed into the bundle."""
    image: Annotated[str, Meta(max_length=512)] | None = None
    """Not supported yet."""
    scale: ScaleDeclaration | None = None


def check(declared: object) -> dict[str, Any]:
    """Return the given fields of a declaration that has the right keys and types.

    A null is kept: it resets a field when it is merged.

    Raises:
        BadInput: an unknown key (with what was probably meant), or a value of the wrong type.
    """
    if not isinstance(declared, dict):
        raise BadInput("a function is declared by a JSON object", path="$")
    _known(declared, Declaration, "$")
    if isinstance(declared.get("scale"), dict):
        _known(declared["scale"], ScaleDeclaration, "$.scale")
    if "version" in declared and not isinstance(declared["version"], (str, type(None))):
        raise BadInput(
            f'version must be text; write it in quotes: version: "{declared["version"]}"',
            path="$.version",
        )
    try:
        msgspec.convert(declared, Declaration)
    except msgspec.ValidationError as error:
        raise _bad(error) from error
    return dict(declared)


def merge(old: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declaration with the given fields laid over; a null takes a field away.

    Two names of one key (`memory` and `memory_mb`) displace each other.
    """
    merged = dict(old)
    for key, value in given.items():
        for one, other in _SAME_AS.items():
            if key in (one, other):
                merged.pop(one, None)
                merged.pop(other, None)
        merged[key] = value
    for one, other in _SAME_AS.items():
        if given.get(one) is not None and given.get(other) is not None:
            merged[one] = given[one]  # both were given at once: `understand` compares them
            merged[other] = given[other]
    return {key: value for key, value in merged.items() if value is not None}


def shown(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declaration as the API shows it: names of variables, but not their values."""
    return {
        key: dict.fromkeys(environment(value), _HIDDEN) if key == "environment" else value
        for key, value in declared.items()
        if key != "code"
    }


def _known(given: dict[str, Any], struct: type[msgspec.Struct], path: str) -> None:
    names = struct.__struct_fields__
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            shown_key = str(key)[:100]
            raise BadInput(f"unknown key {shown_key!r}{hint}", path=f"{path}.{shown_key}")


def _bad(error: msgspec.ValidationError) -> BadInput:
    text = str(error)
    message, _, where = text.partition(" - at `")
    return BadInput(message, path=where.rstrip("`") or "$")


def environment(given: Mapping[str, str] | list[str]) -> dict[str, str]:
    """Return the variables of a map or a list of `KEY=value`.

    Raises:
        BadInput: a name is not one, is given twice or belongs to the platform; or it is too much.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else [_pair(line) for line in given]
    found: dict[str, str] = {}
    for key, value in pairs:
        path = f"$.environment.{key[:100]}"
        if not _VARIABLE.fullmatch(key):
            raise BadInput(f"{key[:100]!r} is not the name of a variable", path="$.environment")
        if key.startswith(_OURS) and key not in _ALLOWED_OURS:
            raise BadInput(f"{key} is set by the platform", path=path)
        if key in found:
            raise BadInput(f"{key} is given twice", path=path)
        if "\0" in value or not _is_utf8(value):
            raise BadInput(f"{key} holds a NUL or is not UTF-8", path=path)
        found[key] = value
    if sum(len(k.encode()) + len(v.encode()) for k, v in found.items()) > _ENVIRONMENT_BYTES:
        raise BadInput("environment is larger than 128 KiB", path="$.environment")
    return found


def _pair(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals:
        raise BadInput(f"{line[:50]!r} must be KEY=value", path="$.environment")
    return key, value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
