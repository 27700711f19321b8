"""The host of one function: reads INIT, loads the user's code, answers CALLs until told to go.

INIT frame (JSON)::

    contract              "handler" or "script"
    entry                 the file below root that is loaded or run, e.g. "handler.py"
    root                  the unpacked bundle, e.g. "/app/function"; also the working directory
    handler               function in the entry module, `function` or `module.function`; "handle"
    function, version     name and number, for `request.function` and the environment
    environment           the user's variables, {name: value}
    instance_concurrency  calls sent at once, 1; above 1 the handler has to be async

The answer is READY {"init_ns"} or INIT_FAILED {"type", "message", "stack"}, after which the process
ends with exit code 1. Contract `handler` then answers each CALL as `frames` defines. Contract
`script` takes one CALL, closes the channel and becomes the program: its exit code and what it
writes are the answer.

Exit codes of the host itself: 0 when the node closed the channel, 70 when the node sent what is not
in the protocol. `sys.exit` and `os._exit` of user code end the process with their own code.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` costs enum and 3 ms
import gc
import json
import os
import sys
import time

from hearth_runtime import frames
from hearth_runtime.calls import Host, serve_blocking
from hearth_runtime.channel import Channel, Closed
from hearth_runtime.entropy import reseed
from hearth_runtime.failure import describe
from hearth_runtime.loading import Init, is_async, load_handler, set_environment
from hearth_runtime.output import configure_logging, flush_all, take_over
from hearth_runtime.request import parse_json
from hearth_runtime.script import exit_code, run_script

TYPE_CHECKING = False  # `typing` itself costs each cold start 0.5 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from hearth_runtime.output import Output

__all__ = ["PRELOAD", "reseed", "serve"]

PRELOAD = ("traceback",)
"""What the zygote should import besides this module: errors are answered with it."""

EXIT_PROTOCOL = 70


def serve(channel_fd: int) -> NoReturn:
    """Serve one function over `channel_fd` until the node closes it; never returns.

    The process is sandboxed already: fd 0 is /dev/null, 1 and 2 are pipes that the node reads.
    """
    code = EXIT_PROTOCOL
    try:
        gc.enable()
        reseed()
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # as in a program nobody types to
        code = _serve(Channel(channel_fd))
    except Closed:
        code = 0
    except SystemExit as end:
        code = exit_code(end)
    except frames.FrameError:
        pass
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        flush_all()
        os._exit(code)


def _serve(channel: Channel) -> int:
    """Return the exit code of what ended by itself."""
    init, started = _read_init(channel)
    set_environment(init)
    output = take_over()
    if init.contract == "script":
        _send_ready(channel, output, started)
        kind, _flags, _call, payload = channel.receive()
        if kind != frames.CALL:
            raise frames.FrameError(f"expected a CALL, got kind {kind}")
        return run_script(init, channel, payload)
    configure_logging()
    try:
        handler = load_handler(init)
    except BaseException as error:
        _send(channel, frames.INIT_FAILED, describe(error), output.settle())
        return 1
    _send_ready(channel, output, started)
    host = Host(handler, channel, output, function=init.function, version=init.version)
    pending = None
    if init.concurrency == 1 and not is_async(handler):
        pending = serve_blocking(host)
    from hearth_runtime.concurrent import serve_concurrent  # asyncio only for those who need it

    return serve_concurrent(host, pending)


def _read_init(channel: Channel) -> tuple[Init, int]:
    kind, _flags, _call, payload = channel.receive()
    started = time.monotonic_ns()
    if kind != frames.INIT:
        raise frames.FrameError(f"expected INIT, got kind {kind}")
    try:
        return Init(parse_json(payload.decode())), started
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise frames.FrameError(f"INIT is not understood: {error!r}") from None


def _send_ready(channel: Channel, output: Output, started: int) -> None:
    ready = b'{"init_ns":%d}' % (time.monotonic_ns() - started)
    channel.send(frames.frame(frames.READY, 0, ready, output.settle()))


def _send(channel: Channel, kind: int, message: dict[str, Any], flags: int) -> None:
    channel.send(frames.frame(kind, 0, json.dumps(message).encode(), flags))
