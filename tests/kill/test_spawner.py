"""`kill -9` of the spawner, or of its parent, alone: the node says so and heals itself."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from nodes import running_node, wait_until

SLEEP = (
    "import time\ndef handle(request):\n    time.sleep(float(request.text))\n    return 'slept'\n"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running_node(tmp_path_factory.mktemp("spawner") / "data") as node:
        node.deploy("slow", SLEEP)
        yield node


@pytest.mark.parametrize("victim", ["spawner", "launcher"])
def test_the_node_recovers_from_the_death_of_its(node, victim):
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(node.call, "slow", "60") for _ in range(3)]
        wait_until(lambda: node.instances("slow")["busy"] == 3, "calls are in flight")
        node.observe()
        sandboxes = node.sandboxes()
        os.kill(getattr(node, victim)(), signal.SIGKILL)
        answers = [call.result() for call in calls]
    for answer in answers:
        assert (answer.status, answer.error["type"]) == (502, "Crashed")
        assert "spawner" in answer.error["message"]
        record = node.finished(answer.call_id)
        assert record["status"] == "failed"
    wait_until(node.ready, "the node is ready again")
    assert node.call("slow", "0").body == b"slept"
    wait_until(lambda: not sandboxes & set(node.processes()), "the old sandboxes are gone")
    assert node.process.poll() is None


def test_while_the_spawner_is_away_the_node_says_that_it_is_not_ready(node):
    """A stopped launcher cannot clean up, so the next spawner has to wait for it."""
    launcher = node.launcher()
    spawner = node.spawner()
    os.kill(launcher, signal.SIGSTOP)
    try:
        os.kill(spawner, signal.SIGKILL)
        reasons = wait_until(lambda: _reasons(node), "it is not ready")
        assert any("spawner" in reason for reason in reasons)
        assert node.request("GET", "/healthz").status == 200
    finally:
        os.kill(launcher, signal.SIGCONT)
    wait_until(node.ready, "the node is ready again")
    assert node.call("slow", "0").body == b"slept"


def test_an_asynchronous_call_that_lost_its_sandbox_has_an_outcome(node):
    call_id = node.request("POST", "/async-function/slow", "60").json["id"]
    wait_until(lambda: node.invocation(call_id)["status"] == "running", "it runs")
    os.kill(node.spawner(), signal.SIGKILL)
    record = node.finished(call_id)
    assert (record["status"], record["error"]["type"]) == ("failed", "Crashed")
    wait_until(node.ready, "the node is ready again")


def _reasons(node):
    answer = node.request("GET", "/readyz")
    return answer.json.get("reasons") if answer.status == 503 else None
