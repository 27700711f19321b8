"""What `make demo` runs: a fresh node, each example deployed and called, a table of the answers.

Exit code 0 only if every answer was right, every first call was cold and every later one warm, and
the node left nothing behind.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).resolve().parent
HEARTH = Path(sys.executable).parent / "hearth"
HOST = "127.0.0.1"
WARM_CALLS = 50
IDLE_TTL_S = 1
PATIENCE_S = 60.0
LOG_LINE = 2000


class DemoError(Exception):
    """Something did not go as it must."""


class Deployed(NamedTuple):
    """One example, deployed."""

    name: str
    contract: str
    expectation: Path


class Answer(NamedTuple):
    """What one call returned and how long it took."""

    status: int
    body: bytes
    cold: bool
    ms: float


class Row(NamedTuple):
    """One line of the table."""

    function: str
    status: int
    answer: str
    cold_ms: float
    warm_ms: float
    problem: str


def main() -> int:
    """Run the demo and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="hearth-demo-") as folder:
        try:
            rows = run(Path(folder))
        except DemoError as error:
            print(f"demo: {error}", file=sys.stderr)
            log = (Path(folder) / "node.log").read_text(errors="replace").splitlines()
            print(*(line[:LOG_LINE] for line in log[-20:]), sep="\n", file=sys.stderr)
            return 1
    wrong = [row for row in rows if row.problem]
    for row in wrong:
        print(f"demo: {row.function}: {row.problem}", file=sys.stderr)
    return 1 if wrong else 0


def run(folder: Path) -> list[Row]:
    """Start a node with its data in `folder`, deploy and call the examples, stop the node."""
    port = free_port()
    node = start(folder, port)
    try:
        wait_for("the node to be ready", lambda: is_ready(node, port))
        print(f"node ready at http://{HOST}:{port} (process {node.pid})")
        examples = [deploy(path, port) for path in sorted(EXAMPLES.glob("*/function.yaml"))]
        if not examples:
            raise DemoError("there are no examples")
        wait_for("all instances to go idle and away", lambda: not live_instances(port))
        rows = [call(example, port) for example in examples]
        show(rows)
        family = descendants(node.pid)
        stop(node)
    except BaseException:
        abandon(node)
        raise
    check_nothing_left(family, folder)
    print("stopped cleanly: exit code 0, no process and no mount left")
    return rows


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a node; instances go away after a second without a call, so that cold is cold."""
    foreign = ("HEARTH_", "WORKER_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment["HEARTH_EXECUTION_WARM_INSTANCE_TTL"] = f"{IDLE_TTL_S}s"
    if os.geteuid() != 0:
        print(
            "you are not root, so isolation is weaker (docs/hosts.md): isolation_level lightweight"
        )
        environment["HEARTH_PROCESS_ISOLATION_LEVEL"] = "lightweight"
    command = [HEARTH, "up", "--host", HOST, "--port", str(port), "--data-dir", folder / "data"]
    with (folder / "node.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def is_ready(node: subprocess.Popen[bytes], port: int) -> bool:
    """Tell whether the node answers that it is ready."""
    if node.poll() is not None:
        raise DemoError(f"the node ended with exit code {node.returncode}")
    try:
        answer = request(port, "GET", "/readyz")
    except OSError:  # it does not listen yet
        return False
    if answer.status not in (200, 503):
        raise DemoError(f"/readyz answered {answer.status}: {shown(answer.body)}")
    return answer.status == 200


def deploy(declaration: Path, port: int) -> Deployed:
    """Deploy one folder by the command line that a user would type."""
    folder = declaration.parent
    url = f"http://{HOST}:{port}"
    command = [HEARTH, "deploy", folder, "--url", url, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"deploy {folder.name}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    print(f"deployed {answer['name']} ({answer['contract']})")
    return Deployed(answer["name"], answer["contract"], folder / "demo.json")


def live_instances(port: int) -> int:
    """Count instances of all functions, by what the node says."""
    listed = json.loads(request(port, "GET", "/functions").body)["functions"]
    return sum(sum(function["instances"].values()) for function in listed)


def call(example: Deployed, port: int) -> Row:
    """Call a function once cold and then warm, and compare each answer with what is expected."""
    wanted = json.loads(example.expectation.read_text())
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    send = sender(connection, example.name, wanted["request"])
    cold = send()
    warm = [send() for _ in range(WARM_CALLS)]
    connection.close()
    problems = [judge(answer, wanted["expect"]) for answer in (cold, *warm)]
    if not cold.cold:
        problems.append("the first call was not cold")
    if any(answer.cold for answer in warm) and example.contract != "script":
        problems.append("a later call was cold")
    return Row(
        example.name,
        cold.status,
        shown(cold.body),
        cold.ms,
        statistics.median(answer.ms for answer in warm),
        next(filter(None, problems), ""),
    )


def sender(
    connection: http.client.HTTPConnection, name: str, wanted: dict[str, Any]
) -> Callable[[], Answer]:
    """Return what makes one call, over a connection that is kept open."""
    body, headers = None, {}
    if "json" in wanted:
        body, headers = json.dumps(wanted["json"]).encode(), {"Content-Type": "application/json"}
    elif "body_base64" in wanted:
        body = base64.b64decode(wanted["body_base64"])
    target = f"/function/{name}{wanted.get('path', '/')}"
    return lambda: exchange(connection, wanted.get("method", "POST"), target, body, headers)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None,
    headers: dict[str, str],
) -> Answer:
    """Send one request and read the whole answer."""
    began = time.perf_counter()
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    answer = response.read()
    ms = (time.perf_counter() - began) * 1000
    return Answer(response.status, answer, "X-Cold-Start" in response.headers, ms)


def request(port: int, method: str, path: str) -> Answer:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        return exchange(connection, method, path, None, {})
    finally:
        connection.close()


def judge(answer: Answer, expected: dict[str, Any]) -> str:
    """Return what is wrong with an answer; empty if it is right."""
    if answer.status != expected.get("status", 200):
        return f"status {answer.status}: {shown(answer.body)}"
    if "json" in expected:
        right = parsed(answer.body) == expected["json"]
    elif "text" in expected:
        right = answer.body == expected["text"].encode()
    else:
        right = answer.body == base64.b64decode(expected["body_base64"])
    return "" if right else f"wrong answer: {shown(answer.body)}"


def parsed(body: bytes) -> object:
    """Return the JSON in `body`, or something that equals nothing."""
    try:
        return json.loads(body)
    except ValueError:
        return object()


def shown(body: bytes) -> str:
    """Return the start of a body, fit for one line of a terminal."""
    text = body.decode(errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        return f"{len(body)} bytes"
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line if len(line) <= 44 else line[:43] + "…"


def show(rows: list[Row]) -> None:
    """Print the table."""
    width = max(len(row.function) for row in rows)
    print(f"\n{'FUNCTION':{width}}  STATUS  {'ANSWER':44}  COLD ms  WARM ms")
    for row in rows:
        times = f"{row.cold_ms:7.2f}  {row.warm_ms:7.2f}"
        mark = "  <- wrong" if row.problem else ""
        print(f"{row.function:{width}}  {row.status:6}  {row.answer:44}  {times}{mark}")
    print(f"(cold: the first call; warm: the median of {WARM_CALLS} more;")
    print(" a script has a process of its own for each call, so it is never warm)\n")


def stop(node: subprocess.Popen[bytes]) -> None:
    """Ask the node to stop and see that it says it did so cleanly."""
    node.send_signal(signal.SIGTERM)
    try:
        code = node.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise DemoError("the node did not stop on SIGTERM") from None
    if code != 0:
        raise DemoError(f"the node stopped with exit code {code}")


def abandon(node: subprocess.Popen[bytes]) -> None:
    """End a node that something went wrong with; let it clean up if it can."""
    node.terminate()
    try:
        node.wait(10)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def descendants(root: int) -> set[tuple[int, str]]:
    """Return (pid, start time) of every process below `root`."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        parents.setdefault(int(fields[1]), []).append((int(entry.parent.name), fields[19]))
    found: set[tuple[int, str]] = set()
    waiting = [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting.extend(pid for pid, _ in children)
    return found


def check_nothing_left(family: set[tuple[int, str]], folder: Path) -> None:
    """See that no process of the node lives and no mount of it is left."""
    wait_for("the node's processes to end", lambda: not any(map(is_alive, family)))
    if str(folder) in Path("/proc/self/mountinfo").read_text():
        raise DemoError("the node left a mount behind")


def is_alive(process: tuple[int, str]) -> bool:
    """Tell whether that very process (not one that got its number later) still exists."""
    pid, started = process
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return False
    return fields[19] == started and fields[0] != "Z"


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Return as soon as `condition` holds.

    Raises:
        DemoError: it did not within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
