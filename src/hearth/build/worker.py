"""The build process: unpack, compile and read a bundle where hostile input can only hurt itself.

Started by `template` as `python -I -m hearth.build.worker SOCKET`; every packet there is a job,
with descriptors for the answer, the folder to work in (empty, for staging) and the code: the JSON
string of base64 it came in (none, to look at files that are there already). Each job is a fork of
this process, which forks once more:

- the child gives up root, memory beyond a limit, CPU time and the right to make processes, then
  does everything that touches the bundle: decoding, unpacking, `ast`, the bytecode compiler;
- the parent waits for it, and only then takes the files over: ownership, modes, the digest. It
  trusts nothing that the child says, except what concerns this bundle alone.

The answer is one JSON object: `{"ok": {...}}` or `{"error": {"message", "path", "limit"}}`.
"""

from __future__ import annotations

import binascii
import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import py_compile
import resource
import signal
import socket
import stat
import sys
import tempfile
import warnings
from typing import IO, Any

from hearth.build import bundle, contract
from hearth.errors import DeployFailed
from hearth_runtime import packets, syscalls

ROOT = "/app/function"
"""Where the bundle is mounted in a sandbox; the file names in tracebacks."""
IDLE_S = 60.0
"""How long to wait for the next job before ending."""
CPU_S = 60
WALL_S = 120
"""Longest build."""
MEMORY_BYTES = 1 << 30
_BASE64_CHUNK = 1 << 20
_BLANKS = b" \t\r\n"
_STACK_CHARS = 4000
_ANSWER_BYTES = 1 << 20
# a source may declare its encoding, and nothing can be imported once root is given up
_CODECS = ("ascii", "cp437", "latin_1", "utf_8_sig", "iso8859_15", "cp1252", "cp1251", "koi8_r")


def main() -> None:
    """Serve the socket named by argv[1] until its other end closes, or nothing comes for long."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    orders.settimeout(IDLE_S)
    for codec in _CODECS:
        importlib.import_module(f"encodings.{codec}")
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    gc.freeze()
    with contextlib.suppress(TimeoutError):
        while (received := packets.receive(orders)) is not None:
            job, fds = received
            if not os.fork():
                orders.close()
                _build(job, *fds)
            for fd in fds:
                os.close(fd)


def _build(job: dict[str, Any], out: int, folder: int, code: int | None = None) -> None:
    """Do one job, answer and end; never returns."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # the node's end is its end
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.fchdir(folder)
        if code is not None:
            os.dup2(code, sys.stdin.fileno())
        answer = _confined(job)
        if "ok" in answer and job["unpack"]:
            answer["ok"]["artifact"] = seal()
        with os.fdopen(out, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    except Exception as error:
        print(f"build: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log is stderr
    finally:
        os._exit(0)


# --- the child ---------------------------------------------------------------------------------


def _confined(job: dict[str, Any]) -> dict[str, Any]:
    """Run `_work` in a child without rights; its answer, or what it died of."""
    from_child, to_parent = os.pipe()
    child = os.fork()
    if not child:
        os.close(from_child)
        _be_child(job, to_parent)
    os.close(to_parent)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(WALL_S)
    with os.fdopen(from_child, "rb") as pipe:
        text = pipe.read(_ANSWER_BYTES)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        return _died(-status, overdue=signal.alarm(0) == 0)
    answer: dict[str, Any] = json.loads(text)
    return answer


def _died(number: int, *, overdue: bool) -> dict[str, Any]:
    if number == signal.SIGXCPU:
        why = f"building took more than {CPU_S}s of CPU"
    elif overdue:
        why = f"building took longer than {WALL_S}s"
    else:
        why = f"the build ended by {signal.Signals(number).name}"
    return {"error": {"message": f"{why}; the code is too large or too deeply nested"}}


def _be_child(job: dict[str, Any], to_parent: int) -> None:
    """Work, answer and end; never returns."""
    answer: dict[str, Any]
    try:
        _keep_only(to_parent)
        _give_up_rights(job["uid"])
        answer = {"ok": _work(job)}
    except DeployFailed as error:
        answer = _error(error.message, error.path, error.limit, error.stack)
    except (MemoryError, RecursionError):
        answer = _error("the code is too large or too deeply nested to build", "$.code")
    except OSError as error:
        answer = _error(f"the build failed: {error.strerror}")
    try:
        with os.fdopen(to_parent, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _error(
    message: str, path: str | None = None, limit: str | None = None, stack: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "path": path, "limit": limit, "stack": stack}}


def _keep_only(to_parent: int) -> None:
    """Close all but the code on stdin, the log on stderr and the way to the parent."""
    os.closerange(3, to_parent)
    syscalls.close_from(to_parent + 1)


def _give_up_rights(uid: int | None) -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: bundle.MAX_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # forgotten with a change of user
    # last, because it counts every process of the (new) user
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _work(job: dict[str, Any]) -> dict[str, Any]:
    handler, entry = job["handler"], job["entry"]
    if entry and (not entry.endswith(".py") or "/".join(bundle.check_name(entry)) != entry):
        raise DeployFailed(
            f"entry {entry[:200]!r} must be the path of a .py file in the bundle", path="$.entry"
        )
    if job["unpack"]:
        with tempfile.TemporaryFile(dir=".") as archive:
            decode(sys.stdin.buffer.read(), archive)
            bundle.unpack(archive, source_name=contract.source_name(handler, entry))
        compile_all()
    spoken = contract.decide(contract=job["contract"], handler=handler, entry=entry)
    return {
        "contract": spoken.contract,
        "entry": spoken.entry,
        "handler": spoken.handler,
        "is_async": spoken.is_async,
        "reasons": spoken.reasons,
        "warnings": spoken.warnings,
    }


def decode(literal: bytes, target: IO[bytes]) -> None:
    """Write what a JSON string of base64 (line breaks allowed) stands for.

    Raises:
        DeployFailed: it is not base64.
    """
    if b"\\" in literal:  # `\\/` and `\\n` are legal spellings in JSON
        literal = json.loads(literal).encode()
    data = literal.strip(b'"').translate(None, _BLANKS)
    view = memoryview(data)
    if len(data) % 4 or b"=" in data[:-2]:
        raise _not_base64()
    for at in range(0, len(data), _BASE64_CHUNK):
        target.write(_a2b(view[at : at + _BASE64_CHUNK]))


def _a2b(data: memoryview) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error as error:
        raise _not_base64() from error


def _not_base64() -> DeployFailed:
    return DeployFailed(
        "code must be base64 of a source file, a zip or a tar.gz, e.g. `base64 -w 0 handler.py`",
        path="$.code",
    )


def compile_all() -> None:
    """Make bytecode beside every `.py` below the current directory.

    Unchecked: the bundle never changes, so that no start has to compare it with its source.

    Raises:
        DeployFailed: a file does not compile; the message names file and line.
    """
    warnings.simplefilter("ignore")
    for folder, _, names in os.walk("."):
        for name in names:
            if name.endswith(".py"):
                _compile(os.path.normpath(os.path.join(folder, name)))


def _compile(path: str) -> None:
    try:
        py_compile.compile(
            path,
            cfile=importlib.util.cache_from_source(path),
            dfile=f"{ROOT}/{path}",
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except py_compile.PyCompileError as error:
        raise _syntax_error(path, error.exc_value, error.msg) from error


def _syntax_error(path: str, cause: BaseException, text: str) -> DeployFailed:
    if isinstance(cause, (MemoryError, RecursionError)):
        return DeployFailed(f"{path} is too large or too deeply nested to compile", path="$.code")
    line = getattr(cause, "lineno", None)
    where = f"{path}, line {line}" if line else path
    what = str(getattr(cause, "msg", None) or cause)[:500]
    return DeployFailed(
        f"{where}: {type(cause).__name__}: {what}", path="$.code", stack=text[:_STACK_CHARS]
    )


# --- the parent --------------------------------------------------------------------------------


def seal() -> str:
    """Make the files below the current directory ours and return their SHA-256 (hex).

    The digest covers names, contents and the executable bit, in sorted order, so that the same
    files give the same digest whatever archive they came in.
    """
    digest = hashlib.sha256(f"{sys.implementation.cache_tag}\n".encode())
    os.chown(".", os.geteuid(), os.getegid())
    os.chmod(".", 0o755)  # noqa: S103 - instances read it under uids of their own
    for folder, folders, names in os.walk("."):
        folders.sort()
        for name in folders:
            _take_over(os.path.join(folder, name), stat.S_IFDIR)
        for name in sorted(names):
            path = os.path.join(folder, name)
            mode = _take_over(path, stat.S_IFREG)
            if not folder.endswith("/__pycache__"):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{mode:o} {content} {path}\0".encode())
    return digest.hexdigest()


def _take_over(path: str, kind: int) -> int:
    """Check one file or folder, own it, and return its normal mode."""
    found = os.lstat(path).st_mode
    if stat.S_IFMT(found) != kind:
        raise ValueError(f"{path} is not what was unpacked")
    mode = 0o755 if kind == stat.S_IFDIR or found & 0o100 else 0o644
    os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    os.chmod(path, mode)
    return mode


if __name__ == "__main__":
    main()
