"""A node that kills itself: imports once, then forks one real node for each life it is told of.

Usage: mortal_node.py; each line on stdin is a JSON object `{"argv": [...], "point": "settle:after",
"pass": 3, "within_s": 2.0}`. The node of that life sends itself SIGKILL when the method of `point`
is passed for the n-th time, before or after its body. It is killed in any case `within_s` seconds
after its start, unless that is null. On stdout, between the lines of the node's own log, come
`{"event": "born", "pid"}`, `{"event": "at", "point"}` and `{"event": "dead", "status"}`.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import select
import signal
import sys
from typing import Any

from hearth.build.builder import Builder
from hearth.cli.app import run
from hearth.engine.call import Invocation
from hearth.engine.deploy import Deployer
from hearth.engine.queue import Queue
from hearth.engine.registry import Registry
from hearth.gateway.exchange import Exchange
from hearth.sandbox.process import ProcessBackend
from hearth.store.sqlite import SqliteStore

POINTS: dict[str, tuple[type, str, int]] = {
    # name: class, method, most passes before the kill
    "enqueue": (SqliteStore, "enqueue", 30),
    "202": (Exchange, "reply", 30),
    "claim": (SqliteStore, "claim", 20),
    "run": (Queue, "_run", 30),
    "begin": (Invocation, "begin", 30),
    "replied": (Invocation, "on_reply", 30),
    "settled": (Queue, "_settled", 30),
    "settle": (SqliteStore, "settle", 30),
    "unpack": (Builder, "build", 2),
    "register": (Deployer, "_register", 2),
    "warm": (Deployer, "_warm", 2),
    "switch": (Deployer, "_switch", 2),
    "save": (SqliteStore, "save_version", 2),
    "install": (Registry, "install", 2),
    "drain": (Deployer, "_drain", 2),
    "recover": (SqliteStore, "open", 1),
    "sandboxes": (ProcessBackend, "open", 1),
    "dispatch": (Queue, "start", 1),
}
ANY_MOMENT = "any moment"


def mark(point: str, passes: int) -> None:
    """Make the method of `point` deadly."""
    name, _, when = point.partition(":")
    owner, method, _ = POINTS[name]
    inner = getattr(owner, method)
    left = passes

    def step(moment: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if moment != when or (name == "202" and 202 not in arguments):
            return
        left -= 1
        if not left:
            say({"event": "at", "point": point})
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(inner)
    async def deadly_coroutine(*arguments: Any, **named: Any) -> Any:
        step("before", arguments)
        result = await inner(*arguments, **named)
        step("after", arguments)
        return result

    @functools.wraps(inner)
    def deadly(*arguments: Any, **named: Any) -> Any:
        step("before", arguments)
        result = inner(*arguments, **named)
        step("after", arguments)
        return result

    setattr(owner, method, deadly_coroutine if inspect.iscoroutinefunction(inner) else deadly)


def say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")  # one write: whole or not at all


def live(life: dict[str, Any]) -> None:
    """Run one life to its end."""
    pid = os.fork()
    if pid == 0:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(1, 2)
        if life["point"] is not None and life["point"] != ANY_MOMENT:
            mark(life["point"], life["pass"])
        os._exit(run(["up", *life["argv"]]))
    say({"event": "born", "pid": pid})
    if life["within_s"] is not None:
        pidfd = os.pidfd_open(pid)
        if not select.select([pidfd], [], [], life["within_s"])[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    say({"event": "dead", "status": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    for line in sys.stdin:
        live(json.loads(line))
