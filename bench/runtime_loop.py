"""What the runtime host costs per warm call: `python bench/runtime_loop.py [--calls N] [--profile]`.

A real host process answers over a socketpair, one call at a time. Reported per call, in µs:

- `cpu_user`, `cpu_system`: the host's own CPU time (getrusage), the bar is on `cpu_user`;
- `round_trip`: wall time seen by the peer, both processes' syscalls and wake-ups included;
- `floor`: the same frames answered by a bare `read`/`write` loop, so the difference is the host.
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

from hearth_runtime import frames, runtime_host

SOURCE = """
def handle(request):
    return {"hello": request.json["name"]}
"""
HEADERS = b"host: 127.0.0.1:8080\r\ncontent-type: application/json\r\ncontent-length: 64\r\nuser-agent: bench\r\n"
BODY = b'{"name": "x", "padding": "' + b"." * 36 + b'"}'


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=30_000)
    parser.add_argument("--profile", action="store_true", help="print where the host spends it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        Path(root, "handler.py").write_text(SOURCE)
        host = _measure(lambda fd: _serve(fd, profile=options.profile), options.calls, root=root)
        floor = _measure(_echo, options.calls, root=root)
    result = {
        "python": platform.python_version(),
        "calls": options.calls,
        "host": host,
        "floor": floor,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


def _measure(serve: Callable[[int], None], calls: int, *, root: str) -> dict[str, float]:
    ours, theirs = socket.socketpair()
    report, reported = os.pipe()
    pid = os.fork()
    if pid == 0:
        ours.close()
        for fd in (1, 2):
            os.dup2(os.pipe()[1], fd) if serve is not _echo else None
        _child(lambda: serve(theirs.detach()), reported)
    theirs.close()
    init = {"contract": "handler", "entry": "handler.py", "root": root}
    ours.sendall(frames.frame(frames.INIT, 0, json.dumps(init).encode()))
    ours.recv(65536)
    call = frames.call_frame(1, time.time() + 30, b"0" * 26, b"POST", b"/", b"", HEADERS, BODY)
    for _ in range(calls // 10):
        ours.sendall(call)
        ours.recv(65536)
    ours.sendall(frames.frame(frames.CALL, 2, call[12:]))  # marks the start, see _mark
    ours.recv(65536)
    started = time.perf_counter()
    for _ in range(calls):
        ours.sendall(call)
        ours.recv(65536)
    elapsed = time.perf_counter() - started
    ours.close()
    os.waitpid(pid, 0)
    user, system = json.loads(os.read(report, 1000))
    total = calls + calls // 10 + 2
    return {
        "cpu_user": round(user / total * 1e6, 2),
        "cpu_system": round(system / total * 1e6, 2),
        "round_trip": round(elapsed / calls * 1e6, 2),
    }


def _child(serve: Callable[[], None], report: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)

    def end(_code: int) -> None:
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = [after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime]
        os.write(report, json.dumps(spent).encode())
        leave(0)

    leave, os._exit = os._exit, end  # type: ignore[assignment] # the host ends by it
    try:
        serve()
    finally:
        os._exit(0)


def _serve(fd: int, *, profile: bool) -> None:
    if not profile:
        runtime_host.serve(fd)
    import cProfile

    terminal = os.fdopen(os.dup(0), "w")  # fd 1 and 2 are pipes that nobody reads
    profiler = cProfile.Profile()
    leave = os._exit

    def end(code: int) -> None:
        import pstats

        profiler.disable()
        pstats.Stats(profiler, stream=terminal).sort_stats("tottime").print_stats(25)
        terminal.flush()
        leave(code)

    os._exit = end  # type: ignore[assignment] # the host ends by it
    profiler.enable()
    runtime_host.serve(fd)


def _echo(fd: int) -> None:
    reply = frames.frame(frames.REPLY, 1, frames.REPLY_HEAD.pack(200, 0) + b'{"hello":"x"}')
    while os.read(fd, 65536):
        os.write(fd, reply)


if __name__ == "__main__":
    main()
