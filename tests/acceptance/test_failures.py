"""What goes wrong inside a function costs one call, is named, and disturbs nobody else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nodes import SLOW, declaration, wait_until

KILL_WITHIN_S = 0.1
SLACK_S = 0.15 * SLOW
"""For measuring: the looks at /proc, and the processor shared with everything else."""
NAMED = (
    "import ctypes, time\n"
    "def handle(request):\n"
    "    ctypes.CDLL(None).prctl(15, b'{comm}', 0, 0, 0)\n"
    "    time.sleep(float(request.text))\n"
    "    return 'done'\n"
)
SLEEP = (
    "import time\ndef handle(request):\n    time.sleep(float(request.text))\n    return 'slept'\n"
)


def named(node, comm):
    """Return the node's processes that call themselves `comm`."""
    found = []
    for pid in node.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == comm:
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_call_past_its_deadline_ends_with_504_and_its_process_is_gone(node, name):
    node.deploy(name, NAMED.format(comm=f"late-{name}"), timeout="1s")
    assert node.call(name, "0").body == b"done"
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(node.call, name, "60")
        (pid,) = wait_until(lambda: named(node, f"late-{name}"), "it runs")
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < begun + 10 * SLOW
            time.sleep(0.001)
        gone_at = time.monotonic()
        answer = answer.result()
    assert answer.status == 504
    assert answer.error["type"] == "Timeout"
    assert answer.error["limit"] == "timeout=1s"
    record = node.finished(answer.call_id)
    assert record["status"] == "timeout"
    assert 1.0 <= record["metrics"]["duration"] / 1e9 < 1.0 + KILL_WITHIN_S + SLACK_S
    assert gone_at - begun < 1.0 + KILL_WITHIN_S + SLACK_S
    assert node.call(name, "0").body == b"done"


def test_a_function_out_of_memory_is_told_with_limit_and_peak(node, name):
    node.deploy(
        name, "def handle(request):\n    return str(len(bytearray(512 << 20)))\n", memory_mb=48
    )
    answer = node.call(name)
    assert answer.status == 502
    assert answer.error["type"] == "OutOfMemory"
    assert answer.error["limit"] == "memory=48Mi"
    assert "peak 4" in answer.error["message"]
    record = node.finished(answer.call_id)
    assert (record["status"], record["error"]["type"]) == ("failed", "OutOfMemory")
    assert 40 << 20 < record["metrics"]["memory_peak"] <= 48 << 20


def test_an_exception_is_told_with_the_functions_own_stack(node, name):
    node.deploy(name, "def handle(request):\n    print('before')\n    return 1 / 0\n")
    answer = node.call(name)
    assert (answer.status, answer.error["type"]) == (502, "RuntimeError")
    assert answer.error["message"] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in answer.error["stack"]
    assert "site-packages" not in answer.error["stack"]


def test_crashes_are_told_by_exit_code_or_signal_and_cost_one_call_each(node, name):
    dying = f"{name}-dying"
    node.deploy(dying, "import os\ndef handle(request):\n    exec(request.text)\n")
    node.deploy(name, SLEEP, max_concurrency=8)
    causes = {
        "os._exit(3)": "exit code 3",
        "raise SystemExit(4)": "exit code 4",
        "os.kill(os.getpid(), 11)": "SIGSEGV",
        "os.abort()": "SIGABRT",
        "import ctypes; ctypes.string_at(0)": "SIGSEGV",
    }
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(node.call, name, "4") for _ in range(8)]
        wait_until(lambda: node.instances(name)["busy"] == 8, "the slow calls are in flight")
        for cause, how in [*causes.items()] * 4:
            answer = node.call(dying, cause)
            assert (answer.status, answer.error["type"]) == (502, "Crashed"), answer.body
            assert how in answer.error["message"]
        assert not any(call.done() for call in slow), "they were to be in flight all the time"
        assert {(call.result().status, call.result().body) for call in slow} == {(200, b"slept")}


def test_the_log_of_a_call_is_complete_even_when_it_crashed(node, name):
    node.deploy(
        name,
        "import logging, os, sys\n"
        "def handle(request):\n"
        "    for n in range(500):\n        print('line', n)\n"
        "    print('to stderr', file=sys.stderr)\n"
        "    logging.getLogger('own').warning('logged')\n"
        "    os.write(1, b'no newline')\n"
        "    os.kill(os.getpid(), int(request.text)) if request.text else None\n",
    )
    for signal in ("", "9"):
        answer = node.call(name, signal)
        assert answer.status == (502 if signal else 204)
        node.finished(answer.call_id)
        path = f"/invocations/{answer.call_id}/logs"
        out = node.request("GET", f"{path}?stream=stdout").body.decode()
        assert out.split("\n")[:500] == [f"line {n}" for n in range(500)]
        assert out.rstrip("\n").endswith("no newline")
        err = node.request("GET", f"{path}?stream=stderr").body.decode()
        assert "to stderr\nWARNING:own:logged\n" in err


def test_what_cannot_be_imported_fails_the_deploy_and_leaves_the_old_version(node, name):
    before = node.deploy(name, "def handle(request):\n    return 'old'\n")
    body = declaration(name, "import missing_thing\ndef handle(request):\n    return 'new'\n")
    answer = node.request("PUT", f"/functions/{name}", body)
    assert (answer.status, answer.error["type"]) == (400, "DeployFailed")
    assert "ModuleNotFoundError" in answer.error["message"]
    assert "import missing_thing" in answer.error["stack"]
    assert node.call(name).body == b"old"
    assert node.request("GET", f"/functions/{name}").json["number"] == before["number"]


def test_what_does_not_fit_is_turned_away_with_retry_after(node, name):
    node.deploy(name, SLEEP, max_concurrency=1, queue_size=1, queue_timeout="500ms")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(node.call, name, "2")
        wait_until(lambda: node.instances(name)["busy"] == 1, "it runs")
        waiting = pool.submit(node.call, name, "0")
        wait_until(lambda: _waiting(node, name) == 1, "one waits")
        full = node.call(name, "0")
        assert (full.status, full.error["type"]) == (429, "QueueFull")
        assert int(full.headers["Retry-After"]) >= 1
        late = waiting.result()
        assert (late.status, late.error["type"]) == (503, "QueueTimeout")
        assert int(late.headers["Retry-After"]) >= 1
        assert running.result().status == 200
    assert node.call(name, "0").status == 200


def _waiting(node, name):
    for line in node.request("GET", "/metrics").body.decode().splitlines():
        if line.startswith("hearth_queue_depth") and f'"{name}"' in line:
            return int(float(line.split()[-1]))
    return 0


def test_a_caller_that_leaves_does_not_disturb_the_instance(node, name):
    node.deploy(name, SLEEP, max_concurrency=1)
    connection = node.connect()
    connection.request("POST", f"/function/{name}", "30")
    wait_until(lambda: node.instances(name)["busy"] == 1, "it runs")
    connection.close()
    answered = threading.Event()

    def again():
        assert node.call(name, "0").body == b"slept"
        answered.set()

    thread = threading.Thread(target=again)
    thread.start()
    assert answered.wait(15 * SLOW), "the call of a client that left holds the only instance"
    thread.join()
