"""YAML as people expect it: no word or clock time changes its meaning, no key is given twice.

YAML 1.1, which PyYAML reads, makes `on` and `no` booleans, `22:30` the number 1350, `010` the
number 8 and `2024-01-01` a date, and keeps the last of two equal keys. Here only `true` and `false`
are booleans, only plain decimals are numbers, everything else is text, and a repeated key is
refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, ClassVar

import yaml

from hearth.errors import ConfigError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Mapped(dict[str, Any]):
    """A mapping of a YAML file that knows the line of each of its keys, from 1."""

    lines: dict[str, int]


class _Loader(_Base):  # type: ignore[misc] # the C loader has no type
    """Reads the YAML 1.2 core schema's idea of null, booleans and numbers."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)\Z", list("-+0123456789")),
    ("float", r"[-+]?(0|[1-9][0-9]*)\.[0-9]+\Z", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _mapping(loader: Any, node: yaml.MappingNode) -> Mapped:
    result = Mapped()
    result.lines = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(f"line {line}: a key must be text; write it in quotes")
        if key in result:
            raise ConfigError(f"line {line}: {key} was given already in line {result.lines[key]}")
        result[key], result.lines[key] = loader.construct_object(value_node, deep=True), line
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str) -> Mapped:
    """Return the mapping that the file `path` holds; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping with text keys.
    """
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.load(file, _Loader)  # noqa: S506 # _Loader is a safe loader
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_where(error)}: not valid YAML: {_problem(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.message}") from None
    if root is None:
        root = Mapped()
        root.lines = {}
    if not isinstance(root, Mapped):
        raise ConfigError(f"{path} must hold `key: value` lines")
    return root


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
