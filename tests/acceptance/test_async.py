"""Asynchronous calls: accepted, run later, found by id, cancelled."""

from __future__ import annotations

import http.client

import pytest

from nodes import wait_until

ECHO = "def handle(request):\n    print('ran')\n    return {'got': request.json}\n"
SLEEP = "import time\ndef handle(request):\n    time.sleep(float(request.json))\n"


def by_async_function(node, name, payload):
    return node.request("POST", f"/async-function/{name}", payload)


def by_invoke(node, name, payload):
    return node.request("POST", "/invoke", {"function": name, "payload": payload, "async": True})


@pytest.mark.parametrize("submit", [by_async_function, by_invoke])
def test_an_asynchronous_call_is_accepted_and_its_result_found_by_its_id(node, name, submit):
    node.deploy(name, ECHO)
    accepted = submit(node, name, {"a": 1})
    assert accepted.status == 202
    call_id = accepted.json["id"]
    assert accepted.call_id == call_id
    assert accepted.headers["Location"] == f"/invocations/{call_id}"
    record = node.finished(call_id)
    assert (record["status"], record["result"]) == ("succeeded", {"got": {"a": 1}})
    assert record["asynchronous"]
    assert record["attempts"] == 1
    assert [line["text"].strip() for line in record["logs"]] == ["ran"]


def test_an_asynchronous_call_that_fails_says_why(node, name):
    node.deploy(name, "def handle(request):\n    return 1 / 0\n")
    record = node.finished(by_async_function(node, name, {}).json["id"])
    assert record["status"] == "failed"
    assert record["error"]["message"] == "ZeroDivisionError: division by zero"


def test_queued_and_running_calls_can_be_cancelled(node, name):
    node.deploy(name, SLEEP, max_concurrency=1)
    running = by_async_function(node, name, 60).json["id"]
    wait_until(lambda: node.invocation(running)["status"] == "running", "the first one runs")
    queued = by_async_function(node, name, 60).json["id"]
    wait_until(lambda: node.invocation(queued)["status"] == "queued", "the second one waits")
    for call_id in (queued, running):
        answer = node.request("DELETE", f"/invocations/{call_id}")
        assert answer.status == 200, answer.body
        record = node.finished(call_id)
        assert (record["status"], record["error"]["type"]) == ("cancelled", "Cancelled")
    again = node.request("DELETE", f"/invocations/{running}")
    assert (again.status, again.error["type"]) == (409, "Conflict")
    assert node.finished(by_async_function(node, name, 0).json["id"])["status"] == "succeeded"


def test_cancelling_a_synchronous_call_answers_its_caller(node, name):
    node.deploy(
        name, "import time\ndef handle(request):\n    yield request.id\n    time.sleep(60)\n"
    )
    connection = node.connect()
    connection.request("GET", f"/function/{name}")
    response = connection.getresponse()
    call_id = response.read1().decode()
    assert call_id == response.headers["X-Call-Id"]
    assert node.request("DELETE", f"/invocations/{call_id}").status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()  # a streamed answer that breaks off must not look complete
    connection.close()
    assert node.finished(call_id)["status"] == "cancelled"


def test_the_queue_refuses_what_is_over_its_depth(own_node):
    node = own_node(queue_max_depth=2)
    node.deploy("slow", SLEEP, max_concurrency=1)
    ids = [by_async_function(node, "slow", 60).json["id"] for _ in range(2)]
    full = by_async_function(node, "slow", 60)
    assert (full.status, full.error["type"]) == (429, "QueueFull")
    assert int(full.headers["Retry-After"]) >= 1
    for call_id in ids:
        node.request("DELETE", f"/invocations/{call_id}")
        node.finished(call_id)
    assert by_async_function(node, "slow", 0).status == 202


def test_accepted_calls_survive_a_polite_restart(own_node):
    node = own_node(queue_concurrency=1, execution_shutdown_grace="200ms")
    node.deploy("slow", SLEEP, max_concurrency=1)
    first = by_async_function(node, "slow", 1).json["id"]
    others = [by_async_function(node, "slow", 0).json["id"] for _ in range(5)]
    node.restart()
    records = [node.finished(call_id) for call_id in [first, *others]]
    assert {record["status"] for record in records} == {"succeeded"}, records
