"""A rehearsal of a whole life with a sample function: what it warms, no cold start has to.

The first run of any code in a fork copies the memory pages it touches, and the interpreter
specialises code that has run a few times. So the zygote rehearses before it forks, which its
children inherit, and each spare once more while it is not needed yet.
"""

from __future__ import annotations

import marshal
import os
import socket
import sys
from importlib.util import cache_from_source

from hearth_runtime import frames, loading, runtime_host
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
_INIT = frames.frame(
    frames.INIT,
    0,
    b'{"contract":"handler","entry":"rehearsal_handler.py","root":"/run/rehearsal","handler":'
    b'"handle","function":"rehearsal","version":1,"environment":{},"instance_concurrency":1}',
)
_CALL = frames.call_frame(
    1,
    0.0,
    b"rehearsal",
    b"POST",
    b"/",
    b"",
    b"content-type: application/json\r\n",
    b'{"name":"a"}',
)


def install() -> None:
    """Write the sample function to `ROOT`, with bytecode as a deploy makes it."""
    path = f"{ROOT}/{_ENTRY}.py"
    cached = cache_from_source(path)
    os.makedirs(os.path.dirname(cached))
    with open(path, "w", encoding="ascii") as file:
        file.write(_SOURCE)
    with open(cached, "wb") as bytecode:
        code = compile(_SOURCE, path, "exec", dont_inherit=True)
        bytecode.write(loading.DEPLOYED + bytes(8) + marshal.dumps(code))


def rehearse(calls: int) -> None:
    """Load the sample function and answer `calls` calls, then leave no trace of it."""
    path, arguments, bytecode = list(sys.path), list(sys.argv), sys.dont_write_bytecode
    ours, theirs = socket.socketpair()
    ours.send(_INIT + _CALL * calls)
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
        sys.path[:], sys.argv = path, arguments
        sys.dont_write_bytecode = bytecode
