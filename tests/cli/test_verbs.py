import io
import json
import sys
import threading

import pytest

from hearth.cli.progress import Progress

FUNCTION = {
    "name": "hello",
    "version": "1.0.0",
    "number": 3,
    "label": "1.0.0",
    "runtime": "python3.11",
    "contract": "handler",
    "mode": "process",
    "instances": {"idle": 2, "busy": 1},
    "url": "/function/hello",
    "updated_at": 0.0,
    "warnings": ["dependencies has no effect yet"],
    "limits": {"timeout_s": 30},
    "reasons": ["because", "of this"],
    "versions": [{"number": 3, "label": "1.0.0", "created_at": 0}],
    "created_at": 0.0,
}
RECORD = {
    "id": "ab" * 16,
    "function": "hello",
    "version": 3,
    "status": "failed",
    "metrics": {"duration": 1_500_000, "memory_peak": None, "cold_start": True},
    "error": {"type": "Crashed", "message": "exit code 3"},
    "created_at": 0.0,
}


@pytest.mark.parametrize("verb", [["list"], ["key", "list"]], ids=" ".join)
def test_a_node_that_takes_long_is_waited_for_aloud(hearth, node, monkeypatch, verb):
    node.on("GET", "/functions", functions=[])
    node.on("GET", "/keys", keys=[])
    told, write, answer = threading.Event(), Progress._write, node.answer_for

    def write_and_tell(progress, text):
        write(progress, text)
        told.set()

    def answer_late(method, path):
        assert told.wait(20)
        return answer(method, path)

    monkeypatch.setattr(Progress, "_write", write_and_tell)
    monkeypatch.setattr(node, "answer_for", answer_late)
    said = hearth(*verb)
    assert said.code == 0
    assert said.err.splitlines()[0] == f"waiting for {node.url} …"


def test_list_is_a_plain_table_in_a_pipe(hearth, node):
    node.on("GET", "/functions", functions=[FUNCTION])
    header, row = hearth("list").out.splitlines()
    assert header.split() == [
        "NAME",
        "VERSION",
        "RUNTIME",
        "CONTRACT",
        "MODE",
        "INSTANCES",
        "UPDATED",
    ]
    assert row.split()[:6] == ["hello", "1.0.0", "python3.11", "handler", "process", "3"]


@pytest.mark.parametrize(
    ("verb", "path", "said"),
    [
        (["list"], "functions", "hearth new"),
        (["invocations"], "invocations", "no such calls"),
        (["key", "list"], "keys", "may do everything"),
    ],
)
def test_where_there_is_nothing_to_list_stderr_says_so(hearth, node, verb, path, said):
    node.on("GET", f"/{path}", **{path: []})
    outcome = hearth(*verb)
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 1)
    assert said in outcome.err
    assert hearth(*verb, "-o", "json").err == ""


def test_json_is_what_the_api_said(hearth, node):
    node.on("GET", "/functions", functions=[FUNCTION])
    assert hearth("list", "-o", "json").json == {"functions": [FUNCTION]}


def test_the_key_is_sent_as_a_bearer_token(hearth, node, monkeypatch):
    node.on("GET", "/functions", functions=[])
    hearth("list", "--key", "hearth_a_b")
    monkeypatch.setenv("HEARTH_KEY", "hearth_c_d")
    hearth("list")
    sent = [seen.headers["authorization"] for seen in node.seen]
    assert sent == ["Bearer hearth_a_b", "Bearer hearth_c_d"]


def test_describe_shows_nested_fields_and_lists(hearth, node):
    node.on("GET", "/functions/hello", **FUNCTION)
    lines = hearth("describe", "hello").out.splitlines()
    assert any(line.split() == ["limits.timeout_s", "30"] for line in lines)
    assert any(line.split() == ["of", "this"] for line in lines)
    assert any("no effect yet" in line for line in lines)


def test_invocations_are_filtered_by_the_node(hearth, node):
    node.on("GET", "/invocations", invocations=[RECORD])
    outcome = hearth("invocations", "hello", "--status", "failed", "--limit", 5)
    assert node.seen[0].path == "/invocations?function=hello&status=failed&limit=5"
    assert "hello@3" in outcome.out
    assert "1.50 ms" in outcome.out
    assert "Crashed: exit code 3" in outcome.out


def test_names_cannot_change_the_path(hearth, node):
    hearth("describe", "../keys?x=1")
    assert node.seen[0].path == "/functions/..%2Fkeys%3Fx%3D1"


def test_rm_says_what_is_gone(hearth, node):
    node.on("DELETE", "/functions/hello", id="1", name="hello", removed=True)
    assert hearth("rm", "hello").out == "removed hello\n"


def test_logs_are_printed_line_by_line(hearth, node):
    lines = [
        {"time": 0.0, "stream": "stdout", "text": "one\n", "id": "ab" * 16},
        {"time": 1.0, "stream": "stderr", "text": "two"},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    node.on("GET", "/functions/hello/logs", body=body)
    outcome = hearth("logs", "hello", "-f")
    assert node.seen[0].path == "/functions/hello/logs?tail=20&follow=1"
    assert node.seen[0].headers["accept"] == "application/x-ndjson"
    assert [line.split()[-1] for line in outcome.out.splitlines()] == ["one", "two"]
    assert outcome.out.split()[1] == lines[0]["id"], "it can be given to --id as it is"
    as_json = hearth("logs", "hello", "-o", "json").out.splitlines()
    assert [json.loads(line) for line in as_json] == lines


def test_logs_of_one_call_need_no_name(hearth, node):
    node.on("GET", f"/invocations/{RECORD['id']}/logs")
    assert hearth("logs", "--id", RECORD["id"]).code == 0


def test_what_a_function_wrote_cannot_command_the_terminal(hearth, node):
    line = {"time": 0, "stream": "stdout", "text": "\x1b]0;owned\x07\x9b2J\u202e"}
    node.on("GET", "/functions/hello/logs", body=json.dumps(line).encode())
    out = hearth("logs", "hello").out
    assert "owned" in out
    assert not set(out) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "BadInput", 2),
        (403, "Forbidden", 3),
        (404, "NotFound", 4),
        (409, "Conflict", 5),
        (429, "QueueFull", 6),
        (503, "NoCapacity", 6),
        (504, "Timeout", 11),
        (500, "SomethingNew", 1),
    ],
)
def test_an_error_of_the_node_is_one_line_with_the_exit_code_of_its_class(
    hearth, node, status, kind, code
):
    node.fails("GET", "/functions", status, type=kind, message="it is\nso", limit="timeout=3s")
    outcome = hearth("list")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err == "hearth: it is so [timeout=3s]\n"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("timeout: '5y' is not a duration", "timeout: '5y' is not a duration"),
        ("Expected `str`, got `int`", "timeout: Expected `str`, got `int`"),
    ],
)
def test_what_is_wrong_in_a_declaration_is_named_once(hearth, node, message, said):
    node.fails("GET", "/functions", 400, type="BadInput", message=message, path="$.timeout")
    assert hearth("list").err == f"hearth: {said}\n"


def test_a_missing_key_is_said_with_what_to_set(hearth, node):
    node.fails("GET", "/functions", 401, type="Unauthenticated", message="send Authorization")
    outcome = hearth("list")
    assert outcome.code == 3
    assert "HEARTH_KEY" in outcome.err


def test_an_answer_that_is_no_hearth_is_said_so(hearth, node):
    node.on("GET", "/functions", 502, body=b"<html>bad gateway")
    assert "unexpected answer 502: <html>bad gateway" in hearth("list").err
    node.on("GET", "/functions", 200, body=b"<html>")
    assert "is that URL a Hearth node?" in hearth("list").err


def test_a_connection_that_breaks_is_one_line(hearth, node):
    node.on(
        "GET", "/functions", body=b"x", headers={"Content-Length": "100", "Connection": "close"}
    )
    outcome = hearth("list")
    assert outcome.code == 8
    assert outcome.err.count("\n") == 1


def test_a_new_keys_secret_is_all_that_is_printed_on_stdout(hearth, node):
    node.on("POST", "/keys", 201, id="a", name="ci", secret="hearth_a_b", scopes=["admin"])
    outcome = hearth("key", "create", "ci", "--scope", "admin", "--scope", "invoke")
    assert outcome.out == "hearth_a_b\n"
    assert "HEARTH_KEY" in outcome.err
    assert node.seen[0].json == {"name": "ci", "scopes": ["admin", "invoke"]}


def test_keys_are_listed_and_removed(hearth, node):
    key = {"id": "a1", "name": "ci", "scopes": ["admin", "invoke"], "created_at": 0}
    node.on("GET", "/keys", keys=[key])
    node.on("DELETE", "/keys/a1")
    assert "admin invoke" in hearth("key", "list").out
    assert hearth("key", "rm", "a1").out == "removed a1\n"
    assert hearth("key", "rm", "a1", "-o", "json").json == {"id": "a1", "removed": True}


# --- invoke ------------------------------------------------------------------------------------


def test_invoke_prints_the_answer_as_it_is(hearth, node):
    node.on("GET", "/function/hello/", body=b'{"a":1}')
    outcome = hearth("invoke", "hello")
    assert (outcome.code, outcome.out, outcome.err) == (0, '{"a":1}', "")


def test_invoke_sends_json_to_a_path_with_headers(hearth, node):
    node.on("PATCH", "/function/hello/items")
    arguments = ["--path", "items?limit=3", "--method", "patch", "-H", "X-A: b: c"]
    assert hearth("invoke", "hello", "-d", '{"x": 1}', *arguments).code == 0
    (seen,) = node.seen
    assert seen.path == "/function/hello/items?limit=3"
    assert seen.json == {"x": 1}
    assert seen.headers["x-a"] == "b: c"
    assert seen.headers["content-type"] == "application/json"


def test_invoke_sends_a_file_and_standard_input_byte_for_byte(hearth, node, tmp_path, monkeypatch):
    node.on("POST", "/function/hello/")
    data = bytes(range(256))
    (tmp_path / "x.png").write_bytes(data)
    assert hearth("invoke", "hello", "-f", "x.png").code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert hearth("invoke", "hello", "-").code == 0
    assert [seen.body for seen in node.seen] == [data, data]
    assert node.seen[0].headers["content-type"] == "image/png"


def test_invoke_async_prints_the_id(hearth, node):
    headers = {"X-Call-Id": "abc"}
    node.on("POST", "/async-function/hello/", 202, headers=headers, id="abc")
    assert hearth("invoke", "hello", "--async").out == "abc\n"


def test_invoke_as_json_tells_what_is_known_of_the_call(hearth, node):
    headers = {"X-Call-Id": "abc", "X-Cold-Start": "1", "X-Duration-Seconds": "0.5"}
    node.on("GET", "/function/hello/", body=b"\xff", headers=headers)
    said = hearth("invoke", "hello", "-o", "json").json
    assert (said["id"], said["cold_start"], said["duration_s"]) == ("abc", True, 0.5)
    assert said["body_base64"] == "/w=="


def test_a_functions_own_error_answer_is_printed_with_exit_code_10(hearth, node):
    node.on("GET", "/function/hello/", 418, body=b"teapot")
    outcome = hearth("invoke", "hello")
    assert (outcome.code, outcome.out) == (10, "teapot")
    assert "418" in outcome.err


def test_a_failed_call_shows_the_functions_stack(hearth, node):
    stack = 'Traceback\n  File "handler.py", line 2'
    node.fails("GET", "/function/hello/", 502, type="RuntimeError", message="boom", stack=stack)
    outcome = hearth("invoke", "hello")
    assert outcome.code == 10
    assert outcome.err == f"hearth: boom\n{stack}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-d", "{"], "-d takes JSON"),
        (["-d", "1", "-f", "x"], "one of"),
        (["{}"], "to send JSON: -d JSON"),
        (["--frob"], "--frob"),
        (["-f", "gone"], "gone: No such file"),
        (["-H", "nothing"], "not a header"),
        (["-H", "A: b\r\nEvil: c"], "cannot be sent"),
        (["--path", "/a b"], "percent-encoded"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_before_it_is_sent(hearth, node, arguments, said):
    outcome = hearth("invoke", "hello", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert node.seen == []
