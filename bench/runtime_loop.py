"""What the runtime host costs per warm call: `python bench/runtime_loop.py [--calls N]`.

Prints JSON, in µs per call, the best of five batches:

- `process`: a real host process; its CPU time (user, system) and the peer's round trip;
- `floor`: the same frames answered by a bare read/write loop, so the difference is the host;
- `loop`: both ends in this process, so that no wake-up hides the cost: the whole call, its four
  socket syscalls alone (two are the host's), and the difference: Python plus two FIONREAD.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hearth_runtime import Request, frames, runtime_host
from hearth_runtime.calls import Host
from hearth_runtime.channel import Channel
from hearth_runtime.output import Output

SOURCE = 'def handle(request):\n    return {"hello": request.json["name"]}\n'
HEADERS = (
    b"host: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
    b"content-length: 64\r\nuser-agent: bench\r\n"
)
BODY = b'{"name": "x", "padding": "' + b"." * 36 + b'"}'
CALL = frames.call_frame(1, 4e9, b"0" * 26, b"POST", b"/", b"", HEADERS, BODY)
BATCHES = 5


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000, help="per batch")
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as root:
        Path(root, "handler.py").write_text(SOURCE)
        init = {"contract": "handler", "entry": "handler.py", "root": root}
        result = {
            "python": platform.python_version(),
            "calls": calls * BATCHES,
            "process": _process(runtime_host.serve, init, calls),
            "floor": _process(_echo, init, calls),
            "loop": _loop(calls),
        }
    json.dump(result, sys.stdout, indent=2)
    print()


def _process(serve: Callable[[int], None], init: dict[str, str], calls: int) -> dict[str, float]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _redirect()
        serve(theirs.detach())
        os._exit(0)
    theirs.close()
    ours.sendall(frames.frame(frames.INIT, 0, json.dumps(init).encode()))
    ours.recv(1 << 16)
    best = _best(lambda: (ours.sendall(CALL), ours.recv(1 << 16)), calls)
    ours.close()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.waitpid(pid, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    per_call = 1e6 / (calls * BATCHES)
    return {
        "cpu_user": round((after.ru_utime - before.ru_utime) * per_call, 2),
        "cpu_system": round((after.ru_stime - before.ru_stime) * per_call, 2),
        "round_trip": best,
    }


def _loop(calls: int) -> dict[str, float]:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    terminal = os.dup(1), os.dup(2), sys.stdout, sys.stderr
    _redirect()
    channel = Channel(theirs.detach())
    host = Host(_handle, channel, Output(), function="bench", version=1)

    def call() -> None:
        os.write(fd, CALL)
        host.answer(*channel.receive())
        os.read(fd, 1 << 16)

    def syscalls() -> None:
        os.write(fd, CALL)
        os.read(channel.fd, 1 << 16)
        os.write(channel.fd, CALL)
        os.read(fd, 1 << 16)

    whole, bare = _best(call, calls), _best(syscalls, calls)
    os.dup2(terminal[0], 1)
    os.dup2(terminal[1], 2)
    sys.stdout, sys.stderr = terminal[2:]
    return {"whole": whole, "syscalls": bare, "difference": round(whole - bare, 2)}


def _handle(request: Request) -> dict[str, str]:
    return {"hello": request.json["name"]}


def _best(call: Callable[[], object], calls: int) -> float:
    best = float("inf")
    for _ in range(BATCHES):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - started)
    return round(best / calls * 1e6, 2)


def _redirect() -> None:
    """Make stdout and stderr pipes, as they are in a sandbox."""
    for fd in (1, 2):
        os.dup2(os.pipe()[1], fd)


def _echo(fd: int) -> NoReturn:
    reply = frames.frame(frames.REPLY, 1, frames.REPLY_HEAD.pack(200, 0) + b'{"hello":"x"}')
    while os.read(fd, 1 << 16):
        os.write(fd, reply)
    os._exit(0)


if __name__ == "__main__":
    main()
