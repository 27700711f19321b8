"""SIGTERM: what runs may end, within the grace time, and the node leaves with exit code 0."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nodes import SLOW, wait_until

SLEEP = (
    "import time\ndef handle(request):\n    time.sleep(float(request.text))\n    return 'slept'\n"
)
SMALL_S = 3.0 * SLOW
"""To remove every trace after the grace time, on a busy machine."""


def in_flight(node, pool, seconds):
    call = pool.submit(node.call, "slow", seconds)
    wait_until(lambda: node.instances("slow")["busy"] == 1, "it is in flight")
    return call


def test_a_call_in_flight_is_finished_before_the_node_leaves(own_node):
    node = own_node(execution_shutdown_grace="20s")
    node.deploy("slow", SLEEP)
    with ThreadPoolExecutor(1) as pool:
        call = in_flight(node, pool, "1.5")
        begun = time.monotonic()
        node.sigterm()
        answer = call.result()
        assert (answer.status, answer.body) == (200, b"slept")
    assert node.wait() == 0
    assert time.monotonic() - begun < 1.5 + SMALL_S


def test_a_call_that_takes_longer_than_the_grace_time_is_cut(own_node):
    node = own_node(execution_shutdown_grace="500ms")
    node.deploy("slow", SLEEP)
    with ThreadPoolExecutor(1) as pool:
        call = in_flight(node, pool, "60")
        begun = time.monotonic()
        node.sigterm()
        answer = call.exception() or call.result()
        if not isinstance(answer, Exception):
            assert (answer.status, answer.error["type"]) == (503, "ShuttingDown")
            assert "Retry-After" in answer.headers
    assert node.wait() == 0
    assert 0.5 <= time.monotonic() - begun < 0.5 + SMALL_S


def test_no_call_that_is_answered_while_the_node_leaves_is_answered_wrongly(own_node):
    node = own_node(execution_shutdown_grace="5s")
    node.deploy("hello", "def handle(request):\n    return 'hello'\n")
    wrong = []
    right = threading.Event()

    def client():
        while True:
            try:
                answer = node.call("hello")
            except OSError:
                return  # it listens no more
            right.set()
            if (answer.status, answer.body) != (200, b"hello") and answer.status != 503:
                wrong.append(answer)

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert right.wait(10 * SLOW)
    node.sigterm()
    assert node.wait() == 0
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT"])
def test_an_idle_node_leaves_at_once(own_node, stop):
    node = own_node()
    begun = time.monotonic()
    node.process.send_signal(getattr(signal, stop))
    assert node.wait() == 0
    assert time.monotonic() - begun < SMALL_S


def test_who_follows_logs_does_not_hold_up_the_shutdown(own_node):
    node = own_node(execution_shutdown_grace="30s")
    node.deploy("hello", "def handle(request):\n    print('seen')\n")
    node.call("hello")
    connection = node.connect()
    connection.request("GET", "/functions/hello/logs?follow=1")
    response = connection.getresponse()
    assert b"seen" in response.read1()
    begun = time.monotonic()
    node.sigterm()
    assert node.wait() == 0
    assert time.monotonic() - begun < SMALL_S
    connection.close()
