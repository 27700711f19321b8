import asyncio

import pytest

from hearth.model import InvocationRecord, LogLine
from hearth.sandbox.base import Exit
from hearth.sandbox.stub import Answer as Does


def _json(body):
    return Does(headers=b"content-type: application/json\r\n", body=body)


def test_the_invoke_body_of_the_spec_answers_with_the_record(node):
    made = node.deploy()
    answer = node("POST", "/invoke", {"function_id": made["id"], "payload": {"name": "Container"}})
    assert answer.status == 200
    record = answer.json
    assert record["status"] == "succeeded"
    assert record["result"] == {"name": "Container"}
    assert (record["function"], record["function_id"], record["version"]) == ("echo", made["id"], 1)
    assert record["metrics"]["duration"] > 0
    assert record["error"] is None
    found = node("GET", f"/invocations/{record['id']}").json
    assert (found["status"], found["result"]) == ("succeeded", {"name": "Container"})


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"hello", "hello"),
        (b"\xff\x00", {"base64": "/wA="}),
        (b'"\xff"', {"base64": "Iv8i"}),
        (b"", None),
        (b"[" * 5000, "[" * 5000),
    ],
)
def test_the_result_is_json_else_text_else_base64(node, body, result):
    node.deploy()
    node.backend.answers = lambda version, request: Does(body=body)
    assert node("POST", "/invoke", {"function": "echo"}).json["result"] == result


def test_a_long_result_is_whole_in_the_answer_and_cut_in_the_record(node):
    node.deploy()
    node.backend.answers = lambda version, request: Does(body=b"x" * 100_000)
    record = node("POST", "/invoke", {"function": "echo"}).json
    assert (len(record["result"]), record["result_truncated"]) == (100_000, False)
    kept = node("GET", f"/invocations/{record['id']}").json
    assert (len(kept["result"]), kept["result_truncated"]) == (64 << 10, True)


def test_the_payload_reaches_the_function_as_it_was_written(node):
    node.deploy()
    seen = []

    def answers(version, request):
        seen.append((request.method, request.path, request.headers, bytes(request.body)))
        return _json(b"1")

    node.backend.answers = answers
    node(
        "POST",
        "/invoke",
        content=b'{"function": "echo", "payload": {"n": 1.50,  "b":9007199254740993}}',
        headers={"Content-Type": "application/json"},
    )
    node("POST", "/invoke", {"function": "echo"})
    block = b"content-type: application/json\r\n"
    assert seen == [
        (b"POST", b"/", block, b'{"n": 1.50,  "b":9007199254740993}'),
        (b"POST", b"/", block, b"{}"),
    ]


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", True),
        (f"00-{'0' * 32}-{'cd' * 8}-01", False),
        ("not a trace", False),
    ],
)
def test_the_place_in_a_trace_is_passed_on_and_recorded(node, given, passed_on):
    seen = []
    node.deploy()

    def answers(version, request):
        seen.append(request.headers)
        return _json(b"1")

    node.backend.answers = answers
    made = node("POST", "/invoke", {"function": "echo"}, headers={"traceparent": given}).json
    assert made["traceparent"] == (given if passed_on else None)
    assert (b"traceparent: %b\r\n" % given.encode() in seen[0]) is passed_on


def test_a_failed_call_answers_502_with_its_record(node):
    node.deploy()
    node.backend.answers = lambda v, r: Does(
        error=("RuntimeError", "Function exited with code 1", "stack of it"),
        output=(("stderr", b"stack of it\n"),),
    )
    answer = node("POST", "/invoke", {"function": "echo"})
    assert answer.status == 502
    assert answer.json["status"] == "failed"
    assert answer.json["error"]["message"] == "Function exited with code 1"
    assert answer.json["error"]["stack"] == "stack of it"
    assert answer.json["logs"][0]["text"] == "stack of it"


def test_a_call_that_runs_too_long_answers_504_with_its_record(node):
    node.deploy(timeout="50ms")
    node.backend.answers = lambda v, r: Does(hangs=True)
    answer = node("POST", "/invoke", {"function": "echo"})
    assert (answer.status, answer.json["status"]) == (504, "timeout")
    assert answer.json["error"]["type"] == "Timeout"


def test_a_crash_answers_502(node):
    node.deploy()
    node.backend.answers = lambda v, r: Does(dies=Exit(signal=11))
    answer = node("POST", "/invoke", {"function": "echo"})
    assert (answer.status, answer.json["error"]["type"]) == (502, "Crashed")


def test_a_full_queue_answers_429_with_retry_after(node):
    node.deploy(max_concurrency=1, queue_size=0)
    node.backend.answers = lambda v, r: Does(after_s=0.2, body=b"1")

    async def two():
        return await asyncio.gather(
            *(node.ask("POST", "/invoke", {"function": "echo"}) for _ in range(2))
        )

    statuses = sorted((a.status, "retry-after" in a.headers) for a in node.run(two()))
    assert statuses == [(200, False), (429, True)]


def test_a_call_that_waited_too_long_answers_503_with_its_record_and_retry_after(node):
    node.deploy(max_concurrency=1, queue_timeout="20ms")
    node.backend.answers = lambda v, r: Does(after_s=0.3, body=b"1")

    async def two():
        return await asyncio.gather(
            *(node.ask("POST", "/invoke", {"function": "echo"}) for _ in range(2))
        )

    _, late = sorted(node.run(two()), key=lambda answer: answer.status)
    assert (late.status, late.json["error"]["type"]) == (503, "QueueTimeout")
    assert int(late.headers["retry-after"]) >= 1


def test_a_cold_call_says_so_in_its_head_and_in_its_record(node):
    node.deploy(source="print('a script')\n")  # a new instance for each call
    node.backend.answers = lambda v, r: Does(body=b"1")
    answer = node("POST", "/invoke", {"function": "echo"})
    assert answer.json["metrics"]["cold_start"]
    assert answer.headers["x-cold-start"] == "true"
    node.deploy("warm")
    answer = node("POST", "/invoke", {"function": "warm"})
    assert not answer.json["metrics"]["cold_start"]
    assert "x-cold-start" not in answer.headers


def test_an_asynchronous_call_is_on_disk_when_its_202_is_sent(node):
    node.deploy()
    answer = node("POST", "/invoke", {"function": "echo", "payload": 1, "async": True})
    assert (answer.status, answer.json["status"]) == (202, "queued")
    assert answer.headers["location"] == f"/invocations/{answer.json['id']}"
    found = node("GET", answer.headers["location"]).json
    assert (found["status"], found["asynchronous"]) == ("queued", True)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"function": "a", "function_id": "b"},
        {"function": 1},
        {"function": "echo", "paylod": 1},
        {"function": "echo", "async": "yes"},
        [],
    ],
)
def test_an_invoke_body_that_is_not_understood_is_400(node, body):
    node.deploy()
    assert node("POST", "/invoke", body).status == 400


def test_an_unknown_function_is_404(node):
    assert node("POST", "/invoke", {"function": "nope"}).status == 404
    assert node("POST", "/invoke", {"function_id": "nope"}).status == 404


# --- records -------------------------------------------------------------------------------------


def test_invocations_are_listed_newest_first_by_pages(node):
    node.deploy()
    ids = [node("POST", "/invoke", {"function": "echo"}).json["id"] for _ in range(5)]
    first = node("GET", "/invocations?limit=3").json
    rest = node("GET", f"/invocations?limit=3&before={first['next']}").json
    listed = [one["id"] for one in first["invocations"] + rest["invocations"]]
    assert sorted(listed) == sorted(ids)
    assert rest["next"] is None


def test_invocations_are_filtered_by_function_name_or_id_and_status(node):
    made = node.deploy("aa")
    node.deploy("bb")
    node("POST", "/invoke", {"function": "aa"})
    node("POST", "/invoke", {"function": "bb"})
    for query in ("function=aa", f"function={made['id']}", "function=aa&status=succeeded"):
        found = node("GET", f"/invocations?{query}").json["invocations"]
        assert [one["function"] for one in found] == ["aa"], query
    assert node("GET", "/invocations?status=failed").json["invocations"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=5000", "status=odd", "before=zz", "colour=1", "limit=1&limit=2"],
)
def test_a_query_that_is_not_understood_is_400(node, query):
    answer = node("GET", f"/invocations?{query}")
    assert (answer.status, answer.error["type"]) == (400, "BadInput")


@pytest.mark.parametrize(
    "weird", ["x", "0" * 32, "0" * 5000, "\u00fc", "\u2028", "%00", "a b", "'--", "."]
)
@pytest.mark.parametrize("path", ["/invocations/{}", "/invocations/{}/logs", "/functions/{}"])
def test_an_id_that_cannot_exist_is_404(node, path, weird):
    assert node("GET", path.format(weird)).status == 404
    assert node("DELETE", path.format(weird)).status in (404, 405)


def test_a_running_call_is_shown_and_cancelled(node):
    node.deploy()
    node.backend.answers = lambda v, r: Does(hangs=True)

    async def cancel_it():
        call = asyncio.ensure_future(node.ask("POST", "/invoke", {"function": "echo"}))
        while not (live := [c for c in node.invoker.live() if c.status == "running"]):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
        path = f"/invocations/{live[0].id}"
        shown = await node.ask("GET", path)
        return shown, await node.ask("DELETE", path), await call, await node.ask("DELETE", path)

    shown, cancelled, answer, again = node.run(cancel_it())
    assert shown.json["status"] == "running"
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert (answer.status, answer.json["error"]["type"]) == (409, "Cancelled")
    assert (again.status, again.error["type"]) == (409, "Conflict")


def test_a_queued_call_is_cancelled(node):
    node.deploy()
    path = node("POST", "/invoke", {"function": "echo", "async": True}).headers["location"]
    assert node("DELETE", path).json["status"] == "cancelled"
    assert node("DELETE", path).status == 409


# --- logs ----------------------------------------------------------------------------------------


def _writes(*lines):
    return lambda v, r: Does(body=b"1", output=tuple((s, t.encode()) for s, t in lines))


def test_logs_of_an_invocation_are_text_or_json_lines(node):
    node.deploy()
    node.backend.answers = _writes(("stdout", "out\n"), ("stderr", "err\n"))
    record = node("POST", "/invoke", {"function": "echo"}).json
    path = f"/invocations/{record['id']}/logs"
    text = node("GET", path)
    assert (text.body, text.headers["content-type"]) == (
        b"out\nerr\n",
        "text/plain; charset=utf-8",
    )
    assert node("GET", f"{path}?stream=stderr").body == b"err\n"
    lines = node("GET", path, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert lines.body.count(b"\n") == 2
    assert b'"stream":"stderr","text":"err"' in lines.body


def test_a_followed_log_goes_on_until_the_call_has_ended(node):
    node.deploy()

    class Running:
        looks = 0

        def record(self):
            self.looks += 1
            lines = tuple(LogLine(float(n), "stdout", f"line {n}") for n in range(self.looks))
            return InvocationRecord(
                id="f" * 32,
                function_id="f",
                function="echo",
                version=1,
                status="succeeded" if self.looks == 4 else "running",
                logs=lines,
            )

    running = Running()
    node.invoker.find = lambda invocation_id: running
    followed = node("GET", f"/invocations/{'f' * 32}/logs?follow=1")
    assert followed.body == b"line 0\nline 1\nline 2\nline 3\n"


def test_logs_of_a_function_join_its_last_invocations(node):
    node.deploy()
    ids = []
    for word in ("one", "two", "three"):
        node.backend.answers = _writes(("stdout", word + "\n"))
        ids.append(node("POST", "/invoke", {"function": "echo"}).json["id"])
    text = node("GET", "/functions/echo/logs").body.decode()
    written = dict(zip(ids, ("one", "two", "three"), strict=True))
    assert [line.split()[1:] for line in text.splitlines()] == [
        [one, written[one]] for one in sorted(ids)
    ]
    assert len(node("GET", "/functions/echo/logs?tail=2").body.splitlines()) == 2
    lines = node("GET", "/functions/echo/logs", headers={"Accept": "application/x-ndjson"}).body
    assert lines.count(b"\n") == 3
    assert ids[0].encode() in lines


def test_a_followed_function_log_shows_new_calls_until_the_client_leaves(node):
    node.deploy()
    node.backend.answers = _writes(("stdout", "seen\n"))
    node("POST", "/invoke", {"function": "echo"})

    async def follow():
        came = asyncio.Event()
        lines = []

        async def send(message):
            lines.extend(message.get("body", b"").splitlines())
            if len(lines) == 2:
                came.set()

        async def receive():
            await came.wait()
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/functions/echo/logs",
            "query_string": b"follow=1",
            "headers": [],
            "client": None,
            "hearth.identity": type("Admin", (), {"id": "a", "scopes": frozenset({"admin"})}),
        }
        task = asyncio.ensure_future(node.app(scope, receive, send))
        await node.ask("POST", "/invoke", {"function": "echo"})
        await came.wait()
        await task
        return lines

    assert [line.split()[-1] for line in node.run(follow())] == [b"seen", b"seen"]


# --- who may see what ----------------------------------------------------------------------------


def test_a_caller_without_scope_admin_sees_neither_stack_nor_logs(node):
    node.deploy()
    node.backend.answers = lambda v, r: Does(
        error=("ValueError", "bad", "secret path"), output=(("stderr", b"secret\n"),)
    )
    answer = node("POST", "/invoke", {"function": "echo"}, as_=node.CALLER)
    assert (answer.status, answer.json["error"]["message"]) == (502, "ValueError: bad")
    found = node("GET", f"/invocations/{answer.json['id']}", as_=node.CALLER)
    assert b"secret" not in answer.body + found.body
    assert node("GET", f"/invocations/{answer.json['id']}/logs", as_=node.CALLER).status == 403
