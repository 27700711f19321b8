"""Nodes on one host do not disturb each other, however often one of them is killed."""

from __future__ import annotations

import threading

from nodes import running_node
from pace import fewer

HELLO = "def handle(request):\n    return {'hello': request.text}\n"
DYING = "import os\ndef handle(request):\n    os._exit(3)\n"
ROUNDS = fewer(12, 4)


class Callers:
    """Calls that go on until told otherwise; every answer that is not right is kept."""

    def __init__(self, act, count=2):
        self.failures: list[str] = []
        self.calls = 0
        self._act = act
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._go_on) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self):
        while not self._enough.is_set():
            try:
                if wrong := self._act():
                    self.failures.append(wrong)
            except OSError as error:
                self.failures.append(repr(error))
            self.calls += 1


def test_a_node_that_is_killed_again_and_again_does_not_disturb_its_neighbour(tmp_path):
    with running_node(tmp_path / "a") as a:
        a.deploy("hello", HELLO)
        a.deploy("dying", DYING)  # so that the neighbour starts instances all the time

        def warm():
            answer = a.call("hello", b"x")
            return "" if answer.status == 200 else f"warm: {answer.body!r}"

        def cold():
            answer = a.call("dying", b"x")
            right = answer.status == 502 and answer.error["type"] == "Crashed"
            right = right and "3" in answer.error["message"]
            return "" if right else f"cold: {answer.body!r}"

        with (
            Callers(warm, 1) as warm_calls,
            Callers(cold, 1) as cold_calls,
            running_node(tmp_path / "b") as b,
        ):
            b.deploy("hello", HELLO)
            for _ in range(ROUNDS):
                assert b.call("hello", b"y").status == 200
                b.kill9()
                b.start()
        assert not warm_calls.failures
        assert not cold_calls.failures
        assert warm_calls.calls > ROUNDS
        assert cold_calls.calls > ROUNDS
