"""From the INIT frame's words to the user's function, in a process that looks freshly started."""

from __future__ import annotations

import builtins
import marshal
import os
import sys
import time
from _imp import _fix_co_filename  # type: ignore[attr-defined] # what importlib uses
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER
from types import CodeType, FunctionType, ModuleType

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PATH = "/usr/local/bin:/usr/bin:/bin"
_ALWAYS = {
    "PATH": f"{os.path.dirname(sys.executable)}:{PATH}",
    "HOME": "/tmp",  # noqa: S108 - the sandbox's private one
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_set = dict(os.environ)
"""What the environment is."""
_zone_known: list[bool] = []
"""Whether the C library has been told of the time zone."""
_INHERITED = ("LD_LIBRARY_PATH",)  # where the interpreter's own libpython may need it
DEPLOYED = MAGIC_NUMBER + b"\1\0\0\0"
"""How a file of bytecode begins whose hash nobody checks: that is what a deploy makes."""
_TAG = sys.implementation.cache_tag
_VARARGS = 0x04
_COROUTINE = 0x80
_ASYNC_GENERATOR = 0x200


class LoadError(Exception):
    """The function cannot be loaded as it was deployed."""


class Init:
    """What the INIT frame asks for; see `runtime_host`."""

    __slots__ = (
        "concurrency",
        "contract",
        "entry",
        "environment",
        "function",
        "handler",
        "root",
        "version",
    )

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Take the decoded INIT frame.

        Raises:
            KeyError: `contract`, `entry` or `root` is missing.
        """
        self.contract: str = fields["contract"]
        self.entry: str = fields["entry"]
        self.root: str = fields["root"]
        self.handler: str = fields.get("handler") or "handle"
        self.function: str = fields.get("function", "")
        self.version: int = fields.get("version", 0)
        self.environment: dict[str, str] = fields.get("environment") or {}
        self.concurrency: int = fields.get("instance_concurrency", 1)


def set_environment(init: Init) -> None:
    """Replace the process's environment by the documented one; see docs/functions.md.

    What a process this one was forked from has set already is left as it is.
    """
    inherited = {name: _set[name] for name in _INHERITED if name in _set}
    wanted = inherited | _ALWAYS | init.environment
    wanted |= {"HEARTH_FUNCTION": init.function, "HEARTH_VERSION": str(init.version)}
    for name in _set.keys() - wanted.keys():
        del os.environ[name]
    zone = _set.get("TZ")
    for name, value in wanted.items():
        if _set.get(name) != value:
            os.environ[name] = value
    _set.clear()
    _set.update(wanted)
    if zone != wanted["TZ"] or not _zone_known:
        time.tzset()
        _zone_known.append(True)


def dress_interpreter(path: str, *, search: str) -> None:
    """Make the interpreter look as if it had been started for the program at `path`."""
    sys.argv = [path]
    sys.path.insert(0, search)
    sys.dont_write_bytecode = True  # the code is mounted read-only
    if not hasattr(builtins, "exit"):  # the zygote starts without `site`
        from _sitebuiltins import Quitter

        builtins.exit = Quitter("exit", "Ctrl-D (i.e. EOF)")
        builtins.quit = Quitter("quit", "Ctrl-D (i.e. EOF)")


def load_handler(init: Init) -> Callable[[Any], Any]:
    """Import the entry module and return the function in it that takes the calls.

    Raises:
        LoadError: there is no such function, or it cannot be called with one request.
        BaseException: whatever the user's module raises.
    """
    path = f"{init.root}/{init.entry}"  # `os.path.join` would touch 14 pages of every instance
    dress_interpreter(path, search=init.root)
    name = init.handler.rpartition(".")[2]
    handler = getattr(_import_entry(init.entry, path), name, None)
    if handler is None:
        raise LoadError(f"{init.entry} does not define {name!r}")
    _check_signature(handler, f"{name!r} in {init.entry}")
    if init.concurrency > 1 and isinstance(handler, FunctionType) and not is_async(handler):
        raise LoadError(
            f"instance_concurrency is {init.concurrency}, but {name!r} in {init.entry} is not an "
            "async function: one instance of it takes one call at a time"
        )
    return handler  # type: ignore[no-any-return] # user code


def is_async(handler: Any) -> bool:
    """Tell whether calling `handler` surely gives a coroutine or an async generator."""
    code = getattr(handler, "__code__", None)
    return code is not None and bool(code.co_flags & (_COROUTINE | _ASYNC_GENERATOR))


def _import_entry(entry: str, path: str) -> ModuleType:
    name = entry.removesuffix(".py").replace("/", ".")
    if "." in name:
        return __import__(name, fromlist=["*"])  # with its packages, so that relative imports work
    if name in sys.modules:
        name = f"function_{name}"  # must not replace a module the interpreter already uses
    module = sys.modules[name] = ModuleType(name)
    loader = SourceFileLoader(name, path)
    code = _bytecode(path) or loader.get_code(name)  # the latter if not deployed by us
    assert code is not None  # noqa: S101 - a source file always gives code
    module.__spec__ = ModuleSpec(name, loader, origin=path)
    module.__loader__ = loader
    module.__file__ = path
    module.__package__ = ""
    exec(code, module.__dict__)  # noqa: S102 - that is what a module is
    return module


def _bytecode(path: str) -> CodeType | None:
    """Return what the deploy has compiled of `path`, if it has.

    The import system gets there too, but what it touches on the way would be a third of the
    memory of an idle instance.
    """
    directory, _, name = path.rpartition("/")
    try:
        fd = os.open(f"{directory}/__pycache__/{name[:-3]}.{_TAG}.pyc", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    finally:
        os.close(fd)
    if data[:8] != DEPLOYED:
        return None
    code: CodeType = marshal.loads(data[16:])  # noqa: S302 - compiled by the platform, read-only
    _fix_co_filename(code, path)
    return code


def _missing(handler: FunctionType, code: CodeType) -> list[str]:
    """Return the arguments that `handler` takes by keyword only and that have no default."""
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [word for word in keywords if word not in (handler.__kwdefaults__ or {})]


def _check_signature(handler: Any, name: str) -> None:
    if not callable(handler):
        raise LoadError(f"{name} is not a function")
    if not isinstance(handler, FunctionType):
        return  # an object with __call__, a partial: known when it is called
    code = handler.__code__
    required = code.co_argcount - len(handler.__defaults__ or ())
    takes_one = code.co_argcount >= 1 or code.co_flags & _VARARGS
    if not takes_one or required > 1 or (code.co_kwonlyargcount and _missing(handler, code)):
        raise LoadError(f"{name} must take exactly one argument, the request")
