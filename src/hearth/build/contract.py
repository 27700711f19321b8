"""How a function is spoken to, decided from its source without ever running it.

The rule, in order
1. An explicit `contract` wins.
2. The entry file is the explicit `entry`, else the module that `handler` names, else the first of
   `handler.py`, `main.py`, `function.py`, `app.py`, `__main__.py`, else the only `.py` at the top.
3. If that file defines the function that `handler` names (`handle` when none is named) with at
   least one parameter, the contract is `handler`. A name that is assigned or imported counts, since
   its parameters cannot be seen: the first start at deploy tells.
4. Any other program is a `script`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hearth.errors import DeployFailed

ENTRY_NAMES = ("handler.py", "main.py", "function.py", "app.py", "__main__.py")
DEFAULT_FUNCTION = "handle"
_HANDLER = re.compile(r"(?:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.)?([A-Za-z_]\w*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What was decided."""

    contract: str
    entry: str
    handler: str
    """Function in the entry file; empty for a script."""
    is_async: bool = False
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Definition:
    parameters: int | None
    """None: it is assigned or imported, so nobody can tell."""
    is_async: bool = False


def split_handler(handler: str) -> tuple[str, str]:
    """Return (module, function) of `module.function` or `function`; the module may be empty.

    Raises:
        DeployFailed: it is neither.
    """
    match = _HANDLER.fullmatch(handler)
    if not match:
        raise DeployFailed(
            f"handler {handler[:200]!r} must be 'function' or 'module.function'", path="$.handler"
        )
    return match[1] or "", match[2]


def source_name(handler: str, entry: str) -> str:
    """Return the file name under which a lone source file is stored."""
    if entry:
        return entry
    module = split_handler(handler)[0] if handler else ""
    return f"{module}.py" if module and "." not in module else ENTRY_NAMES[0]


def decide(*, contract: str, handler: str, entry: str) -> Spoken:
    """Decide for the bundle in the current directory; empty strings mean not given.

    Raises:
        DeployFailed: there is no entry file, or it does not define what an explicit contract needs.
    """
    module, function = split_handler(handler) if handler else ("", DEFAULT_FUNCTION)
    path, reason = _entry_file(module, entry)
    if contract == "script":
        return Spoken(
            contract="script", entry=path, handler="", reasons=["contract is set to script", reason]
        )
    found = _definitions(path).get(function)
    why_not = _why_not(path, function, found)
    if found is not None and not why_not:
        return Spoken(
            contract="handler",
            entry=path,
            handler=function,
            is_async=found.is_async,
            reasons=[_why_handler(contract, path, function, found), reason],
        )
    if contract == "handler":
        raise DeployFailed(f"contract handler: {why_not}", path="$.handler")
    warnings = [f"{why_not}, so the program is run as a script"] if module else []
    return Spoken(
        contract="script",
        entry=path,
        handler="",
        reasons=[f"contract is script: {why_not}", reason],
        warnings=warnings,
    )


def _why_not(path: str, function: str, found: _Definition | None) -> str:
    if found is None:
        return f"{path} does not define {function!r}"
    if found.parameters == 0:
        return f"{function!r} in {path} takes no parameter"
    return ""


def _why_handler(contract: str, path: str, function: str, found: _Definition) -> str:
    if contract:
        return "contract is set to handler"
    how = "assigns or imports" if found.parameters is None else "defines"
    return f"contract is handler: {path} {how} {function!r}"


# --- the entry file ----------------------------------------------------------------------------


def _entry_file(module: str, entry: str) -> tuple[str, str]:
    if entry:
        if not os.path.isfile(entry):
            raise DeployFailed(f"entry {entry!r} is not in the bundle: {_top()}", path="$.entry")
        return entry, f"entry is set to {entry}"
    if module:
        stem = module.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if os.path.isfile(path):
                return path, f"entry is {path}: handler names the module {module}"
        raise DeployFailed(
            f"handler names the module {module!r}, but the bundle has no {stem}.py: {_top()}",
            path="$.handler",
        )
    return _usual_entry()


def _usual_entry() -> tuple[str, str]:
    for path in ENTRY_NAMES:
        if os.path.isfile(path):
            return path, f"entry is {path}: the first of {', '.join(ENTRY_NAMES)} that exists"
    only = [name for name in os.listdir() if name.endswith(".py") and os.path.isfile(name)]
    if len(only) == 1:
        return only[0], f"entry is {only[0]}: the only Python file at the top"
    raise DeployFailed(
        f"the bundle has no entry file: name it with `entry`, or put one of "
        f"{', '.join(ENTRY_NAMES)} at the top; {_top()}",
        path="$.code",
    )


def _top() -> str:
    names = sorted(name + "/" * os.path.isdir(name) for name in os.listdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"at its top are {', '.join(names[:10])}{more}"


# --- what the entry file defines ---------------------------------------------------------------


def _definitions(path: str) -> dict[str, _Definition]:
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    found: dict[str, _Definition] = {}
    for statement in _module_level(tree.body):
        found.update(_defined_by(statement))
    return found


def _module_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when the module is imported; not what waits for `__main__`."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from _module_level(getattr(statement, block, ()))
        for handler in getattr(statement, "handlers", ()):
            yield from _module_level(handler.body)


def _defined_by(statement: ast.stmt) -> Iterator[tuple[str, _Definition]]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        is_async = isinstance(statement, ast.AsyncFunctionDef)
        yield statement.name, _Definition(_count(statement.args), is_async)
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0], _Definition(None)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        is_lambda = isinstance(statement.value, ast.Lambda)
        count = _count(statement.value.args) if isinstance(statement.value, ast.Lambda) else None
        if is_lambda or not isinstance(statement.value, ast.Constant):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, _Definition(count)


def _count(args: ast.arguments) -> int:
    return len(args.posonlyargs) + len(args.args) + (args.vararg is not None)
