"""A rehearsal of a whole life with a sample function: what it warms, no cold start has to.

The first run of any code in a fork copies the memory pages it touches, and the interpreter
specialises code that has run a few times. So the zygote rehearses before it forks, which its
children inherit, and each spare once more while it is not needed yet.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import module_from_spec, spec_from_file_location

from hearth_runtime import frames, runtime_host
from hearth_runtime.channel import Channel, Closed

ROOT = "/run/rehearsal"
_ENTRY = "rehearsal_handler"
_SOURCE = """import json
import os


def shout(word):
    return word.upper()


def handle(request):
    name = request.json["name"]
    return {"hello": shout(name), "at": request.path, "type": request.headers.get("content-type")}
"""
_INIT = (
    b'{"contract":"handler","entry":"rehearsal_handler.py","root":"/run/rehearsal","handler":'
    b'"handle","function":"rehearsal","version":1,"environment":{},"instance_concurrency":1}'
)


def install() -> None:
    """Write the sample function and its bytecode to `ROOT`."""
    path = f"{ROOT}/{_ENTRY}.py"
    os.makedirs(ROOT)
    with open(path, "w", encoding="ascii") as file:
        file.write(_SOURCE)
    spec = spec_from_file_location(_ENTRY, path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


def rehearse(calls: int) -> None:
    """Load the sample function and answer `calls` calls, then leave no trace of it."""
    environment, path, arguments = dict(os.environ), list(sys.path), list(sys.argv)
    streams, bytecode = (sys.stdout, sys.stderr), sys.dont_write_bytecode
    ours, theirs = socket.socketpair()
    call = frames.call_frame(
        1,
        0.0,
        b"rehearsal",
        b"POST",
        b"/",
        b"",
        b"content-type: application/json\r\n",
        b'{"name":"a"}',
    )
    ours.send(frames.frame(frames.INIT, 0, _INIT) + call * calls)
    ours.shutdown(socket.SHUT_WR)
    channel = Channel(theirs.detach())
    try:
        runtime_host._serve(channel)
    except Closed:
        pass
    finally:
        channel.close()  # or its fork handler would act on whatever has this number later
        ours.close()
        sys.modules.pop(_ENTRY, None)
        sys.path_importer_cache.pop(ROOT, None)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:], sys.argv = path, arguments
        (sys.stdout, sys.stderr), sys.dont_write_bytecode = streams, bytecode
