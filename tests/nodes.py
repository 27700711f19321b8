"""A real node for tests: starts `hearth up`, speaks to it, ends it, and sees that nothing is left.

The leftovers that are looked for are those of this node only, so that nodes can run side by side.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pace import SLOW

_SCRIPT = Path(sys.executable).with_name("hearth")
_MAIN = "import sys; sys.argv[0] = 'hearth'; from hearth.cli.app import main; main()"
HEARTH = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-c", _MAIN]
"""The command; an ordinary user may be unable to reach root's interpreter and its scripts."""
START_S = 30.0 * SLOW
END_S = 15.0 * SLOW
_TOKEN = re.compile(r"hearth-[0-9a-f]{8}")
_MARK = "HEARTH_TEST_MARK"


def wait_until(condition: Callable[[], Any], what: str, bound_s: float = 10.0 * SLOW) -> Any:
    """Return the first true value of `condition`, which is asked every 5 ms."""
    until = time.monotonic() + bound_s
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {bound_s:g} s: {what}"
        time.sleep(0.005)
    return value


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The platform's error object."""
        return self.json["error"]

    @property
    def call_id(self) -> str:
        return self.headers["X-Call-Id"]


class Node:
    """One data directory and the node that serves it, started as often as wanted."""

    def __init__(
        self,
        data_dir: Path,
        *,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Start nothing; `settings` are `section_key=value`, as in HEARTH_<SECTION>_<KEY>."""
        self.data_dir = data_dir
        self.key: str | None = None
        self.port = 0
        self.mark = secrets.token_hex(8)
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._arguments = arguments
        listen = (settings or {}).get("control_listen", "")
        self._control_port = int(listen.rpartition(":")[2] or 0)
        named = {f"HEARTH_{key.upper()}": str(value) for key, value in (settings or {}).items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_")}
        self._environment = {
            **inherited,
            "HEARTH_PROCESS_SPARES": "2",
            "HEARTH_EXECUTION_MEMORY_RESERVE": "64Mi",
            **named,
            **(environment or {}),
            _MARK: self.mark,
        }
        self._seen: set[tuple[int, str]] = set()
        self._tokens: set[str] = set()
        self._log_start = 0
        self.process: subprocess.Popen[bytes] | None = None

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> Node:
        """Start it and return when `/readyz` says 200."""
        self.spawn()
        wait_until(self._listening, f"the node is up; its log:\n{self.tail()}", START_S)
        wait_until(self.ready, f"the node is ready; its log:\n{self.tail()}", START_S)
        self.observe()
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process and return at once."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *HEARTH, "up", "--port", str(self.port),
                    "--data-dir", str(self.data_dir), *self._arguments,
                ],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.data_dir.parent,
            )  # fmt: skip
        return self.process

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the log since the last start."""
        found = []
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            for line in log.read().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def _listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.tail()}"
        for line in self.lines():
            if line.get("event") == "ready":
                self.port = int(line["url"].rpartition(":")[2])
                return True
        return False

    def ready(self) -> bool:
        """Tell whether `/readyz` says so now."""
        own = self.connect(self._control_port)
        try:
            return self.request("GET", "/readyz", connection=own).status == 200
        except OSError:
            return False
        finally:
            own.close()

    def kill9(self) -> None:
        """End it as a power cut does; what it made may need a moment to follow."""
        self.observe()
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def sigterm(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, bound_s: float = END_S) -> int:
        """Return its exit code."""
        assert self.process is not None
        return self.process.wait(bound_s)

    def restart(self) -> Node:
        """Stop it politely if it still runs, and start it again on the same port."""
        if self.process is not None and self.process.poll() is None:
            self.sigterm()
            assert self.wait() == 0, self.tail()
        return self.start()

    # --- speaking to it ------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, port: int | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60 * SLOW)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """Send one request; a body that is not bytes or text goes as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        own = connection or self.connect()
        try:
            own.request(method, path, body, headers)
            response = own.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            if connection is None:
                own.close()

    def deploy(self, name: str, source: str | bytes, **fields: Any) -> dict[str, Any]:
        """Deploy `source`, new or over what is there, and return its description."""
        body = declaration(name, source, **fields)
        answer = self.request("PUT", f"/functions/{name}", body)
        if answer.status == 404:
            answer = self.request("POST", "/functions", body)
        assert answer.status in (200, 201), answer.body
        return answer.json

    def call(self, name: str, body: Any = b"", path: str = "") -> Answer:
        return self.request("POST", f"/function/{name}{path}", body)

    def invocation(self, call_id: str) -> dict[str, Any]:
        answer = self.request("GET", f"/invocations/{call_id}")
        assert answer.status == 200, (call_id, answer.body)
        return answer.json

    def finished(self, call_id: str, bound_s: float = 20.0 * SLOW) -> dict[str, Any]:
        """Wait until the record of an invocation is complete and return it."""

        def look() -> dict[str, Any] | None:
            record = self.invocation(call_id)
            return record if record["finished_at"] is not None else None

        return wait_until(look, f"{call_id} has ended", bound_s)

    def instances(self, name: str) -> dict[str, int]:
        return self.request("GET", f"/functions/{name}").json["instances"]

    def hearth(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Said:
        """Run the CLI against it."""
        own = {"HEARTH_URL": self.url, "COLUMNS": "200", "NO_COLOR": "1"}
        if self.key is not None:
            own["HEARTH_KEY"] = self.key
        run = subprocess.run(
            [*HEARTH, *arguments],
            env={**self._environment, **own, **environment},
            input=stdin,
            capture_output=True,
            timeout=60 * SLOW,
            check=False,
        )
        return Said(run.returncode, run.stdout.decode(), run.stderr.decode())

    # --- what is left --------------------------------------------------------------------------

    def observe(self) -> None:
        """Remember the processes and control groups that belong to this node now."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                self._seen.add((pid, started(pid)))
                self._tokens |= set(_TOKEN.findall(Path(f"/proc/{pid}/cgroup").read_text()))

    def processes(self) -> list[int]:
        """Return the node, all below it, and what was left behind by one that died."""
        parents = _parents()
        mark = f"{_MARK}={self.mark}".encode()
        return sorted(_below({pid for pid in parents if mark in _file(pid, "environ")}, parents))

    def sandboxes(self) -> set[int]:
        """Return the spawner's parent and everything below it."""
        return _below({self.launcher()}, _parents())

    def launcher(self) -> int:
        """Return the pid of the spawner's parent."""
        assert self.process is not None
        for pid in children_of(self.process.pid):
            if b"hearth.linux.launcher" in _file(pid, "cmdline"):
                return pid
        raise AssertionError("the node has no launcher")

    def spawner(self) -> int:
        return children_of(self.launcher())[0]

    def leftovers(self) -> list[str]:
        """Name everything that a node of this data directory has left in the system."""
        alive = [f"process {pid}" for pid, since in self._seen if _is(pid, since)]
        alive += [f"process {pid}" for pid in self.processes()]
        roots = [line.split()[4] for line in _mounts() if " - cgroup" in line]
        groups = [
            f"cgroup {path}"
            for root in roots
            for path in Path(root).glob("hearth-*")
            if path.name in self._tokens
        ]
        mounts = [f"mount {line}" for line in _mounts() if str(self.data_dir) in line]
        run = self.data_dir / "run"
        return alive + groups + mounts + [str(path) for path in run.glob("*")]

    def end(self) -> None:
        """Stop it if it runs, and assert that nothing is left."""
        if self.process is not None and self.process.poll() is None:
            self.observe()
            self.sigterm()
            try:
                self.process.wait(END_S + 30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self.await_nothing_left()

    def await_nothing_left(self) -> None:
        """Wait until no trace of a dead node is left."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.leftovers(), "nothing is left", END_S)
        assert not self.leftovers()


class Said(NamedTuple):
    """What a verb of the CLI did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@contextlib.contextmanager
def running_node(
    data_dir: Path,
    *,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Node]:
    """Run a node; afterwards no process, control group, mount or directory of it may be left."""
    node = Node(data_dir, arguments=arguments, environment=environment, settings=settings)
    try:
        yield node.start()
    except BaseException:
        if node.log.exists():
            print(node.tail(), file=sys.stderr)
        if node.process is not None and node.process.poll() is None:
            node.kill9()
        raise
    node.end()


def declaration(name: str, source: str | bytes, **fields: Any) -> dict[str, Any]:
    """Return the body of a deploy."""
    code = source.encode() if isinstance(source, str) else source
    encoded = base64.b64encode(code).decode()
    return {"name": name, "runtime": "python", "code": encoded, **fields}


def children_of(pid: int) -> list[int]:
    """Return the children of a process, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def started(pid: int) -> str:
    """Return the start time of a process, which with its number makes it unique."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _is(pid: int, since: str) -> bool:
    try:
        return started(pid) == since
    except OSError:
        return False


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                parents[int(name)] = int(stat[1])
    return parents


def _below(roots: set[int], parents: dict[int, int]) -> set[int]:
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()
