"""`kill -9` at seeded points: accepted = finished + queued each time, and functions stay whole.

HEARTH_TEST_SEED repeats a run, HEARTH_TEST_KILLS asks for another number of kills.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearth.linux import cgroups, launcher
from nodes import SLOW, Node, declaration, wait_until
from pace import fewer

_spec = importlib.util.spec_from_file_location(
    "mortal_node", Path(__file__).with_name("mortal_node.py")
)
mortal_node = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mortal_node)

SEED = int(os.environ.get("HEARTH_TEST_SEED", "20261121"))
KILLS = int(os.environ.get("HEARTH_TEST_KILLS", fewer(200, 50)))
LINES = 2
WITHIN_S = 1.5 * SLOW
"""A node that did not pass its point by then, after it was ready, is killed all the same."""
CLIENTS = 3
WORK = "def handle(request):\n    return {'seen': request.text}\n"
SHIFT = "def handle(request):\n    return {'value': %d}\n"


class Mortal(Node):
    """A node with many lives, all on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            data_dir,
            settings={"process_spares": 1, "queue_max_attempts": 1000, "queue_concurrency": 20},
        )
        self.deaths: Counter[str] = Counter()
        self._lines: queue.Queue[dict] = queue.Queue()
        self._argv = ["--port", "0", "--data-dir", str(data_dir)]
        self.forks = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("mortal_node.py"))],
            env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begin(self, point: str | None, passes: int = 0, within_s: float | None = None) -> bool:
        """Begin a life; True when it is ready for calls, False when it died before that."""
        self._dead = threading.Event()
        self._ready = threading.Event()
        self.point = point
        life = {"argv": self._argv, "point": point, "pass": passes, "within_s": within_s}
        self.forks.stdin.write(json.dumps(life) + "\n")
        self.forks.stdin.flush()
        wait_until(lambda: self._ready.is_set() or self._dead.is_set(), "it lives", 60 * SLOW)
        if self._ready.is_set():
            self.observe()
        return not self._dead.is_set()

    def send(self, number: int) -> None:
        if not self.dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def await_death(self) -> None:
        assert self._dead.wait(60 * SLOW), self.log.read_text()[-3000:]

    @property
    def dead(self) -> bool:
        return self._dead.is_set()

    def bury(self) -> None:
        """End the machinery; a life under way has to be ended before."""
        self.forks.stdin.close()
        self.forks.wait(30)
        self._reader.join(30)

    def _read(self) -> None:
        at = None
        with self.log.open("a") as log:
            for line in self.forks.stdout:
                log.write(line)
                log.flush()
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    match said.get("event"):
                        case "ready":
                            self.port = int(said["url"].rpartition(":")[2])
                            self._ready.set()
                        case "born":
                            self.pid, at = said["pid"], None
                        case "at":
                            at = said["point"]
                        case "dead":
                            self.deaths[at or mortal_node.ANY_MOMENT] += (
                                said["status"] == -signal.SIGKILL
                            )
                            self.status = said["status"]
                            self._dead.set()


class Line:
    """One data directory, what it was promised, and what was promised back."""

    def __init__(self, node: Mortal, chance: random.Random) -> None:
        self.node = node
        self.chance = chance
        self.accepted: dict[str, str] = {}
        self.unchecked: set[str] = set()
        self.numbers = itertools.count()
        self.confirmed = self.attempted = 0
        self.finished = self.queued = 0
        self.wrong: list[str] = []
        self._fates = self._shuffled()

    def prepare(self) -> None:
        """Deploy, in a life without a kill."""
        assert self.node.begin(None), self.node.tail()
        self.node.deploy("work", WORK, max_concurrency=4)
        self.node.deploy("shift", SHIFT % 0)
        self.node.send(signal.SIGTERM)
        self.node.await_death()
        assert self.node.status == 0

    def one_life(self) -> None:
        point, passes, within_s = next(self._fates)
        if self.node.begin(point, passes, within_s):
            end = threading.Timer(WITHIN_S, self.node.send, [signal.SIGKILL])
            end.start()
            clients = [threading.Thread(target=self._submit) for _ in range(CLIENTS)]
            clients.append(threading.Thread(target=self._redeploy))
            for client in clients:
                client.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.check()
            for client in clients:
                client.join()
            end.cancel()
        self.node.await_death()
        assert self.node.status == -signal.SIGKILL, (
            f"it ended by itself with {self.node.status}:\n{self.node.tail()}"
        )
        assert not self.wrong, self.wrong

    def _shuffled(self) -> Iterator[tuple[str, int, float | None]]:
        """Go round all points, in another order each time."""
        points = [f"{name}:{when}" for name in mortal_node.POINTS for when in ("before", "after")]
        while True:
            for point in self.chance.sample(points, len(points)):
                most = mortal_node.POINTS[point.partition(":")[0]][2]
                yield point, self.chance.randint(1, most), None
                if self.chance.random() < 0.1:
                    yield mortal_node.ANY_MOMENT, 0, self.chance.uniform(0.05, WITHIN_S)

    def _submit(self) -> None:
        connection = self.node.connect()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not self.node.dead:
                text = f"call {next(self.numbers)}"
                connection.request("POST", "/async-function/work", text)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 202:
                    self.wrong.append(f"{text}: {answer.status} {body!r}")
                    return
                call_id = json.loads(body)["id"]
                self.accepted[call_id] = text
                self.unchecked.add(call_id)

    def _redeploy(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not self.node.dead:
                self.attempted += 1
                body = declaration("shift", SHIFT % self.attempted)
                answer = self.node.request("PUT", "/functions/shift", body)
                if answer.status != 200:
                    self.wrong.append(f"redeploy: {answer.status} {answer.body!r}")
                    return
                self.confirmed = self.attempted

    # --- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Look at everything accepted in earlier lives, and at the functions."""
        confirmed = self.confirmed
        for call_id in sorted(self.unchecked):
            record = self.node.request("GET", f"/invocations/{call_id}")
            assert record.status == 200, f"lost: {call_id} {record.body!r}"
            self._judge(record.json)
            self.unchecked.discard(call_id)
        function = self.node.request("GET", "/functions/shift").json
        numbers = [version["number"] for version in function["versions"]]
        assert function["aliases"]["latest"] == function["number"] == max(numbers)
        assert len(set(numbers)) == len(numbers)
        answer = self.node.call("shift")
        assert answer.status == 200, answer.body
        assert confirmed <= answer.json["value"] <= self.attempted

    def _judge(self, record: dict) -> None:
        assert record["status"] in {"queued", "running", "succeeded"}, record
        if record["status"] == "succeeded":
            assert record["result"] == {"seen": self.accepted[record["id"]]}
            self.finished += 1
        else:
            self.queued += 1

    def run_dry(self) -> None:
        """In a last life, everything that was ever accepted is brought to its end."""
        assert self.node.begin(None), self.node.tail()
        wait_until(lambda: self._depth() == 0, "the queue has run dry", 60 * SLOW)
        self.finished = self.queued = 0
        self.unchecked = set(self.accepted)
        self.check()
        assert (self.finished, self.queued) == (len(self.accepted), 0)
        self.node.send(signal.SIGTERM)
        self.node.await_death()
        assert self.node.status == 0

    def _depth(self) -> int:
        metrics = self.node.request("GET", "/metrics").body.decode()
        (line,) = [x for x in metrics.splitlines() if x.startswith("hearth_async_queue_depth ")]
        return int(float(line.split()[1]))


def dead_groups() -> list[str]:
    """Return the control groups that no living node holds."""
    found = []
    hierarchies = launcher.discover()
    for directory in cgroups.Node(hierarchies).directories if hierarchies else ():
        for path in Path(directory).glob(f"{cgroups.PREFIX}*"):
            lock = cgroups.try_lock(str(path))
            if lock is not None:
                os.close(lock)
                found.append(str(path))
    return found


@pytest.mark.timeout(300 * SLOW)
def test_whatever_was_accepted_is_finished_or_queued_after_each_of_many_kills(tmp_path):
    print(f"seed {SEED}")  # shown when it fails
    chance = random.Random(SEED)
    lines = [
        Line(Mortal(tmp_path / f"line{n}"), random.Random(chance.random())) for n in range(LINES)
    ]
    failures: list[BaseException] = []

    def lead(line: Line) -> None:
        try:
            line.prepare()
            while sum(line.node.deaths.values()) < KILLS / LINES:
                line.one_life()
            line.run_dry()
        except BaseException as error:  # told by the main thread
            failures.append(error)

    leaders = [threading.Thread(target=lead, args=[line]) for line in lines]
    for leader in leaders:
        leader.start()
    for leader in leaders:
        leader.join()
    for line in lines:
        line.node.send(signal.SIGKILL)
        line.node.bury()
    if failures:
        raise failures[0]
    deaths = sum((line.node.deaths for line in lines), Counter())
    print(f"kills: {deaths}; accepted: {[len(line.accepted) for line in lines]}")
    assert sum(deaths.values()) >= KILLS
    if KILLS >= 200:
        reached = {point.partition(":")[0] for point in deaths}
        assert reached >= {*mortal_node.POINTS}, "some point was never reached"
    assert sum(len(line.accepted) for line in lines) > KILLS, "too little happened"
    wait_until(lambda: not dead_groups(), "no control group of a dead node is left")
    for line in lines:
        node = line.node
        node.await_nothing_left()
        assert not list((node.data_dir / "work").glob("*"))
        with contextlib.closing(sqlite3.connect(node.data_dir / "hearth.db")) as database:
            used = {digest for (digest,) in database.execute("SELECT artifact FROM version")}
        assert {path.name for path in (node.data_dir / "artifacts").iterdir()} == used
